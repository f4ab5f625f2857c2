"""What a worker measures in one step: its schema, its writer, its reader."""
