"""Fill in the files of a cluster for one job."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scaler.export.deployment import Place, is_remote
from scaler.export.kinds import KINDS
from scaler.export.values import Sources, inside, values_of
from scaler.job import Job

KUBERNETES = ("kuberay", "raycluster")


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """The files for one job.

    Args:
        files: name -> text; the first is the one that is used.
        next: the commands to type, from nothing to clean-up.
        notices: what the files assume, and what is to be filled in; sentences.
    """

    files: Mapping[str, str]
    next: Sequence[str]
    notices: Sequence[str]


def export_job(
    kind: str,
    job: Job,
    place: Place,
    sources: Sources,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    as_typed: str,
) -> Export:
    """Return the files that run a job on a kind of cluster.

    Args:
        kind: a key of ``KINDS``.
        job: the job, with its overrides.
        place: what the job does not say about the cluster.
        sources: where the job, scaler and the files are.
        overrides: ``key.key=value`` texts that ``job`` has and the job file does not.
        workers: number of workers that ``job`` has and the job file does not; None: the job file's.
        as_typed: the command that writes the files again; their first line.

    Raises:
        JobFileError: the job cannot run there, because its storage is a folder that the machines do not share, or its
            workers fit no machine.
    """
    values = values_of(kind, job, place, sources, overrides=overrides, workers=workers)
    commands = [sources.make_wheel] if sources.make_wheel and KINDS[kind].installs else []
    commands += filter(None, (line.format_map(values) for line in KINDS[kind].next))
    values["header"] = "\n".join([f"# Written by: {as_typed}", "#", *(f"#   {line}" for line in commands)])
    if kind == "docker":
        values |= _in_build(sources, values)
    if kind in KUBERNETES:
        values["cluster_spec"] = _text("raycluster_spec.yaml.j2", values).rstrip()
    files = {name: _text(template, values) for name, template in KINDS[kind].files.items()}
    return Export(files=files, next=commands, notices=_notices(kind, job, place, values, "".join(files.values())))


def _in_build(sources: Sources, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paths of the Dockerfile, which are relative to the folder that ``docker build`` sends."""
    folder = inside(sources, sources.folder)
    return {
        "constraints": inside(sources, sources.constraints),
        "job_folder": folder,
        "left_out": [os.path.normpath(os.path.join(folder, path)) for path in values["runs_below"]],
        "requirements": sources.requirements and inside(sources, sources.requirements),
        "wheel": inside(sources, sources.wheel),
    }


def _notices(kind: str, job: Job, place: Place, values: Mapping[str, Any], text: str) -> list[str]:
    """Return what the files assume, and what is to be filled in."""
    is_elastic = values["nodes"].min != values["nodes"].max
    notices = []
    if kind in KUBERNETES and place.image is None:
        notices.append(f"The cluster pulls the image {values['image']}. Name it in a registry: --image REGISTRY/NAME.")
    if kind in KUBERNETES and values["volume"]:
        notices.append(
            f"The runs are kept in the volume claim {values['claim']}, which needs a storage class with ReadWriteMany. "
            "--set storage=s3://BUCKET/PREFIX keeps them in a bucket."
        )
    if kind in KUBERNETES and values["secret"]:
        notices.append(f"The pods get the credentials of the storage from the secret {values['secret']}, if it exists.")
    if kind in KUBERNETES and values["queue"] and is_elastic:
        notices.append(f"With Kueue the cluster has {values['nodes'].max} nodes from the start: Kueue reserves them.")
    if kind == "slurm" and not is_remote(job.storage):
        notices.append(
            f"The runs are kept in {values['storage']}, which must be in a file system that all nodes share."
        )
    if not isinstance(job.resources.gpus_per_worker, float) and not values["nodes"].gpus:
        notices.append("The nodes have no GPU; --set resources.gpus_per_worker=1 gives one to each worker.")
    if kind == "compose" and values["nodes"].gpus:
        notices.append("All workers run in one container, which has all GPUs that they need.")
    if kind == "skypilot" and is_elastic:
        notices.append(f"SkyPilot starts a fixed number of nodes: {values['nodes'].max}.")
    fields = sorted(set(re.findall(r"FILL-IN-[A-Z0-9-]*[A-Z0-9]", text)))
    if fields:
        notices.append(f"To fill in before use: {', '.join(fields)}.")
    return notices


def _text(template: str, values: Mapping[str, Any]) -> str:
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("scaler.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = shlex.quote
    return environment
