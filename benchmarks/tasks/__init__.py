"""Comparison of estimators in small training tasks with gradients of information and entropy."""
