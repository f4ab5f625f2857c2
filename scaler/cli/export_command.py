"""``scaler export``."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from scaler.cli.options import job_options, workers_option, write_file
from scaler.errors import JobFileError

KIND_NAMES = ("docker", "compose", "kuberay", "raycluster", "aws", "gcp", "slurm", "skypilot")
DEFAULT_FOLDER = "deploy"  # in the job's folder
_NEW_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}(?![0-9a-f])")  # the end of the id of a new run


@click.command("export")
@click.argument("kind", metavar="KIND", type=click.Choice(KIND_NAMES))
@job_options
@workers_option
@click.option("--run-id", metavar="ID", help="Id of the run that the files start or resume. Default: a new one.")
@click.option("--image", metavar="IMAGE", help="Container image. Default: the job's name.")
@click.option("--memory", type=click.IntRange(min=1), metavar="GIB", help="Memory of each worker. Default: 4.")
@click.option(
    "--workers-per-node", type=click.IntRange(min=1), metavar="N", help="Default: 1, or all that share a GPU."
)
@click.option("--instance-type", metavar="TYPE", help="Cloud machine of a node. Default: the smallest that fits.")
@click.option("--queue", metavar="NAME", help="Kueue's local queue, or Slurm's partition.")
@click.option("--overwrite", is_flag=True, help="Replace files that have another content, such as edited ones.")
@click.option("--output", metavar="DIR|-", help="Folder for the files; -: print them. Default: deploy in JOB's folder.")
def command(
    kind: str,
    job_path: Path,
    overrides: tuple[str, ...],
    workers: int | None,
    run_id: str | None,
    image: str | None,
    memory: int | None,
    workers_per_node: int | None,
    instance_type: str | None,
    queue: str | None,
    overwrite: bool,
    output: str | None,
) -> None:
    """Write the files that run a job in containers or on a cluster.

    KIND is docker (an image), compose (containers on one machine), kuberay (a RayJob), raycluster (a RayCluster), aws
    or gcp (Ray's cluster launcher), slurm or skypilot.
    """
    from scaler.export import KINDS, Place, Sources, export_job
    from scaler.export.wheel import CONSTRAINTS, constraints, wheel_name, write_wheel
    from scaler.job import load_job
    from scaler.runs.find import require_run_id
    from scaler.runs.folder import new_run_id

    job = load_job(job_path, overrides=overrides, workers=workers)
    run_id = new_run_id(job.name, datetime.now(UTC)) if run_id is None else run_id
    require_run_id(run_id)
    options = {
        "--workers": workers,
        "--run-id": run_id,
        "--image": image,
        "--memory": memory,
        "--workers-per-node": workers_per_node,
        "--instance-type": instance_type,
        "--queue": queue,
    }
    folder = job_path.parent
    out = folder / DEFAULT_FOLDER if output in (None, "-") else Path(os.path.expanduser(str(output)))
    requirements = folder / "requirements.txt"
    exported = export_job(
        kind,
        job,
        Place(
            run_id=run_id,
            image=image,
            memory_gib=memory,
            workers_per_node=workers_per_node,
            instance_type=instance_type,
            queue=queue,
        ),
        Sources(
            folder=str(folder.absolute() if kind == "slurm" else folder),
            job_file=job_path.name,
            out=str(out),
            docker=str(folder / DEFAULT_FOLDER),
            context=str(folder),
            wheel=str(out / wheel_name()),
            constraints=str(out / CONSTRAINTS),
            requirements=str(requirements) if requirements.exists() else None,
            bin=str(Path(sys.executable).parent),
            python=platform.python_version(),
        ),
        overrides=overrides,
        workers=workers,
        as_typed=_as_typed(kind, job_path, overrides, options),
    )
    if output == "-":
        click.echo(next(iter(exported.files.values())), nl=False)
    else:
        files = {**exported.files, **({CONSTRAINTS: constraints()} if KINDS[kind].installs else {})}
        if not overwrite:
            _require_not_edited(out, files)
        try:
            out.mkdir(parents=True, exist_ok=True)
            if KINDS[kind].installs:
                write_wheel(out)
        except OSError as error:
            raise JobFileError(
                f"{out}: cannot be written: {error.strerror}.", "Give a folder that can be written."
            ) from error
        for name, text in files.items():
            write_file(out / name, text)
        for name in exported.files:
            click.echo(str(out / name))
    for notice in exported.notices:
        click.echo(notice, err=True)
    click.echo("Next:", err=True)
    for line in exported.next:
        click.echo(f"  {line}", err=True)
    if exported.end:
        click.echo(f"At the end:\n  {exported.end}", err=True)


def _require_not_edited(out: Path, files: Mapping[str, str]) -> None:
    """Refuse to replace files that differ from the new ones in more than the time in the id of a new run.

    Raises:
        JobFileError: names the files.
    """
    edited = [name for name, text in files.items() if _is_other(out / name, text)]
    if edited:
        raise JobFileError(
            f"in {out}, files have another content than this export: {', '.join(edited)}.",
            "--overwrite replaces them; --output DIR writes into another folder.",
        )


def _is_other(path: Path, text: str) -> bool:
    try:
        there = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, UnicodeDecodeError):
        return True
    if len(set(_NEW_ID.findall(there))) > 1:  # a person has typed another run's id into the file
        return there != text
    return _NEW_ID.sub("", there) != _NEW_ID.sub("", text)


def _as_typed(kind: str, job_path: Path, overrides: Sequence[str], options: Mapping[str, object]) -> str:
    """Return the command that writes the same files again."""
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    changes = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["scaler", "export", kind, str(job_path), *changes, *given])
