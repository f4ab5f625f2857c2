"""What every HTML page is made of: the shell, styles, charts and tables."""
