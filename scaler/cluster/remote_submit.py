"""Start a run on a Ray cluster over HTTP: send its job and code, and have Ray Jobs run its driver there."""

import getpass
import socket
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import scaler
from scaler.cluster.driver_python import driver_command
from scaler.cluster.jobs_client import JobsClient
from scaler.cluster.ray_jobs import STOP_WAIT_S, RemoteRun
from scaler.cluster.remote_package import not_sent_text, write_package
from scaler.cluster.runtime_env import merged_runtime_env
from scaler.errors import JobFileError, RunError
from scaler.job import Job
from scaler.job.runtime_env import RuntimeEnv, job_environment
from scaler.masking import mask_text
from scaler.runs import new_run_id
from scaler.runs.filesystems import inside
from scaler.training.recipe.lookup import require_function
from scaler.training.recipe.module import shipped_recipe

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"


def submit_remote(
    job: Job,
    *,
    recipe_folder: Path,
    job_name: str,
    address: str,
    run_id: str | None,
    options: tuple[str, ...] = (),
    on_notice: Callable[[str], None] = lambda notice: None,
) -> RemoteRun:
    """Start or resume a run on a cluster, and return it; its driver runs there, whatever becomes of this process.

    Args:
        job: with every change in it.
        recipe_folder: the job file's folder, which is sent.
        job_name: name of the job file.
        address: ``http(s)://host:port`` of the cluster.
        run_id: of the run, which is started or resumed; None: a new run.
        options: of ``scaler submit``, for the driver: ``--json``, ``--quiet``, ``--verbose``.
        on_notice: called with a sentence for the user.

    Raises:
        JobFileError: the recipe does not exist, the storage is a folder of this machine, or the job has an image.
        ClusterError: the cluster cannot be reached, refuses this process, or does not take a folder of this size.
        RunError: the cluster runs the run already.
    """
    with job_environment(job.runtime_env, folder=recipe_folder):
        require_function(job.recipe_function, folder=recipe_folder)
        recipe, packages = shipped_recipe(job.recipe_function, folder=recipe_folder)
    require_shared_storage(job.storage, address=address)
    if job.runtime_env.image_uri is not None:
        raise JobFileError(
            f"runtime_env.image_uri = {job.runtime_env.image_uri}: Ray puts no job's folder into an image.",
            "Start the cluster's nodes from that image and leave image_uri out, or run the driver on a node of the "
            "cluster: --address auto",
        )
    client = JobsClient(address)
    submission_id = run_id = run_id or new_run_id(job.name, datetime.now(UTC))
    remote = RemoteRun(address, run_id, client=client)
    before = remote.submissions()
    if before and not before[-1].is_over:
        raise RunError(
            f"run {run_id} is being run by the Ray cluster at {client.shown}.",
            f"Follow it: scaler logs {run_id} -f --address {client.shown}\n"
            f"Or stop it first: scaler stop {run_id} --address {client.shown}",
        )
    if before:
        submission_id = f"{run_id}.{len(before) + 1}"
    arguments = ["submit", job_name, "--address", "auto"]
    arguments += ["--run-id", run_id, "--even-if-stopped"]  # a person starts it
    with tempfile.TemporaryDirectory(prefix="scaler-") as folder:
        package = Path(folder) / "job.zip"
        environment = driver_environment(job.runtime_env, recipe_folder=recipe_folder)
        sent = job.model_copy(update={"recipe": recipe, "runtime_env": environment})
        left_out = write_package(package, sent, recipe_folder=recipe_folder, job_name=job_name)
        if left_out:
            on_notice(not_sent_text(left_out))
        sources: dict[str, Any] = {
            "working_dir": str(package),
            "py_modules": [str(path) for path in (Path(scaler.__file__).parent, *packages)],
            "env_vars": {STOP_WAIT: str(STOP_WAIT_S)},
        }
        runtime_env = merged_runtime_env(sources, job, folder=recipe_folder)
        client.call(
            "submit_job",
            within_s=None,
            entrypoint=driver_command(*arguments, *options),
            submission_id=submission_id,
            runtime_env=runtime_env,
            metadata={
                "run": run_id,
                "folder": mask_text(inside(job.storage, run_id)),
                "owner": f"{getpass.getuser()}@{socket.gethostname()}",
                "scaler": scaler.__version__,
            },
            entrypoint_num_cpus=0,
        )
    return remote


def driver_environment(asked: RuntimeEnv, *, recipe_folder: Path) -> RuntimeEnv:
    """Return ``runtime_env`` as the driver on the cluster reads it, where the Ray job has it already.

    A variable whose value names another one of this machine names itself there: Ray has set it for the driver. Files
    outside the job's folder were sent with the Ray job, and are left out.
    """
    base = recipe_folder.resolve()

    def is_sent(path: str) -> bool:
        return "://" in path or (base / Path(path).expanduser()).resolve().is_relative_to(base)

    return asked.model_copy(
        update={
            "env_vars": {name: f"${{{name}}}" if "${" in value else value for name, value in asked.env_vars.items()},
            "py_modules": tuple(filter(is_sent, asked.py_modules)),
            "pip": asked.pip if not isinstance(asked.pip, str) or is_sent(asked.pip) else None,
            "uv": asked.uv if not isinstance(asked.uv, str) or is_sent(asked.uv) else None,
        }
    )


def require_shared_storage(storage: str, *, address: str) -> None:
    """Refuse a storage that means another folder on the cluster than on this machine.

    Raises:
        JobFileError: it is neither a URI nor an absolute path.
    """
    if "://" not in storage and not storage.startswith("/"):
        raise JobFileError(
            f"storage = {storage} is a folder of this machine, and the run is on the cluster at {mask_text(address)}.",
            "Use a URI: --set storage=s3://bucket/runs\n"
            "Or the absolute path of a folder that every node of the cluster mounts: --set storage=/mnt/shared/runs",
        )
