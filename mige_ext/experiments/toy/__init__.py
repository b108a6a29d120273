"""Correlated Gaussians: the paper's Figure 1."""
