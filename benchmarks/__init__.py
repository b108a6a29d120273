"""Benchmarks of mige_ext. README.md has the commands and the results."""
