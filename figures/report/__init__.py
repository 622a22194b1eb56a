"""Writes the report of a data set from stored arrays only, without torch or training."""
