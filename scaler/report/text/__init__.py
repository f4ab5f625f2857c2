"""What every text is made of: numbers, tables, curves and Markdown."""
