"""A Ray cluster inside this process's life: started, guarded by a random token, and gone with the process."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

from scaler.errors import ClusterError

OBJECT_STORE_BYTES = 256 * 2**20  # records and a plan; data never goes through it

# What an embedded cluster does without, or does more often: it has no dashboard and no preemption, and a poll costs it
# nothing. docs/decisions/0004-startup.md has the measurements.
_EMBEDDED_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@contextmanager
def ray_cluster(address: str | None, *, verbose: bool) -> Iterator[None]:
    """Connect to Ray for the length of a ``with`` block.

    Args:
        address: of a running cluster (``auto``, ``host:port``, ``ray://...``); None: an embedded cluster with all of
            this machine's CPUs and GPUs. Its daemons listen on all interfaces, so they take a random token that only
            this process and its children have, in their environment.
        verbose: show Ray's own log.

    Raises:
        ClusterError: there is no cluster at ``address``, or none can be started.
    """
    environment = {
        # Our worker log has what the recipe prints; Ray's copy would go to the driver twice.
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": os.environ.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1"),
    }
    if address is None:
        environment |= {**_EMBEDDED_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import ray  # after the environment is set: Ray reads some of it when imported

    level = logging.INFO if verbose else logging.ERROR
    try:
        try:
            if address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=verbose,
                    logging_level=level,
                )
            else:
                ray.init(address=address, log_to_driver=verbose, logging_level=level)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = "on this machine" if address is None else f"at {address}"
            raise ClusterError(
                f"no Ray cluster {where}: {_first_line(error)}",
                "Leave --address out for an embedded cluster, or give that of a running one.",
            ) from error
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if verbose else nowhere):
            yield  # Ray prints what the raylet says to stdout, which is the result's; a report says it better
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cpus_here() -> float:
    """Return how many CPUs an embedded cluster on this machine has."""
    return float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)


def require_resources(
    *, workers: int, cpus_per_worker: float, gpus_per_worker: float, there: Mapping[str, float]
) -> None:
    """Refuse a job that a cluster cannot hold.

    Args:
        workers: the fewest that the job goes on with.
        cpus_per_worker: of ``resources``.
        gpus_per_worker: of ``resources``.
        there: what the whole cluster has, as ``ray.cluster_resources()`` gives it.

    Raises:
        ClusterError: says what was asked and what there is.
    """
    wanted = {"CPU": workers * cpus_per_worker, "GPU": workers * gpus_per_worker}
    if all(amount <= there.get(name, 0.0) + 1e-9 for name, amount in wanted.items()):
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
    have = ", ".join(f"{there.get(name, 0.0):g} {name}" for name, amount in wanted.items() if amount)
    per_worker = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    fit = min(int((there.get(name, 0.0) + 1e-9) // need) for name, need in per_worker.items() if need)
    remedy = f"--workers {fit} fits. " if fit else ""
    if wanted["GPU"] <= there.get("GPU", 0.0):
        remedy += f"Workers can share CPUs: resources.cpus_per_worker={max(there.get('CPU', 0.0), 0.1) / workers:.2g}."
    raise ClusterError(f"{workers} workers need {asked}, and the cluster has {have}.", remedy.strip())


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
