"""The experiments, with a package and a command for each."""
