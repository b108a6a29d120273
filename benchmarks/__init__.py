"""Benchmarks of mige_ext; see README.md here."""
