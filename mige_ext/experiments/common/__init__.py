"""The common parts of the experiments: training, checkpoints, folders, tables, figures."""
