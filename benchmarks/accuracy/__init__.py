"""Accuracy of score estimators on densities whose score is known."""
