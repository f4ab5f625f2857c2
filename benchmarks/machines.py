"""Machines on this machine: network namespaces with an address, a host name, processes and a folder of their own.

    with Machines(folder) as machines:
        machines.add("head", networks=("cluster", "office"))
        machines.add("laptop", networks=("office",))
        machines.run("laptop", ["hostname"])

All machines are inside one parent namespace with two bridges, so nothing on the host is changed, and two sets of
machines do not meet. Every machine has the host's files, apart from two folders in ``folder``:

    shared/   the same on all machines, and on the host
    own/      a file system of its own, empty at the start, that no other machine sees

A machine's first process reads a pipe from this process. When that process ends, or this process does, the kernel ends
every process of the machine, and with the last one the namespace is gone. Linux only; needs root.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

NETWORKS = {"cluster": "10.77.0", "office": "10.88.0"}  # /24 each; no machine forwards from one to the other
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
UNSHARE = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
BURST = "32kb"
WAIT_S = 10.0


@cache
def why_no_machines() -> str | None:
    """Return why this machine cannot hold others, or None."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for name in ("unshare", "nsenter", "ip", "tc", "bash", "mount"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    tried = subprocess.run(
        [*UNSHARE, "bash", "-c", "ip link add one type bridge && ip link add two type veth && mount -t tmpfs t /mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are not permitted: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(kw_only=True)
class _Machine:
    holder: subprocess.Popen[bytes]  # on the host: the outermost of the processes that made the namespaces
    init: int  # the host's id of the machine's first process
    number: int
    networks: tuple[str, ...]
    delays: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: list[subprocess.Popen[str]] = field(default_factory=list)


class Machines:
    """Namespaces that behave like machines, for the length of a ``with`` block.

    Args:
        folder: gets the folders of the machines. Its path must be short: the paths of Ray's sockets are limited.
    """

    def __init__(self, folder: Path) -> None:
        self.shared, self.own = folder / "shared", folder / "own"
        self._hosts = folder / "hosts"
        self._machines: dict[str, _Machine] = {}
        self._numbers = 0

    def __enter__(self) -> Self:
        self.shared.mkdir()
        self.own.mkdir()
        self._hosts.write_text("127.0.0.1 localhost\n")
        bridges = "".join(f"ip link add {name} type bridge && ip link set {name} up && " for name in NETWORKS)
        self._holder, self._parent = _hold(UNSHARE, f"ip link set lo up && {bridges} true")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in self._machines.values():
            _end(machine)
        _close(self._holder)

    @property
    def names(self) -> Sequence[str]:
        """The machines that are there, in the order in which they were added."""
        return list(self._machines)

    def add(
        self,
        name: str,
        *,
        networks: Sequence[str] = ("cluster",),
        replaced: Mapping[Path, Path] | None = None,
        sees_shared: bool = True,
        delay_s: float = 0.0,
    ) -> None:
        """Add a machine.

        Args:
            name: its host name.
            networks: ``cluster``, ``office``, or both.
            replaced: a file or folder of the host -> the one that this machine sees in its place.
            sees_shared: whether it sees the shared folder; otherwise it has an empty one.
            delay_s: how long each packet from or to this machine takes longer, one way.
        """
        self._numbers += 1
        hidden = [self.own, *([] if sees_shared else [self.shared])]
        views = {self._hosts: Path("/etc/hosts"), **{new: old for old, new in (replaced or {}).items()}}
        setup = [
            "mount --make-rprivate /",
            "mount -t tmpfs shm /dev/shm",
            *(f"mount --bind {new} {old}" for new, old in views.items()),
            *(f"mount -t tmpfs own {folder}" for folder in hidden),
            f"hostname {name}",
            "ip link set lo up",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
        ]
        holder, init = _hold(["nsenter", f"--target={self._parent}", "--all", *UNSHARE], " && ".join(setup))
        machine = _Machine(holder=holder, init=init, number=self._numbers, networks=tuple(networks))
        self._machines[name] = machine
        with self._hosts.open("a") as hosts:
            for network in networks:
                hosts.write(f"{self.address(name, network)} {name}\n")
        for network in networks:
            port = self._port(name, network)
            if delay_s:
                machine.delays.append(self._delayed(machine, network, port, delay_s))
            else:
                self._in_parent(f"ip link add {port} type veth peer name {network} netns {init}")
            self._in_parent(f"ip link set {port} master {network} up")
            address = f"ip addr add {self.address(name, network)}/24 dev {network} && ip link set {network} up"
            _enter(init, ["--net"], address)

    def address(self, name: str, network: str = "cluster") -> str:
        """Return a machine's IP address in a network."""
        return f"{NETWORKS[network]}.{self._machines[name].number}"

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a command on a machine, with no environment but PATH, HOME, TMPDIR and what is given.

        The process that is returned waits for the command and ends with its exit code; ``pid_of`` finds the command.

        Args:
            name: the machine.
            command: program and arguments.
            environment: more variables.
            folder: to run it in; None: ``own``.
            **options: of ``subprocess.Popen``.
        """
        values = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.own),
            "TMPDIR": str(self.own),
            **(environment or {}),
        }
        machine = self._machines[name]
        enter = ["nsenter", f"--target={machine.init}", "--all", "bash", "-c", 'cd "$0" && exec "$@"']
        process = subprocess.Popen(
            [*enter, str(folder or self.own), *command], env=values, text=True, start_new_session=True, **options
        )
        machine.started.append(process)
        return process

    def run(self, name: str, command: Sequence[str], *, timeout_s: float = 120.0, **options: Any) -> Any:
        """Run a command on a machine to its end; return its exit code and output as ``subprocess.run`` does."""
        process = self.start(name, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(pid_of(process), signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{' '.join(command)} took more than {timeout_s:g} s:\n{out}{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def processes(self, name: str) -> Mapping[int, str]:
        """Return the host's id and the command line of each process on a machine, but for its first one."""
        init = self._machines[name].init
        found = {}
        namespace = os.readlink(f"/proc/{init}/ns/pid")
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            with suppress(OSError):
                if pid != init and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command.strip():  # a zombie has none
                        found[pid] = command.strip()
        return found

    def kill(self, name: str) -> None:
        """End a machine and everything on it at once, as when its power is cut: its peers get no message."""
        _end(self._machines.pop(name))

    def link(self, name: str, *, up: bool) -> None:
        """Cut a machine from all networks, or connect it again; its processes continue."""
        for network in self._machines[name].networks:
            self._in_parent(f"ip link set {self._port(name, network)} {'up' if up else 'down'}")

    def limit(self, name: str, *, mbit_per_s: float) -> None:
        """Limit what a machine sends and receives, each to so many Mbit/s."""
        shape = f"root tbf rate {mbit_per_s:g}mbit burst {BURST} latency 400ms"
        for network in self._machines[name].networks:
            self._in_parent(f"tc qdisc replace dev {self._port(name, network)} {shape}")
            _enter(self._machines[name].init, ["--net"], f"tc qdisc replace dev {network} {shape}")

    def _port(self, name: str, network: str) -> str:
        return f"{network}{self._machines[name].number}"

    def _in_parent(self, script: str) -> None:
        _enter(self._parent, ["--net"], script)

    def _delayed(self, machine: _Machine, network: str, port: str, delay_s: float) -> subprocess.Popen[bytes]:
        """Connect a machine by a process that holds each packet back; the kernel here may have no netem."""
        command = [sys.executable, str(Path(__file__).with_name("slow_link.py"))]
        process = subprocess.Popen(
            [*command, str(self._parent), port, str(machine.init), network, str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the slow link did not start"
        return process


def pid_of(process: subprocess.Popen[str]) -> int:
    """Return the host's id of the command that ``Machines.start`` started, to send it a signal."""
    return _child_of(process.pid)


def _hold(command: Sequence[str], setup: str) -> tuple[subprocess.Popen[bytes], int]:
    """Make namespaces; return the process that holds them, and the host's id of the first process inside."""
    holder = subprocess.Popen(
        [*command, "bash", "-c", f"{setup} && echo ready && read -r _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n", "a namespace could not be made"
    init = holder.pid
    while children := list(_children(init)):
        (init,) = children
    return holder, init


def _end(machine: _Machine) -> None:
    with suppress(ProcessLookupError):
        os.kill(machine.init, signal.SIGKILL)
    for process in (machine.holder, *machine.delays):
        _close(process)
    for started in machine.started:
        started.wait(timeout=WAIT_S)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(timeout=WAIT_S)
    process.stdout.close()


def _enter(pid: int, namespaces: Sequence[str], script: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--target={pid}", *namespaces, "bash", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}: {done.stderr}"


def _child_of(pid: int) -> int:
    """Return the only child of a process, once it is there."""
    until = monotonic() + WAIT_S
    while monotonic() < until:
        for child in _children(pid):
            return child
        sleep(0.01)
    raise ProcessLookupError(f"process {pid} has no child")


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from (int(child) for child in (task / "children").read_text().split())
