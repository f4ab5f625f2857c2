"""Comparison of runs: how their jobs differ, which numbers differ, and whether by more than chance."""
