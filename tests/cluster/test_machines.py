"""Machines in namespaces (``benchmarks/machines.py``), without Ray: what a test of many nodes relies on."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machines, pid_of, why_no_machines

pytestmark = pytest.mark.skipif(why_no_machines() is not None, reason=str(why_no_machines()))

GET = """
import socket, sys, time
began = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 80), timeout=2).recv(1)
    print(f"{time.monotonic() - began:.3f}")
except OSError as error:
    print("no way")
"""
SERVE = """
import socket
server = socket.create_server(("", 80))
while True:
    server.accept()[0].sendall(b"x")
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder, Machines(Path(folder)) as found:
        found.add("head", networks=("cluster", "office"))
        found.add("laptop", networks=("office",), sees_shared=False)
        found.add("node-1")
        found.add("far", delay_s=0.05)
        found.start("head", ["python", "-c", SERVE])
        while seconds(found, "head") is None:
            time.sleep(0.05)
        yield found


def seconds(machines: Machines, name: str, network: str = "cluster") -> float | None:
    """Return how long a machine waits for a byte of the head; None: it does not get there."""
    answer: str = machines.run(name, ["python", "-c", GET, machines.address("head", network)]).stdout.strip()
    return None if answer == "no way" else float(answer)


def test_a_machine_has_a_name_and_a_folder_of_its_own(machines: Machines, tmp_path: Path) -> None:
    machines.run("head", ["bash", "-c", f"echo head > mine; echo head > {machines.shared}/ours"])
    for name, mine, ours in (("head", "head", "head"), ("node-1", "", "head"), ("laptop", "", "")):
        seen = machines.run(name, ["bash", "-c", f"hostname; cat mine; echo /; cat {machines.shared}/ours"]).stdout
        assert seen.split() == [name, *[mine] * bool(mine), "/", *[ours] * bool(ours)]
    assert (machines.shared / "ours").read_text() == "head\n"
    assert list(machines.own.iterdir()) == []
    assert socket.gethostname() not in machines.names


def test_a_laptop_reaches_the_head_and_no_node(machines: Machines) -> None:
    assert seconds(machines, "laptop", "office") is not None
    assert seconds(machines, "laptop") is None
    to_node = machines.run("laptop", ["python", "-c", GET, machines.address("node-1")])
    assert to_node.stdout == "no way\n"


def test_links_are_cut_and_slow(machines: Machines) -> None:
    assert (seconds(machines, "far") or 0.0) >= 0.2, "two ways of 50 ms to connect, two for the byte"
    machines.link("node-1", up=False)
    assert seconds(machines, "node-1") is None
    machines.link("node-1", up=True)
    until = time.monotonic() + 30
    while seconds(machines, "node-1") is None:  # the bridge learns the way again
        assert time.monotonic() < until


def test_a_file_is_another_one_on_one_machine(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("everywhere")
    (tmp_path / "here").write_text("on one")
    machines.add("other", replaced={tmp_path / "there": tmp_path / "here"})
    contents = [machines.run(name, ["cat", str(tmp_path / "there")]).stdout for name in ("other", "node-1")]
    assert contents == ["on one", "everywhere"]
    machines.kill("other")


def test_nothing_outlives_a_machine(machines: Machines) -> None:
    machines.add("short")
    process = machines.start("short", ["bash", "-c", "setsid sleep 1000 & sleep 1000"])
    pids = [pid_of(process)]
    while len(pids) < 3:
        pids = list(machines.processes("short"))
        time.sleep(0.05)
    machines.kill("short")
    process.wait(10)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    names = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "cluster" not in names, "no interface on the host"
