"""Tasks: small versions of what people train with gradients of information and entropy."""
