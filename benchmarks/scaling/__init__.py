"""Time, memory and error of scores as the number of samples, dimensions and groups grows."""
