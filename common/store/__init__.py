"""Keeps the study's networks and numbers: names, records, states, locks, populations, tables."""
