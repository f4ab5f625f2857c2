"""``scaler compare``."""

import json
from pathlib import Path

import click

from scaler.cli.options import storage_option, write_page
from scaler.cli.paths import UserPath
from scaler.cli.terminal import show


@click.command("compare")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Write HTML to FILE.")
def command(runs: tuple[str, ...], storage: str, as_json: bool, as_markdown: bool, html_path: Path | None) -> None:
    """Compare runs, and show which differences exceed the noise.

    Each RUN is a run's id, its folder or URI, or: last. Runs whose jobs differ only in seed, name, storage and tracking
    are repeats and form one arm. The other arms are compared with the arm of the first run. The noise is measured from
    repeats; to make one: scaler submit JOB --set train.seed=1.
    """
    from scaler.api.compare import compare

    comparison = compare(*runs, storage=storage)
    if html_path is not None:
        from scaler.report.compare.html import render_comparison_html

        write_page(html_path, render_comparison_html(comparison))
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=1, allow_nan=False))
    elif as_markdown:
        from scaler.report.compare.markdown import render_comparison_markdown

        click.echo(render_comparison_markdown(comparison), nl=False)
    elif html_path is None:
        from scaler.report.compare.text import comparison_text

        show(comparison_text(comparison))
