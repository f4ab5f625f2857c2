"""The order of the samples, and their batches on a device."""
