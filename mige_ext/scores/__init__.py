"""Score estimators: the score ∇ log q of a density known only through samples."""
