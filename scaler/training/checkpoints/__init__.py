"""Checkpoints: the saved state, its files, and when it is written."""
