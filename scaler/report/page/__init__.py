"""The kit of all HTML pages: shell, style sheets, scripts, charts, tables and tiles."""
