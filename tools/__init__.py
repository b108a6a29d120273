"""Tools of developers: GPU checks, resources of CUDA kernels, wheels, mutations, figures."""
