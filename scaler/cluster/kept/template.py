"""Fork the processes that train: a script that imports torch, and then a recipe's module, before there is a run.

The first process imports torch. Asked to prepare a recipe, it forks a second one, which imports the recipe's module as
a worker does that starts alone: after the random numbers are seeded. Asked to train, either forks a process that runs
``process.py``. Only processes with one thread are forked, and none that has used a GPU.

Arguments: ``fork``, or ``train`` to train at once, without forks; the descriptor of a socket of ``host.py``; the import
path, as JSON; names of variables that are removed after the imports. The process ends when the socket is closed.
"""

import json
import sys

if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[3])

import gc
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from scaler.cluster.forks.server import number_of_threads

MOST_BYTES = 64 * 2**10  # of a request
NEEDED = (
    "scaler.training.loop",
    "scaler.training.recipe.load",
    "scaler.training.checkpoints.files",
    "scaler.training.process_group",
    "scaler.cluster.kept.process",
    "torch._dynamo",  # every optimizer of torch imports it
    "pandas",
    "pyarrow.fs",
)


class Request(NamedTuple):
    """What the host asks for.

    Attributes:
        recipe: to prepare; None: to train.
        socket: of the fork, to the host.
    """

    recipe: Mapping[str, Any] | None
    socket: socket.socket


def main(control: socket.socket, *, forks: bool, removed: Sequence[str]) -> None:
    """Import what training needs. Then serve requests until the socket is closed; in a fork, do what was asked.

    Args:
        control: the host's requests come here, and the answers go there.
        forks: whether to fork processes that train; False: this process trains.
        removed: names of variables that are removed after the imports.
    """
    for module in NEEDED:
        import_module(module)
    for name in removed:
        os.environ.pop(name, None)
    if not forks:
        train(control)
    gc.collect()
    gc.freeze()  # the collector would write to the memory that forks share
    tell(control, prepared=True)
    while (request := serve(control)) is not None:
        control.close()
        control = request.socket
        if request.recipe is None:
            train(control)
        is_usable = prepare(**request.recipe)
        tell(control, prepared=is_usable)
        if not is_usable:
            os._exit(0)


def train(control: socket.socket) -> NoReturn:
    """Train what the host at the other end of a socket assigns, and end this process."""
    from scaler.cluster.kept.process import train

    train(Connection(control.detach()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def serve(control: socket.socket) -> Request | None:
    """Fork a process for each request. Return the request in the fork, and None when the socket is closed."""
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    try:
        while True:
            ready, _, _ = select.select([control, woken], [], [])
            if woken in ready:
                woken.recv(MOST_BYTES)
                tell_ended(control)
            if control not in ready:
                continue
            data, files, _, _ = socket.recv_fds(control, MOST_BYTES, 1)
            if not data:
                return None
            request = Request(recipe=json.loads(data), socket=socket.socket(fileno=files[0]))
            can_fork = number_of_threads() == 1
            pid = os.fork() if can_fork else None
            if pid == 0:
                os.setpgid(0, 0)  # the host ends the process with all that it started
                return request
            if pid is not None:
                with suppress(OSError):  # whoever comes first; it may have ended
                    os.setpgid(pid, pid)
            request.socket.close()
            tell(control, pid=pid)
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        woken.close()
        waker.close()


def tell(control: socket.socket, **values: Any) -> None:
    """Send one line of JSON to the host."""
    try:
        control.sendall(json.dumps(values).encode() + b"\n")
    except OSError:  # the host is gone
        os._exit(0)


def tell_ended(control: socket.socket) -> None:
    """Tell the host which forks have ended, and how."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        tell(control, ended=pid, status=os.waitstatus_to_exitcode(status))


def prepare(recipe: str, folder: str, seed: int) -> bool:
    """Import a recipe's module as a worker does; return whether this process may be forked."""
    from scaler.training.device import uses_gpu
    from scaler.training.randomness import seed_everything
    from scaler.training.recipe.load import import_recipe

    seed_everything(seed)
    try:
        import_recipe(recipe, folder=Path(folder))
    except BaseException:  # the process that trains imports it again, and reports the error
        return False
    gc.collect()
    gc.freeze()
    return number_of_threads() == 1 and not uses_gpu()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[2])), forks=sys.argv[1] == "fork", removed=sys.argv[4:])
