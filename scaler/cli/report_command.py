"""``scaler report``."""

import json
import tempfile
import webbrowser
from pathlib import Path

import click

from scaler.cli.options import cluster_option, run_argument, storage_option, write_file, write_page
from scaler.cli.paths import UserPath
from scaler.cli.terminal import err, show


@click.command("report")
@run_argument
@storage_option
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Write HTML to FILE.")
@click.option(
    "--open", "in_browser", is_flag=True, help="Open the report in a browser: FILE of --html, or a temporary file."
)
def command(
    run: str,
    storage: str,
    address: str | None,
    as_json: bool,
    as_markdown: bool,
    html_path: Path | None,
    in_browser: bool,
) -> None:
    """Show the report of a run.

    RUN is a run's id, its folder or URI, or: last.
    """
    from scaler.api.find import readable_run
    from scaler.notebook import read_run

    report = read_run(readable_run(run, storage=storage, address=address).uri).report
    if in_browser and html_path is None:
        html_path = Path(tempfile.mkdtemp(prefix="scaler-")) / "report.html"
    if html_path is not None:
        from scaler.report.run.html import render_html

        write = write_file if in_browser else write_page  # what opens the page names it, too
        write(html_path, render_html(report))
    if in_browser and html_path is not None:
        _open(html_path.resolve())
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    elif as_markdown:
        from scaler.report.run.markdown import render_markdown

        click.echo(render_markdown(report), nl=False)
    elif html_path is None:
        from scaler.report.run.text import report_text

        show(report_text(report))


def _open(page: Path) -> None:
    """Open a page in the default browser, or in the one that ``BROWSER`` names."""
    text = "Opened" if webbrowser.open(page.as_uri()) else "No browser was found. The page is"
    err().print(f"{text}: {page}", soft_wrap=True)
