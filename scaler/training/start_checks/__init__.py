"""Checks before the first step of an attempt."""
