"""Processes as in containers, without a container engine: own network, process ids, and changes of the file system.

Linux and root are needed. A ``Network`` is a bridge in a network namespace of its own; each container is a namespace
with an address on it. A container sees an image, a folder with a root file system, through an overlay: what it writes
is in memory and is gone when it ends. ``try_image.py`` makes an image from the Dockerfile.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

UNSHARE = "unshare --mount --uts --pid --fork --kill-child"
START = """
set -e
mount --make-rprivate /
mount -t tmpfs layers {work}
mkdir {work}/upper {work}/work {work}/root
mount -t overlay overlay -o lowerdir={image},upperdir={work}/upper,workdir={work}/work {work}/root
cd {work}/root
mkdir -p proc sys dev tmp etc
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
cat > etc/hosts
rm -f etc/resolv.conf
echo nameserver 127.0.0.1 > etc/resolv.conf  # refuses at once: a name that is not in etc/hosts does not exist
{binds}
exec chroot --userspec={user} . /bin/bash -c {command}
"""


def run(*command: str) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True)


@dataclass
class Image:
    """A root file system with the environment of its processes.

    Args:
        root: the folder; ``/`` is this machine itself.
        environment: of every process.
        folder: where processes start.
        user: id of the user; 0 is root.
    """

    root: Path
    environment: Mapping[str, str]
    folder: str = "/"
    user: int = 0


@dataclass
class Container:
    """A running container.

    Args:
        process: its first process; it ends with the container.
        log: file with its output.
        address: on the network.
    """

    process: subprocess.Popen[bytes]
    log: Path
    address: str

    def wait(self, *, seconds: float) -> int:
        """Return the exit code when the container ends."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill every process of the container: the kernel does, when the first one in its namespace is killed."""
        for pid in first_processes(self):
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@dataclass
class Network:
    """A network of containers.

    Args:
        name: prefix of the namespaces.
        folder: gets logs and mount points.
        prefix: first three parts of the addresses.
    """

    name: str
    folder: Path
    prefix: str = "10.89.7"
    hosts: dict[str, str] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    def address(self, host: str) -> str:
        """Return the address of a host's name, a new one for a new name."""
        return self.hosts.setdefault(host, f"{self.prefix}.{len(self.hosts) + 2}")

    def start(
        self,
        host: str,
        command: Sequence[str],
        image: Image,
        *,
        binds: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Container:
        """Start a container.

        Args:
            host: its name, which the containers that start later resolve.
            command: the program and its arguments.
            image: what it runs in.
            binds: folder of this machine -> folder of the container.
            environment: beside the image's.
        """
        address, name = self.address(host), f"{self.name}-{len(self.namespaces)}"
        number = address.rsplit(".", 1)[1]
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        link = f"v{os.getpid() % 100000}-{len(self.namespaces)}"
        inside = ("ip", "-n", name)
        run("ip", "-n", self.name, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", self.name, "link", "set", link, "master", "bridge0", "up")
        run(*inside, "address", "add", f"{self.prefix}.{number}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", f"{self.prefix}.1")
        work = self.folder / name
        work.mkdir()
        values = {**image.environment, **(environment or {})}
        program = shlex.join(["env", "-i", *(f"{key}={value}" for key, value in values.items()), *command])
        lines = [
            f"mkdir -p .{there}; mount --bind {shlex.quote(str(here))} .{there}"
            for here, there in (binds or {}).items()
        ]
        script = START.format(
            work=work,
            image=image.root,
            binds="\n".join(lines),
            user=f"{image.user}:{image.user}",
            command=shlex.quote(f"cd {image.folder} && exec {program}"),
        )
        log = self.folder / f"{name}-{host}.log"
        hosts = "".join(f"{there}\t{names}\n" for names, there in {"localhost": "127.0.0.1", **self.hosts}.items())
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*f"ip netns exec {name} {UNSHARE} bash -c".split(), f"hostname {host}\n{script}"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert process.stdin is not None
        process.stdin.write(hosts.encode())
        process.stdin.close()
        container = Container(process, log, address)
        self.containers.append(container)
        return container


def first_processes(container: Container) -> list[int]:
    """Return the process, as this machine numbers it, that is the first one in the container; none: it has ended."""
    try:
        children = Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(pid) for pid in children.split()]


@contextmanager
def network(name: str, folder: Path) -> Iterator[Network]:
    """Yield a network; at the end its containers are killed, and nothing is left of it."""
    made = Network(name, folder)
    with ExitStack() as stack:
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "-n", name, "link", "add", "bridge0", "type", "bridge")
        run("ip", "-n", name, "address", "add", f"{made.prefix}.1/24", "dev", "bridge0")
        run("ip", "-n", name, "link", "set", "bridge0", "up")
        try:
            yield made
        finally:
            for container in made.containers:
                container.kill()
            for namespace in made.namespaces:
                run("ip", "netns", "delete", namespace)


def wait_for(container: Container, command: Sequence[str], image: Image, *, seconds: float) -> None:
    """Return when a command succeeds in a container, as the health checks of compose and Kubernetes do."""
    end = time.monotonic() + seconds
    values = [f"{key}={value}" for key, value in image.environment.items()]

    def succeeds() -> bool:
        pids = first_processes(container)
        enter = ["nsenter", *(f"--target={pid}" for pid in pids), "--all", "--root", "--wd", "env", "-i", *values]
        return bool(pids) and not subprocess.run([*enter, *command], capture_output=True).returncode

    while not succeeds():
        if time.monotonic() > end or container.process.poll() is not None:
            raise TimeoutError(
                f"{shlex.join(command)} did not succeed in {seconds:.0f} s:\n{container.log.read_text()}"
            )
        time.sleep(0.5)
