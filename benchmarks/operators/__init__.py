"""Microbenchmarks of the native operators: time, baselines, roofline."""
