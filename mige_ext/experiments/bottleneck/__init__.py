"""The Information Bottleneck on images: the paper's Table 2."""
