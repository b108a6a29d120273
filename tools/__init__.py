"""Gates that developers run: a check on a GPU, and the CUDA kernels' resources."""
