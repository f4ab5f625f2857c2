"""``scaler export-model``."""

from pathlib import Path
from typing import Any

import click

from scaler.cli.options import cluster_option, run_argument, storage_option
from scaler.cli.paths import UserPath


@click.command("export-model")
@run_argument
@click.argument("file", metavar="[FILE]", required=False, type=UserPath())
@click.option(
    "--format",
    type=click.Choice(["torch", "safetensors"]),
    help="Format of FILE. Default: by the end of its name: .pt, .pth, .bin or .safetensors. Needed without FILE.",
)
@click.option(
    "--which",
    default="last",
    show_default=True,
    metavar="W",
    help="Checkpoint: last, best (of checkpoint.best), or the number of samples at which one was written.",
)
@click.option(
    "--ema/--raw",
    default=None,
    help="The moving average of the weights, or the weights of the last step. Default: the average if the job has "
    "train.ema; with best, those that the best value is of.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@storage_option
@cluster_option
def command(
    run: str,
    file: Path | None,
    format: Any,
    which: str,
    ema: bool | None,
    overwrite: bool,
    storage: str,
    address: str | None,
) -> None:
    """Write the weights of a run to a file, with a model card.

    RUN is a run's id, its folder or URI, or: last. The names in FILE are those of the model that the recipe builds. The
    card has the same name as FILE, with the end .md. Without FILE, both have the run's id as their name, in the current
    folder.

    export-checkpoint is another name of this command.
    """
    from scaler.api.export_model import export_model
    from scaler.api.find import readable_run
    from scaler.report.text.format import plural
    from scaler.training.checkpoints.choose import parse_which

    found = readable_run(run, storage=storage, address=address)
    exported = export_model(found.uri, file, format=format, which=parse_which(which), ema=ema, overwrite=overwrite)
    kind = "moving average of the weights" if exported.is_average else "weights of the last step"
    click.echo(f"Run {found.run_id}: {kind}, after {plural(exported.samples_seen, 'sample')}", err=True)
    click.echo(str(exported.file))
    click.echo(str(exported.card))
