"""The values that the templates are filled in with."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from scaler.errors import JobFileError
from scaler.export.deployment import (
    HOME,
    RUNS,
    Place,
    extras_of,
    is_remote,
    kubernetes_name,
    nodes_of,
    submit_command,
)
from scaler.export.kinds import KINDS
from scaler.export.machines import DEFAULT_GPU, choose_machine
from scaler.job import Job, apply_overrides
from scaler.masking import mask_text, mask_values

MAX_RAYJOB, MAX_RAYCLUSTER = 47, 53  # characters of a name that KubeRay accepts
CREDENTIALS = {
    "s3": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"],
    "az": ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"],
}
UV = "~/.local/bin/uv"  # makes an environment with the right Python on a machine that has another one
JOB_ON_MACHINE = {"aws": "job/", "gcp": "job/"}  # relative to where commands are typed there


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where things are, as paths from the folder in which the commands are typed.

    Args:
        folder: the job's folder.
        job_file: name of the job file in it.
        out: the folder that gets the files.
        docker: the folder that has or gets the ``Dockerfile``.
        context: the folder that ``docker build`` sends; the folders and files below are in it.
        wheel: scaler's wheel.
        constraints: pip's constraints file: the versions to install.
        requirements: the recipe's requirements for pip; None: none.
        bin: the folder with the ``python`` that has scaler; on machines that share file systems.
        python: the version of Python, such as ``3.11.14``.
        make_wheel: the command that makes the wheel; None: the wheel is written with the files that use it.
    """

    folder: str
    job_file: str
    out: str
    docker: str
    context: str
    wheel: str
    constraints: str
    requirements: str | None = None
    bin: str
    python: str
    make_wheel: str | None = None


def values_of(
    kind: str, job: Job, place: Place, sources: Sources, *, overrides: Sequence[str], workers: int | None
) -> dict[str, Any]:
    """Return the values of a kind's templates and commands; arguments and errors as in ``export_job``."""
    _require_no_secret(overrides)
    is_uri = is_remote(job.storage)
    if not is_uri and KINDS[kind].storage == "uri":
        raise JobFileError(
            f"storage = {job.storage} is a folder, and the machines of {kind} share none.",
            f"Give a URI: --set storage={'gs' if kind == 'gcp' else 's3'}://BUCKET/PREFIX.",
        )
    has_volume = KINDS[kind].storage == "volume" and not is_uri
    storage = job.storage
    local = Job.model_fields["storage"].default if is_uri else job.storage  # runs of this machine are not sent
    if "://" not in storage:
        storage = os.path.normpath(os.path.join(sources.folder, os.path.expanduser(storage)))
    name = kubernetes_name(job.name, longest=MAX_RAYJOB)
    as_object = (
        kubernetes_name(place.run_id, longest=MAX_RAYJOB)
        if kind == "kuberay"
        else kubernetes_name(job.name, longest=MAX_RAYCLUSTER)
    )
    commands = _commands(kind, place, sources, overrides=overrides, workers=workers, has_volume=has_volume)
    report = f"scaler report {place.run_id} --storage {shlex.quote(mask_text(storage))}"
    if has_volume:  # of the kinds with a volume, only compose has one that can be read from outside
        report = f"docker compose --file {commands['file']} cp head:{RUNS} ." if kind == "compose" else ""
    return {
        **commands,
        **_nodes(kind, job, place),
        **_software(kind, job, sources),
        "claim": f"{name}-runs",
        "credentials": CREDENTIALS.get(job.storage.partition("://")[0], []) if is_uri else [],
        "home": HOME,
        "image": place.image or name,
        "name": name,
        "object": as_object,
        "queue": place.queue,
        "report": report,
        "run_id": place.run_id,
        "runs": RUNS,
        "runs_below": [local] if not local.startswith(("/", "~", "..", "file:", "local:")) else [],
        "secret": f"{name}-storage" if is_uri else None,
        "storage": storage,
        "volume": has_volume,
    }


def _require_no_secret(overrides: Sequence[str]) -> None:
    """Refuse a ``--set`` with a secret: the files would have it as it was typed."""
    for override in overrides:
        given = apply_overrides({}, [override])
        if mask_values(given) != given:
            raise JobFileError(
                f"--set {override.partition('=')[0]}=... is a secret, which would be in the files.",
                "Give it to the recipe in an environment variable.",
            )


