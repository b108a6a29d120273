"""Kernel score estimators: kernels, Gram products, spectral filters and their solvers."""
