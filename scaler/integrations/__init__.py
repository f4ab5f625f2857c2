"""Callbacks that make a training with Lightning, Transformers or accelerate a run of scaler.

Each module imports its library; none of them is loaded before it is asked for.
"""
