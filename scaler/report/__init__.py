"""Reading a run: its numbers, what they mean, and several ways to show them. No renderer computes."""
