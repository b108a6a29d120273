"""Unsupervised InfoMax on images: the paper's Table 1."""
