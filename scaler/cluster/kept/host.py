"""One worker of a shared group: a Ray actor that has a process train one run after the other."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from scaler.cluster.attempt import Assignment
from scaler.cluster.forks.start import ONE_THREAD
from scaler.cluster.kept.channel import GONE, answer
from scaler.cluster.kept.place import Outcome, Place
from scaler.cluster.mailbox import deliver_to

SCRIPT = Path(__file__).with_name("template.py")
MOST_PREPARED = 8  # processes that have imported a recipe; each takes memory

Recipe = tuple[str, str, int]
"""A recipe, the folder it is looked for in, and the seed of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """Where a host is.

    Args:
        name: Ray's id of the node.
        address: of the node in the cluster's network.
        gpus: Ray's ids of the GPUs that the host was given.
    """

    name: str
    address: str
    gpus: tuple[str, ...]


class Host:
    """A Ray actor with several threads, so that a run can be ended while it trains."""

    def __init__(self) -> None:
        self._template: _Template | None = None
        self._prepared: dict[Recipe, _Template | None] = {}
        self._place: Place | None = None
        self._agreed: dict[int, tuple[Any]] = {}
        self._pids: dict[int, int] = {}
        self._ended: set[int] = set()

    def node(self) -> Node:
        """Return where this host is."""
        context = ray.get_runtime_context()
        gpus = tuple(map(str, context.get_accelerator_ids().get("GPU", [])))
        address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        return Node(name=context.get_node_id(), address=address, gpus=gpus)

    def start(self, place: Place, visible_gpus: str | None) -> None:
        """Take a place in the group, and start the process that imports torch.

        Args:
            place: of this worker.
            visible_gpus: ``CUDA_VISIBLE_DEVICES`` of the processes that train; None: as Ray has set it.
        """
        self._place = place
        if visible_gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus
        self._template = _Template.start()

    def prepare(self, recipes: Sequence[Recipe]) -> None:
        """Import the module of a recipe, once for each seed, before a run needs it; at most ``MOST_PREPARED``."""
        for recipe in recipes[:MOST_PREPARED]:
            self._prepare(recipe)

    def _prepare(self, recipe: Recipe) -> None:
        assert self._template is not None
        if recipe in self._prepared:
            return
        if len(self._prepared) >= MOST_PREPARED:
            oldest = self._prepared.pop(next(iter(self._prepared)))
            if oldest is not None:
                oldest.close()
        self._prepared[recipe] = self._template.prepare(recipe)

    def train(self, number: int, assignment: Assignment, first: Any) -> Outcome:
        """Train one attempt of a run, and return how that ended.

        Args:
            number: of the attempt in this group.
            assignment: what to train.
            first: the host of rank 0; None: this one.
        """
        assert self._template is not None
        recipe = (assignment.job["recipe"], assignment.recipe_folder, assignment.job["train"]["seed"])
        self._prepare(recipe)
        template = self._prepared[recipe] or self._template
        outcomes: list[Outcome] = []
        collector = assignment.collector

        def agree(value: Any) -> None:
            self._agreed = {number: (value,)}

        def agreed() -> tuple[Any] | None:
            if first is None:
                return self.agreed(number)
            with suppress(ray.exceptions.RayError):  # the driver ends this attempt
                found: tuple[Any] | None = ray.get(first.agreed.remote(number))
                return found
            return None

        functions: Mapping[str, Callable[..., Any]] = {
            "begin": lambda: (replace(assignment, collector=None), self._place),
            "begin_attempt": lambda **options: ray.get(collector.begin_attempt.remote(**options)),
            "deliver": deliver_to(collector),
            "is_secured": lambda *arguments, **options: ray.get(collector.is_secured.remote(*arguments, **options)),
            "decision": lambda samples_seen: ray.get(collector.decision.remote(samples_seen)),
            "agree": agree,
            "agreed": agreed,
            "end": outcomes.append,
        }
        with template.train() as process:
            self._pids[number] = process.pid
            if number in self._ended:
                self.end(number)
            if not answer(process.connection, functions, silent_s=assignment.job["failures"]["hang_timeout_s"]):
                self.end(number)
                outcomes = [Outcome(ended="died", message="its process did not answer: it is frozen")]
            code = process.exit_code()
            del self._pids[number]
        return outcomes[0] if outcomes else Outcome(ended="died", message=_death(code))

    def agreed(self, number: int) -> tuple[Any] | None:
        """Return the value that rank 0 shares with the group in an attempt, in a tuple; None: nothing yet."""
        return self._agreed.get(number)

    def end(self, number: int) -> None:
        """End the process of an attempt."""
        self._ended.add(number)
        if number in self._pids:
            _kill_group(self._pids[number])