def inside(sources: Sources, path: str) -> str:
    """Return a path relative to the folder that ``docker build`` sends.

    Raises:
        JobFileError: it is outside.
    """
    relative = os.path.relpath(path, sources.context)
    if relative.startswith(".."):
        raise JobFileError(
            f"{path} is outside {sources.context}, the folder that docker build sends.",
            f"Such as --output {shlex.quote(os.path.join(sources.context, 'deploy'))}.",
        )
    return relative


def _commands(
    kind: str, place: Place, sources: Sources, *, overrides: Sequence[str], workers: int | None, has_volume: bool
) -> dict[str, Any]:
    """Return the command that submits the job, in its forms, and the paths that commands name."""
    changes = [change for change in overrides if not (has_volume and change.startswith("storage="))]
    changes += [f"storage={RUNS}"] if has_volume else []
    job_folder = f"{HOME}/job/" if KINDS[kind].storage == "volume" else JOB_ON_MACHINE.get(kind, "")

    def submit(job_file: str, address: str | None) -> list[str]:
        return submit_command(job_file, address=address, run_id=place.run_id, overrides=changes, workers=workers)

    command = submit(job_folder + sources.job_file, "auto")
    on_machine = shlex.join(["scaler/bin/python", *command[1:]])
    return {
        "alone": submit(sources.job_file, None),
        "command": command,
        "command_line": shlex.join(command),
        "command_quoted": shlex.quote(on_machine),
        "context": shlex.quote(sources.context),
        "dockerfile": shlex.quote(os.path.join(sources.docker, "Dockerfile")),
        "file": shlex.quote(os.path.join(sources.out, next(iter(KINDS[kind].files)))),
        "folder": sources.folder,
        "prepare": sources.make_wheel or _docker_command(sources.folder, overrides),
    }


def _docker_command(folder: str, overrides: Sequence[str]) -> str:
    """Return the command that writes the image's files; the image depends on the storage, the GPUs and the tracking."""
    return shlex.join(["scaler", "export", "docker", folder, *(part for each in overrides for part in ("--set", each))])


def _nodes(kind: str, job: Job, place: Place) -> dict[str, Any]:
    """Return the nodes, and the machines of a cloud that hold them."""
    nodes = nodes_of(job, place, on_one_machine=kind == "compose")
    accelerator = job.resources.accelerator_type
    machine = None
    if kind in DEFAULT_GPU and place.instance_type is None:
        machine = choose_machine(
            kind, cpus=nodes.cpus, memory_gib=nodes.memory_gib, gpus=nodes.gpus, accelerator=accelerator
        )
    return {
        "accelerator": accelerator,
        "attach": machine.attach if machine else None,
        "autoscales": nodes.min != nodes.max and place.queue is None,
        "machine": machine.name if machine else place.instance_type,
        "nodes": nodes,
        "resources": f"--num-cpus={nodes.cpus} --num-gpus={nodes.gpus}",
    }


def _software(kind: str, job: Job, sources: Sources) -> dict[str, Any]:
    """Return the versions, and the commands that install scaler on a machine without a container."""
    wheel_name = PurePath(sources.wheel).name
    extras = extras_of(job)
    wanted = f"{wheel_name}[{','.join(extras)}]" if extras else wheel_name
    pip = f"{UV} pip install --python ~/scaler"
    install = [
        "curl -LsSf https://astral.sh/uv/install.sh | sh",
        f"{UV} venv --allow-existing --python {'.'.join(sources.python.split('.')[:2])} ~/scaler",
        f'{pip} --constraint ~/install/constraints.txt "$HOME/install/{wanted}"',
    ]
    if sources.requirements is not None:
        relative = os.path.relpath(sources.requirements, sources.folder)
        install.append(f"{pip} --requirement {JOB_ON_MACHINE.get(kind, '')}{relative}")
    return {
        "bin": sources.bin,
        "constraints": sources.constraints,
        "install": install,
        "pip": pip,
        "python": sources.python,
        "ray": version("ray"),
        "torch": version("torch").partition("+")[0],
        "wanted": wanted,
        "wheel": sources.wheel,
        "wheel_name": wheel_name,
    }
