"""Gradients of I(s; z) for a category s, compared with the exact gradients of mixtures."""
