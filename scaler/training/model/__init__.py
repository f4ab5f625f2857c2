"""What scaler reads and changes in a torch model."""
