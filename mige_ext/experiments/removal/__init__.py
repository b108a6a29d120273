"""Removal of a nuisance from a representation."""
