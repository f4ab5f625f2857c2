"""The gradient of a step over all workers and micro-steps."""
