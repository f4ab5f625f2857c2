"""A Ray cluster inside this process's life: started, guarded by a random token, and gone with the process."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import import_module
from math import floor
from typing import Any

from scaler.cluster.capacity import workers_in
from scaler.cluster.head import RAYS_PATIENCE_S
from scaler.cluster.ray_errors import start_error
from scaler.cluster.ray_files import private_folder
from scaler.errors import ClusterError

CONNECT_S = 10.0
HASH_SEED = "PYTHONHASHSEED"
RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
OBJECT_STORE_BYTES = 256 * 2**20  # records and a plan; data never goes through it

# What an embedded cluster does without: it has no dashboard, and nobody preempts it.
# docs/decisions/0004-start-up-time.md has the measurements.
_EMBEDDED_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Metrics are served to whoever asks, without the token; no such port can be opened, and Ray goes on without.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


@contextmanager
def ray_cluster(address: str | None, *, verbose: bool, runtime_env: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Connect to Ray for the length of a ``with`` block; meanwhile ``print`` shows nothing unless ``verbose``.

    Args:
        address: of a running cluster (``auto``, ``host:port``); None: an embedded cluster with all of this machine's
            CPUs and GPUs. Its daemons listen on all interfaces, so they take a random token that only this process and
            its children have, in their environment. Ray's files, which it lets everybody read and write, lie in a
            folder that only this user can enter; it goes with the cluster.
        verbose: show Ray's own log, on stderr, and leave its files where they are.
        runtime_env: what the nodes of a running cluster must have, in Ray's words.

    Raises:
        ClusterError: there is no cluster at ``address``, or none can be started.
    """
    environment = {
        # Our worker log has what the recipe prints; Ray's copy would go to the driver twice.
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        # A set of texts has another order in each process, unless all of them hash alike.
        HASH_SEED: os.environ.get(HASH_SEED, "0"),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": os.environ.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1"),
        # When the head is gone, this process ends the run itself (head.py), before Ray would end this process.
        RAYS_PATIENCE: os.environ.get(RAYS_PATIENCE, str(RAYS_PATIENCE_S)),
    }
    if address is None:
        is_first = not process_token.cache_info().currsize
        if is_first and "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
            raise ClusterError(
                "an embedded cluster needs its token before Ray is imported, and this process has imported Ray.",
                "Import ray later, or start a cluster yourself and give its address.",
            )
        environment |= {**_EMBEDDED_ENVIRONMENT, "RAY_AUTH_TOKEN": process_token()}
    files = private_folder() if address is None else None
    # Ray prints what the raylet says to stdout, which is the result's.
    with (
        set_environment(environment),
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stderr if verbose else nowhere),
    ):
        import ray  # after the environment is set: Ray reads some of it when imported

        try:
            with _interrupts_held():
                _connect(address, verbose=verbose, runtime_env=runtime_env or {}, files=files)
            yield
        finally:
            ray.shutdown()
            if files is not None and not verbose:
                shutil.rmtree(files, ignore_errors=True)


@cache
def process_token() -> str:
    """Return the random token of this process's embedded clusters: Ray keeps the first one that it reads."""
    return secrets.token_hex(32)


@contextmanager
def set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a ``with`` block; then they are as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C until the end of a ``with`` block: a cluster interrupted half-way leaves daemons behind.

    What is started meanwhile ignores SIGHUP: a terminal that closes sends it to every process, and the run still wants
    to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: held.append(number))}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


def _connect(address: str | None, *, verbose: bool, runtime_env: Mapping[str, Any], files: str | None) -> None:
    import ray

    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        options["_temp_dir"] = f"{files}/ray"  # Ray opens it to everybody; nobody comes that far
        # A second of imports, while Ray's daemons start.
        threading.Thread(target=import_module, args=("ray.train",), daemon=True).start()
    else:
        options["address"] = address
        env_vars = {**runtime_env.get("env_vars", {}), HASH_SEED: os.environ[HASH_SEED]}
        options["runtime_env"] = {**runtime_env, "env_vars": env_vars}
    try:
        ray.init(**options)
    except Exception as error:  # of any class: Ray raises plain Exception, too
        raise start_error(error, address=address) from error


def require_reachable(address: str) -> None:
    """Refuse a ``host:port`` where nobody listens; Ray itself would try for minutes.

    Raises:
        ClusterError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, local or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {error.strerror or error}.",
            "ray start --head prints the address of a cluster; --address auto finds one on this machine.",
        ) from error


def cpus_here() -> float:
    """Return how many CPUs an embedded cluster on this machine has."""
    return float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)


def require_resources(
    *,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    nodes: Sequence[Mapping[str, float]],
    where: str | None = None,
) -> None:
    """Refuse a job that a cluster cannot hold.

    Args:
        workers: the fewest that the job goes on with.
        cpus_per_worker: of ``resources``.
        gpus_per_worker: of ``resources``.
        nodes: ``CPU`` and ``GPU`` of each node; a worker does not stretch over two.
        where: what has them, as the error says it; None: a cluster of so many nodes.

    Raises:
        ClusterError: says what was asked and what there is.
    """
    need = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    need = {name: amount for name, amount in need.items() if amount}
    fit = _fitting(need, nodes)
    if fit >= workers:
        return
    there = {name: sum(node.get(name, 0.0) for node in nodes) for name in need}
    asked = ", ".join(f"{workers * amount:g} {name}" for name, amount in need.items())
    have = ", ".join(f"{amount:g} {name}" for name, amount in there.items())
    where = where or ("the cluster has" if len(nodes) == 1 else f"the {len(nodes)} nodes of the cluster have")
    remedies = [f"--workers {fit} fits."] if fit else []
    if gpus_per_worker and not there.get("GPU"):
        remedies.append("To train on CPUs: --set resources.gpus_per_worker=0.")
    shares = sorted(
        {floor(100 * node.get("CPU", 0.0) / count) / 100 for node in nodes for count in range(1, workers + 1)}
    )
    sharing = [share for share in shares if share > 0 and _fitting({**need, "CPU": share}, nodes) >= workers]
    if sharing:
        remedies.append(f"Workers can share CPUs: --set resources.cpus_per_worker={sharing[-1]:g}.")
    who = f"{workers} workers need" if workers > 1 else "1 worker needs"
    raise ClusterError(f"{who} {asked}, and {where} {have}.", " ".join(remedies))


def _fitting(need: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers of that need the nodes hold."""
    return sum(workers_in(node, need) for node in nodes)
