"""A learning-rate range test: its result, as text and as a page."""
