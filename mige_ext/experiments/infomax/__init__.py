"""Unsupervised InfoMax on images: Table 1 of Wen et al. (ICLR 2020)."""
