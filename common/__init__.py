"""What the eight scripts share: data, views, networks, losses, pruning, training, checkpoints, metrics and plots."""
