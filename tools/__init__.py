"""Checks that developers run: tests on a GPU, resources of CUDA kernels, wheels, mutations."""
