"""The report of a data set, from its stored arrays alone: no torch, no training."""
