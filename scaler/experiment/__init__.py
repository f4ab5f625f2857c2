"""Experiments: a matrix over one job, the runs of its cells, and what they show."""
