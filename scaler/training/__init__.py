"""The training loop and its parts: torch, no Ray."""
