"""Stores networks and results: file names, records, training states, locks, populations, tables."""
