"""Write a run's report into its folder."""

import json

from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.runs import RunFolder


def write_report(folder: RunFolder) -> Report:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a run's folder, and return the report."""
    report = read_report(folder)
    folder.write("report.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    folder.write("report.md", render_markdown(report))
    folder.write("report.html", render_html(report))
    return report
