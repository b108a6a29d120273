"""Benchmarks of mige_ext; README.md has the command and the results."""
