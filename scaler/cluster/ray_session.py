"""Connect this process to Ray for the length of a ``with`` block, with the environment that scaler needs."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

from scaler.cluster.head import RAYS_PATIENCE_S
from scaler.cluster.ray_errors import start_error

HASH_SEED = "PYTHONHASHSEED"
RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"


@contextmanager
def ray_session(
    connect: Callable[[], None], *, address: str | None, environment: Mapping[str, str], verbose: bool
) -> Iterator[None]:
    """Connect to Ray, and disconnect at the end; meanwhile ``print`` shows nothing unless ``verbose``.

    Args:
        connect: calls ``ray.init``; Ctrl-C is held back until it returns.
        address: of a running cluster, for error messages; None: the cluster is embedded.
        environment: variables to set before Ray is imported, beside those that every cluster gets.
        verbose: show what Ray prints, on stderr.

    Raises:
        ClusterError: Ray could not start or connect.
    """
    # Ray prints messages of its daemons to stdout, where scaler prints the result.
    with (
        set_environment({**common_environment(), **environment}),
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stderr if verbose else nowhere),
    ):
        import ray  # after the environment is set, because Ray reads some of it when imported

        try:
            with _interrupts_held():
                try:
                    connect()
                except Exception as error:  # of any class: Ray raises plain Exception, too
                    raise start_error(error, address=address) from error
            yield
        finally:
            ray.shutdown()


def common_environment() -> Mapping[str, str]:
    """Return the variables to set for every cluster, before Ray is imported."""
    return {
        # scaler's worker log has what the recipe prints; Ray would send a copy to the driver.
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        # After an error, a thread of Ray Train may outlive the connection; without this, Ray would connect it to any
        # cluster on this machine.
        "RAY_ENABLE_AUTO_CONNECT": os.environ.get("RAY_ENABLE_AUTO_CONNECT", "0"),
        # A set of strings has another order in each process, unless all processes have one hash seed.
        HASH_SEED: os.environ.get(HASH_SEED, "0"),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": os.environ.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1"),
        # When the head is gone, scaler ends the run itself (head.py), before Ray would end this process.
        RAYS_PATIENCE: os.environ.get(RAYS_PATIENCE, str(RAYS_PATIENCE_S)),
    }


@contextmanager
def set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a ``with`` block, and restore them at its end."""
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
    """Hold Ctrl-C back until the end of a ``with`` block: a cluster that is interrupted half-way leaves daemons behind.

    Processes that are started meanwhile ignore SIGHUP: a terminal that closes sends it to every process, and the run
    must still be able to save.
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
