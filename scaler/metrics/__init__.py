"""A run's records and events: their definitions, their files, their writer and reader, and the trackers."""
