"""Checkpoints: the saved state, its files, and the thread that writes them."""
