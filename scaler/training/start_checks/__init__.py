"""What is checked before the first step of an attempt."""
