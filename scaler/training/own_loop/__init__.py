"""The parts of ``scaler.start``: they count the samples of a person's own loop, and write its learning rate."""
