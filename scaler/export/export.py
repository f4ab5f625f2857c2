"""Fill in the files of a cluster for one job."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scaler.export.deployment import Place, is_remote
from scaler.export.kinds import KINDS
from scaler.export.values import Sources, inside, values_of
from scaler.job import Job
from scaler.report.text.format import plural

KUBERNETES = ("kuberay", "raycluster")


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """The files for one job.

    Args:
        files: name -> text; the first is the one that is used.
        next: the commands to type, from nothing to the report.
        end: the command that ends the job and removes what it uses; empty: there is nothing to remove.
        notices: what the files assume, and what is to be filled in; sentences.
    """

    files: Mapping[str, str]
    next: Sequence[str]
    end: str
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
    end = KINDS[kind].end.format_map(values)
    last = ["#", "# At the end:", f"#   {end}"] if end else []
    values["header"] = "\n".join([f"# Written by: {as_typed}", "#", *(f"#   {line}" for line in commands), *last])
    if kind == "docker":
        values |= _in_build(sources, values)
    if kind in KUBERNETES:
        values["cluster_spec"] = _text("raycluster_spec.yaml.j2", values).rstrip()
    files = {name: _text(template, values) for name, template in KINDS[kind].files.items()}
    notices = _notices(kind, job, place, values, "".join(files.values()))
    return Export(files=files, next=commands, end=end, notices=notices)


def _in_build(sources: Sources, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paths of the Dockerfile, which are relative to the folder that ``docker build`` sends."""
    needed = [inside(sources, path) for path in (sources.constraints, sources.wheel)]
    folder, out = inside(sources, sources.folder), inside(sources, sources.out)
    is_in_job = out not in (folder, ".") and (folder == "." or out.startswith(f"{folder}/"))
    return {
        "constraints": inside(sources, sources.constraints),
        "job_folder": folder,
        "left_out": [os.path.normpath(os.path.join(folder, path)) for path in values["runs_below"]],
        "files_left_out": [f"{out}/*", *(f"!{path}" for path in needed)] if is_in_job else [],
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
    if kind == "slurm":
        notices += _slurm_notices(job, values)
    if not isinstance(job.resources.gpus_per_worker, float) and not values["nodes"].gpus:
        asks = "The image gets a torch for CPUs" if kind == "docker" else "The file asks for no GPU"
        notices.append(f"{asks}; --set resources.gpus_per_worker=1 gives one GPU to each worker.")
    if kind == "compose" and values["nodes"].gpus:
        notices.append("All workers run in one container, which has all GPUs that they need.")
    if kind == "skypilot" and is_elastic:
        notices.append(f"SkyPilot starts a fixed number of nodes: {values['nodes'].max}.")
    fields = sorted(set(re.findall(r"FILL-IN-[A-Z0-9-]*[A-Z0-9]", text)))
    if fields:
        notices.append(f"To fill in before use: {', '.join(fields)}.")
    return notices


def _slurm_notices(job: Job, values: Mapping[str, Any]) -> list[str]:
    nodes, most = values["nodes"], job.scale.max_workers
    count = plural(nodes.max, "node") if nodes.min == nodes.max else f"{nodes.min} to {nodes.max} nodes"
    each = ceil(most / nodes.max)
    return [
        f"The file asks for {count} with {plural(each, 'worker')} on each; --workers-per-node N puts N on a node.",
        "Its time limit is 24 h: change --time in the file to what the partition allows.",
        f"It uses the Python in {values['bin']} and the job in {values['folder']}: export it where the nodes' file "
        "systems are, such as on the login node.",
    ]


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
