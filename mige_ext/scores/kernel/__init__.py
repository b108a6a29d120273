"""Kernel score estimators: kernels, Gram matrices, solvers, and one file for each filter."""
