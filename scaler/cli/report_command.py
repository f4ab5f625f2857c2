"""``scaler report``."""

import json
from pathlib import Path

import click

from scaler.cli.options import storage_option
from scaler.cli.terminal import show
from scaler.runs import find_run


@click.command("report")
@click.argument("run", metavar="RUN")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), metavar="FILE", help="Write HTML to FILE.")
def command(run: str, storage: str, as_json: bool, as_markdown: bool, html_path: Path | None) -> None:
    """Report on a run.

    RUN is a run's id, its folder or URI, or: last.
    """
    from scaler.report.write import read_report

    report = read_report(find_run(run, storage=storage))
    if html_path is not None:
        from scaler.report.html import render_html

        html_path.write_text(render_html(report))
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    elif as_markdown:
        from scaler.report.markdown import render_markdown

        click.echo(render_markdown(report), nl=False)
    elif html_path is None:
        from scaler.report.text import report_text

        show(report_text(report))
