"""What scaler reads and changes of a torch model."""
