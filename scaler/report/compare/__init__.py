"""Several runs side by side: what differs in their jobs, which numbers moved, and whether by more than chance."""
