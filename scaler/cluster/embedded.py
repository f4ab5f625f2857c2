"""Start a Ray cluster for one run on this machine: guarded by a random token, and removed with this process."""

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache

from scaler.cluster.forks.start import fork_server
from scaler.cluster.ray_files import private_folder
from scaler.cluster.ray_hooks import require_hooks
from scaler.cluster.ray_session import ray_session
from scaler.cluster.start_parameters import no_dashboard_process, start_parameters
from scaler.errors import ClusterError

OBJECT_STORE_BYTES = 256 * 2**20  # for records and a plan; training data is not put there
NICENESS = "RAY_worker_niceness"
RAYS_NICENESS = 15  # without the variable

# An embedded cluster has no dashboard, and its node is never drained, so these parts of Ray are switched off, and some
# are not started (``_start``).
# docs/decisions/0004-start-up-time.md has the measurements.
_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Ray serves metrics without asking for the token. With a port that cannot be opened, Ray runs without them.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


@contextmanager
def embedded_cluster(*, verbose: bool, forks: bool = True, crowded: bool = False) -> Iterator[None]:
    """Start a cluster with all CPUs and GPUs of this machine, and connect to it for the length of a ``with`` block.

    Ray's daemons listen on all interfaces, so they ask for a random token. Only this process and its children have it,
    in their environment. Ray lets every user read and write its files, so they are in a folder that only this user can
    enter; it is removed with the cluster.

    Args:
        verbose: show Ray's log on stderr, and keep its files.
        forks: start workers as forks of one process, where the system can. Not for workers that use a GPU or several
            threads.
        crowded: there are more workers than CPUs. Forks then leave the CPUs to other processes that need them: to this
            process, to Ray's daemons, and to commands in other terminals.

    Raises:
        ClusterError: the cluster cannot be started, or the installed Ray does not work with scaler.
    """
    is_first = not process_token.cache_info().currsize
    if is_first and "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ClusterError(
            "an embedded cluster needs its token before Ray is imported, and this process has imported Ray.",
            "Import ray later, or start a cluster yourself and give its address.",
        )
    files = private_folder()
    environment = {**_ENVIRONMENT, "RAY_AUTH_TOKEN": process_token()}
    try:
        with ExitStack() as stack:

            def start() -> None:
                if forks and sys.platform == "linux":
                    stack.enter_context(fork_server(files, niceness=worker_niceness() if crowded else 0))
                _start(files, verbose=verbose)

            with ray_session(start, address=None, environment=environment, verbose=verbose):
                yield
    finally:
        if not verbose:
            shutil.rmtree(files, ignore_errors=True)


def worker_niceness() -> int:
    """Return the niceness that Ray gives its workers."""
    return int(os.environ.get(NICENESS, RAYS_NICENESS))


@cache
def process_token() -> str:
    """Return the random token of this process's embedded clusters: Ray keeps the first one that it reads."""
    return secrets.token_hex(32)


def _start(files: str, *, verbose: bool) -> None:
    import ray

    # Its size is fixed, so there is nothing to scale; the workers' output is only sent to this process if it is shown.
    # With Ray's default port, the agent of another cluster on this machine could not start, and its Ray Jobs with it.
    parts = start_parameters(no_monitor=True, include_log_monitor=verbose, dashboard_agent_listen_port=0)
    with ThreadPoolExecutor(1) as pool, no_dashboard_process(), parts:
        checked = pool.submit(require_hooks)  # imports Ray Train for a second, while Ray's daemons start
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            _temp_dir=f"{files}/ray",  # Ray makes it open to every user, but they cannot enter the folder above
        )
    checked.result()
