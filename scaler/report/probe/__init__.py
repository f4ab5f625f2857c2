"""The report of a probe: how far the batch of a training can grow."""