class _Template:
    """A process that forks processes, as ``template.py`` describes it.

    Args:
        control: to the process.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control, self._lines = control, control.makefile("r")
        self._ended: dict[int, int] = {}

    @classmethod
    def start(cls) -> "_Template":
        """Start the first process."""
        ours, theirs = socket.socketpair()
        with theirs:
            _run_script("fork", theirs)
        template = cls(ours)
        template._answer("prepared")
        return template

    def prepare(self, recipe: Recipe) -> "_Template | None":
        """Return a process that has imported a recipe; None: its forks would not be like a new worker."""
        path, folder, seed = recipe
        ours, pid = self._fork({"recipe": path, "folder": folder, "seed": seed})
        if pid is None:
            return None
        template = _Template(ours)
        return template if template._answer("prepared") else None

    def train(self) -> "_Process":
        """Start a process that trains: a fork, or where that is not possible a new one, which takes seconds."""
        ours, pid = self._fork(None)
        if pid is not None:
            return _Process(pid, ours, wait=partial(self.exit_code, pid))
        ours, theirs = socket.socketpair()
        with theirs:
            started = _run_script("train", theirs)
        return _Process(started.pid, ours, wait=started.wait)

    def close(self) -> None:
        """End the process."""
        self._lines.close()
        self._control.close()

    def exit_code(self, pid: int) -> int:
        """Wait for the end of a process, and return its exit code; a signal's number is negative."""
        while pid not in self._ended:
            values = self._next()
            self._ended[values["ended"]] = values["status"]
        return self._ended.pop(pid)

    def _fork(self, recipe: Mapping[str, Any] | None) -> tuple[socket.socket, int | None]:
        """Return the socket and the id of a fork; the id is None if the process cannot be forked."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [json.dumps(recipe).encode()], [theirs.fileno()])
            pid: int | None = self._answer("pid")
        return ours, pid

    def _answer(self, name: str) -> Any:
        """Return the value of the next answer with this name; ends of processes may come before it."""
        while True:
            values = self._next()
            if name in values:
                return values[name]
            self._ended[values["ended"]] = values["status"]

    def _next(self) -> Mapping[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the process that has imported torch is gone")
        values: Mapping[str, Any] = json.loads(line)
        return values


class _Process:
    """A process that trains; at the end of the ``with`` block it is gone, with all processes that it started.

    Args:
        pid: of the process.
        ours: the socket to it.
        wait: waits for its end and returns its exit code.
    """

    def __init__(self, pid: int, ours: socket.socket, *, wait: Callable[[], int]) -> None:
        self.pid, self.connection, self.exit_code = pid, Connection(ours.detach()), wait

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *error: object) -> None:
        _kill_group(self.pid)
        self.connection.close()


def _run_script(what: str, theirs: socket.socket) -> "subprocess.Popen[bytes]":
    added = {name: value for name, value in ONE_THREAD.items() if name not in os.environ}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), what, str(theirs.fileno()), json.dumps(sys.path), *added],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **added},
        process_group=0,  # the host ends the process with all that it started
    )


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _death(code: int) -> str:
    if code < 0:
        return f"its process was killed, or crashed ({signal.Signals(-code).name})"
    return "its worker process is gone" if code == GONE else f"its process ended with exit code {code}"
