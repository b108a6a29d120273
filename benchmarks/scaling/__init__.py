"""Time, memory and error of scores for growing numbers of samples, dimensions and groups."""
