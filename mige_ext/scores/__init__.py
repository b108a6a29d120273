"""Estimators of the score ∇ log q of a density q that is known only through samples."""
