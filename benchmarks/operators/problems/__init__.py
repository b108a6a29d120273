"""One file an operator: its sizes, its work and its baselines."""
