"""Evaluation over all workers."""
