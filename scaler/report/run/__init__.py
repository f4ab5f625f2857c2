"""One run: what is read from its folder, and its report as text, Markdown, HTML and JSON."""
