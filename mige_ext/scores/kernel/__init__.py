"""Kernel score estimators: kernels, Gram products, solvers, and one file for each filter."""
