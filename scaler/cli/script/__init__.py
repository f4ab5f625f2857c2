"""What ``scaler init --from`` shows: a training script is read with ``ast``, and never run."""
