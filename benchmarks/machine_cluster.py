"""A Ray cluster whose nodes are machines of their own: see ``machines``.

    with MachineCluster(nodes=2) as cluster:
        cluster.run("laptop", ["scaler", "submit", "job.yaml", "--address", cluster.jobs_address])
        cluster.kill("node-1")

``head`` has no CPU and serves Ray Jobs; ``node-1``, ``node-2``, ... have one each; ``laptop`` reaches the head's ports
in the network ``office``, no node, and not the shared folder. Health checks are faster than Ray's defaults. The cluster
ends only what it started.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar

from machines import Machines, why_no_machines
from nodes import ENVIRONMENT, HEALTH_CHECKS

GCS_PORT, JOBS_PORT = 6379, 8265
OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MiB
START_S = 60.0
T = TypeVar("T")
HERE = Path(__file__).resolve().parent
QUICK = {
    **ENVIRONMENT,
    **{f"RAY_{name}": str(value) for name, value in HEALTH_CHECKS.items()},
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}

__all__ = ["MachineCluster", "why_no_machines"]


class MachineCluster:
    """A Ray cluster of machines, for the length of a ``with`` block.

    Args:
        nodes: machines with one CPU at the start.
        environment: more variables for every process, on all machines.
        quick: notice lost nodes soon, and start no process before it is needed; False: with Ray's default settings.
    """

    def __init__(self, *, nodes: int, environment: Mapping[str, str] | None = None, quick: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp"))
        self._machines = Machines(self._folder)
        self._first = [f"node-{number}" for number in range(1, nodes + 1)]
        self._environment = {
            "RAY_TMPDIR": str(self.own),  # --address auto reads the address there
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            **(QUICK if quick else {}),
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        try:
            self._machines.__enter__()
            self._machines.add("head", networks=("cluster", "office"))
            self._machines.add("laptop", networks=("office",), sees_shared=False)
            for name in self._first:
                self._machines.add(name)
            self._start(["head", *self._first])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machines.__exit__(kind, error, trace)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def shared(self) -> Path:
        """The folder that all machines and this process see."""
        return self._machines.shared

    @property
    def own(self) -> Path:
        """The folder that is another one on each machine."""
        return self._machines.own

    @property
    def address(self) -> str:
        """The cluster's ``host:port``, for a driver on one of its nodes."""
        return f"{self._machines.address('head')}:{GCS_PORT}"

    @property
    def jobs_address(self) -> str:
        """The URL of Ray Jobs, as the laptop sees it."""
        return f"http://{self._machines.address('head', 'office')}:{JOBS_PORT}"

    @property
    def nodes(self) -> Sequence[str]:
        """The nodes that are there, without the head."""
        return [name for name in self._machines.names if name.startswith("node-")]

    def join(self, name: str, **options: Any) -> None:
        """Add a node; ``options`` are those of ``Machines.add``. It returns when the node has registered."""
        self._machines.add(name, **options)
        self._start([name])

    def add(self, name: str, **options: Any) -> None:
        """Add a machine that is no node of the cluster; ``options`` are those of ``Machines.add``."""
        self._machines.add(name, **options)

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        """Start a command on a machine; see ``Machines.start``."""
        return self._machines.start(name, command, environment={**self._environment, **(environment or {})}, **options)

    def run(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on a machine to its end; see ``Machines.run``."""
        done: subprocess.CompletedProcess[str] = self._machines.run(
            name, command, environment={**self._environment, **(environment or {})}, **options
        )
        return done

    def replace(self, *, nodes: int) -> None:
        """End the head and every node at once, and start new ones in their place: another cluster."""
        for name in self._machines.names:
            if name == "head" or name in self.nodes:
                self._machines.kill(name)
        names = [f"node-{number}" for number in range(1, nodes + 1)]
        self._machines.add("head", networks=("cluster", "office"))
        for name in names:
            self._machines.add(name)
        self._start(["head", *names])

    def processes(self, name: str) -> Mapping[int, str]:
        """Return the host's id and the command line of each process on a machine."""
        return self._machines.processes(name)

    def kill(self, name: str) -> None:
        """End a machine and everything on it at once; its peers get no message."""
        self._machines.kill(name)

    def partition(self, name: str) -> None:
        """Cut a machine from all networks; its processes continue."""
        self._machines.link(name, up=False)

    def heal(self, name: str) -> None:
        """Connect a machine again that was cut from all networks."""
        self._machines.link(name, up=True)

    def limit(self, name: str, *, mbit_per_s: float) -> None:
        """Limit what a machine sends and receives, each to so many Mbit/s."""
        self._machines.limit(name, mbit_per_s=mbit_per_s)

    def _start(self, names: Sequence[str]) -> None:
        """Start Ray on machines, at the same time, and wait until it runs on all."""
        starting = {name: self._start_ray(name) for name in names}
        for name, process in starting.items():
            out, err = process.communicate(timeout=START_S)
            assert process.returncode == 0, f"Ray did not start on {name}:\n{out}{err}"

    def _start_ray(self, name: str) -> "subprocess.Popen[str]":
        ip = self._machines.address(name)
        head = [
            "--head",
            f"--port={GCS_PORT}",
            "--num-cpus=0",
            "--include-dashboard=true",
            "--dashboard-host=0.0.0.0",
            f"--dashboard-port={JOBS_PORT}",
            f"--temp-dir={self.own}/ray",
            "--no-monitor",
        ]
        node = [f"--address={self.address}", "--num-cpus=1"]
        every = [
            f"--node-ip-address={ip}",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]
        command = [sys.executable, str(HERE / "start_node.py"), *(head if name == "head" else node), *every]
        return self.start(name, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_until(condition: Callable[[], T], *, within_s: float, what: str) -> T:
    """Return the first true value of a condition that is asked again and again.

    Args:
        condition: called without arguments.
        within_s: seconds after which it is given up.
        what: of what was waited for, for the error.
    """
    until = monotonic() + within_s
    while not (value := condition()):
        assert monotonic() < until, f"not within {within_s:g} s: {what}"
        sleep(0.1)
    return value
