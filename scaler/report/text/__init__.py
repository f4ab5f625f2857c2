"""Parts of all texts: numbers, tables, curves and Markdown."""
