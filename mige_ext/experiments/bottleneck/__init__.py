"""The Information Bottleneck on images: Table 2 of Wen et al. (ICLR 2020)."""
