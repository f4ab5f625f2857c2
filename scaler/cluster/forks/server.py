"""Fork workers: a script that imports torch and Ray once, and then answers the requests of ``client.py``.

Its forks have everything that it has, so this process has one thread, no connection, and no random number that a
worker would use. It checks the first and the last, and refuses to fork otherwise.

Arguments: the descriptor of a listening socket; the folder with the package scaler; the niceness of the session; the
names of variables that are not the driver's, and are removed after the imports. The process ends when its standard
input is closed.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this script's folder: its names must not hide others

import gc
import json
import os
import runpy
import select
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LENGTH_BYTES = 4
# Ray's library reads its variables when it is loaded, and two of them are known only with the first worker. So the
# others are imported before: while Ray's daemons start.
BEFORE_RAY = (
    "scaler.training.loop",
    "scaler.training.recipe.load",
    "scaler.training.checkpoints.files",
    "scaler.training.process_group",
    "torch._dynamo",  # every optimizer of torch imports it
    "pandas",
    "pyarrow.fs",
)
WITH_RAY = (
    "ray.train",
    "ray.train.collective",
    "scaler.cluster.worker",
    "scaler.cluster.trainer",
    "scaler.cluster.collector",
    "ray.train.v2._internal.execution.controller",
)

Request = Mapping[str, Any]
"""What ``client.is_forked`` sends."""


def main(listening: socket.socket, *, niceness: int, removed: Sequence[str]) -> None:
    """Answer requests until standard input is closed; in a fork, run the worker.

    Args:
        listening: accepts the clients.
        niceness: of this process's session, from the first fork on.
        removed: names of variables that are removed after the imports.
    """
    at_start = {name: value for name, value in os.environ.items() if name not in removed}
    for module in BEFORE_RAY:
        import_module(module)
    for name in removed:
        os.environ.pop(name, None)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes ended workers at once, as Ray expects
    of_ray: Mapping[str, str] | None = None
    for connection in accepted(listening):
        with suppress(OSError, ValueError), connection:
            request, files = receive(connection)
            if of_ray is None and others(request["environment"]) == others(at_start):
                of_ray = rays(request["environment"])
                os.environ.update(of_ray)
                sys.path.insert(0, str(Path(request["worker"][0]).parent))  # Python adds the script's folder
                load_ray()
                set_session_niceness(niceness)
            is_alike = rays(request["environment"]) == of_ray and others(request["environment"]) == others(at_start)
            is_fork = is_alike and number_of_threads() == 1 and os.fork() == 0
            if is_fork and not is_wanted(connection):
                os._exit(0)
            for number, file in enumerate(files):
                if is_fork:
                    os.dup2(file, number)
                os.close(file)
            if is_fork:
                break
    else:
        return
    listening.close()
    become(request)


def accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield connections until standard input is closed."""
    while True:
        ready, _, _ = select.select([listening.fileno(), 0], [], [])
        if 0 in ready:
            return
        yield listening.accept()[0]


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """Return a request, and the descriptors that came with it.

    Raises:
        ValueError: the client has ended before.
    """
    head, files, _, _ = socket.recv_fds(connection, LENGTH_BYTES, 3)
    with connection.makefile("rb") as stream:
        request: Request = json.loads(stream.read(int.from_bytes(head, "big")))
    return request, files


def is_wanted(connection: socket.socket) -> bool:
    """Return whether the client ends now; one that has waited too long runs the worker itself."""
    try:
        connection.sendall(b"?")
        return bool(connection.recv(1))
    except OSError:
        return False


def rays(environment: Mapping[str, str]) -> dict[str, str]:
    """Return Ray's variables: those that Ray reads when it is loaded."""
    return {name: value for name, value in environment.items() if name.startswith("RAY_")}


def others(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that must be those of this process; Ray sets ``SPT_NOENV`` for each of its processes."""
    return {name: value for name, value in environment.items() if not name.startswith(("RAY_", "SPT_NOENV"))}


def number_of_threads() -> int:
    """Return how many threads this process has, those of C libraries too."""
    return len(os.listdir("/proc/self/task"))


def load_ray() -> None:
    """Import Ray and what workers need of it.

    Raises:
        SystemExit: forks would have the same random numbers, and so the same ids for their tasks.
    """
    with ids_from_the_system():
        for module in WITH_RAY:
            import_module(module)
    if len({random_numbers_of_a_fork() for _ in range(2)}) < 2:
        raise SystemExit("Ray has drawn random numbers when it was imported: two forks have the same ones.")
    gc.collect()
    gc.freeze()  # the collector would write to the memory that forks share


@contextmanager
def ids_from_the_system() -> Iterator[None]:
    """Keep Ray from seeding its random numbers: it does when a module defines an actor's class, whose id is random."""
    actor: Any = import_module("ray.actor")
    real = actor.ActorClassID
    actor.ActorClassID = SimpleNamespace(from_random=lambda: real(os.urandom(real.size())))
    try:
        yield
    finally:
        actor.ActorClassID = real


def random_numbers_of_a_fork() -> bytes:
    """Return what a fork of this process draws from Ray's random numbers."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        import ray

        os.write(writing, ray.NodeID.from_random().binary())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        return pipe.read()


def set_session_niceness(niceness: int) -> None:
    """Set how much of the CPUs this process and its forks get beside the other sessions of the machine.

    Linux divides the CPUs among sessions first. The niceness of a process counts only among those of its session.
    """
    with suppress(OSError):  # a kernel without autogroups: the niceness that Ray gives each worker counts
        Path("/proc/self/autogroup").write_text(str(niceness))


def become(request: Request) -> None:
    """Run the worker of a request in this process, as its client would have."""
    os.setpgid(0, 0)  # Ray ends the process group of a worker
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked_signals"])
    os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
    Path("/proc/self/oom_score_adj").write_text(request["oom_score_adj"])
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    sys.argv = list(request["worker"])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    if find_spec("scaler") is None:  # it is not installed: the driver found it in its own folder
        sys.path.append(sys.argv[2])
    main(socket.socket(fileno=int(sys.argv[1])), niceness=int(sys.argv[3]), removed=sys.argv[4:])
