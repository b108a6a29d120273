"""Correlated Gaussians: Figure 1 of Wen et al. (ICLR 2020)."""
