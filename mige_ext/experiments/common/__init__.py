"""What the experiments share: training, checkpoints, folders, tables, figures."""
