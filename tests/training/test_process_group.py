"""How the workers of a group meet, and what they must agree on."""

import faulthandler
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scaler.errors import ClusterError, RecipeError
from scaler.training.own_loop.group import group_of_processes
from scaler.training.process_group import MeetingPoint, leave_group
from scaler.training.start_checks.same_model import require_same_model

LISTENS = "0A"  # in the column of states


def listening() -> list[str]:
    """Return the addresses that this process listens on, in the kernel's hexadecimal form."""
    mine = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            mine.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the listing's own
            continue
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return [row[1].rpartition(":")[0] for row in rows if row[3] == LISTENS and f"socket:[{row[9]}]" in mine]


def hexadecimal(address: str) -> str:
    return socket.inet_aton(address)[::-1].hex().upper()  # as a little-endian kernel writes it


def own_address() -> str:
    """Return the address of this machine that others would use; the loopback address if it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


linux_only = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens where")


@linux_only
def test_a_meeting_point_listens_on_its_address_alone() -> None:
    before = listening()
    meeting = MeetingPoint("127.0.0.1", port=None, world_size=2)
    assert sorted(listening()) == sorted([*before, hexadecimal("127.0.0.1")])
    MeetingPoint("127.0.0.1", port=meeting.port, world_size=2)  # and is reached there
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", meeting.port), timeout=5)


def test_an_address_that_the_node_does_not_have_is_refused_whole() -> None:
    with pytest.raises(ClusterError) as caught:
        MeetingPoint("198.51.100.7", port=None, world_size=2)
    assert str(caught.value) == (
        "rank 0 cannot listen on 198.51.100.7, its node's address in the cluster: Cannot assign requested address.\n"
        "  Set it with ray start --node-ip-address: an address of this node that the other nodes can reach."
    )


def met(rank: int, world_size: int, host: str, folder: str, given: str | None) -> dict[str, Any]:
    """Meet at a host, as workers do; return which process listens on which address."""
    dist.destroy_process_group()
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.pop(name, None)
        if given is not None:
            os.environ[name] = given
    port_file = Path(folder) / "port"
    port = None
    if rank > 0:
        while not port_file.exists() or not port_file.read_text():
            threading.Event().wait(0.01)
        port = int(port_file.read_text())
    meeting = MeetingPoint(host, port=port, world_size=world_size)
    if rank == 0:
        port_file.write_text(str(meeting.port))
    meeting.join(rank=rank, backend="gloo")
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    found = {
        "listening": listening(),
        "link": meeting.measure_link(rank=rank),
        "total": total.item(),
        "interfaces": {name: os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")},
    }
    dist.barrier()
    leave_group()
    return found


@linux_only
@pytest.mark.parametrize("host", ["127.0.0.1", own_address()])
def test_a_group_listens_on_the_interface_of_its_host_alone(tmp_path: Path, host: str) -> None:
    for found in run_group(met, 2, host, str(tmp_path), None):
        assert found["total"] == 3.0
        round_trip_s, mib_per_s = found["link"]
        assert 0.0 < round_trip_s < 1.0
        assert 0.1 < mib_per_s < 1e6
        assert set(found["listening"]) == {hexadecimal(host)}
        gloo = found["interfaces"]["GLOO_SOCKET_IFNAME"]
        assert found["interfaces"]["NCCL_SOCKET_IFNAME"] == f"={gloo}"
        assert (gloo == "lo") == host.startswith("127.")


@linux_only
def test_an_interface_that_the_user_chose_is_left_alone(tmp_path: Path) -> None:
    for found in run_group(met, 2, own_address(), str(tmp_path), "lo"):
        assert found["total"] == 3.0
        assert found["interfaces"] == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


# Whether all workers have built the same model.


def built(what: str, rank: int) -> nn.Module:
    """Return a model that differs on rank 1."""
    other = rank == 1
    model = nn.Sequential(nn.Linear(2, 5 if other and what == "shape" else 4), nn.BatchNorm1d(4))
    match what if other else "":
        case "dtype":
            model[0].double()
        case "frozen":
            model[0].bias.requires_grad_(False)
        case "more":
            model.append(nn.Linear(4, 1))
        case "fewer":
            model = nn.Sequential(model[0])
        case "buffer":
            model[1].register_buffer("running_mean", torch.zeros(5))
        case "order":
            model = nn.Sequential()
            model.add_module("1", nn.BatchNorm1d(4))
            model.add_module("0", nn.Linear(2, 4))
    return model


def same(rank: int, world_size: int, whats: list[str]) -> list[str | None]:
    """Return the message for each model; None if it is accepted."""
    messages: list[str | None] = []
    for what in whats:
        try:
            require_same_model(built(what, rank), world_size=world_size)
            messages.append(None)
        except RecipeError as error:
            messages.append(str(error))
    return messages


DIFFERENCES = {
    "shape": "0.weight is (4, 2) on ranks 0, 2 and (5, 2) on rank 1",
    "dtype": "0.weight is float32 on ranks 0, 2 and float64 on rank 1",
    "frozen": "0.bias is trained on ranks 0, 2 and frozen on rank 1",
    "more": "2.weight is missing on ranks 0, 2 and there on rank 1",
    "fewer": "1.weight is there on ranks 0, 2 and missing on rank 1",
    "buffer": "1.running_mean is (4,) on ranks 0, 2 and (5,) on rank 1",
    "order": "its parameter 0 is 0.weight on ranks 0, 2 and 1.weight on rank 1",
}


def test_models_that_differ_between_workers_are_refused_on_all_of_them() -> None:
    messages = run_group(same, 3, ["nothing", *DIFFERENCES, "nothing"])
    expected = [
        f"the model differs between workers: {text}.\n"
        "  The recipe must build the same model on each: from recipe_args and the job's seed only."
        for text in DIFFERENCES.values()
    ]
    assert messages == [[None, *expected, None]] * 3


def test_a_worker_alone_has_nobody_to_differ_from() -> None:
    require_same_model(nn.Linear(1, 1), world_size=1)


def test_a_script_that_frees_its_model_after_its_group_does_not_hang(tmp_path: Path) -> None:
    """Without the reference of ``group_of_processes``, a process hangs within a hundred rounds."""
    assert run_group(_end_groups, 2, str(tmp_path)) == ["ended", "ended"]


def _end_groups(rank: int, world_size: int, folder: str) -> str:
    dist.destroy_process_group()
    faulthandler.dump_traceback_later(60, exit=True)
    sys.setswitchinterval(100)  # seconds: gloo's threads wait for Python's lock
    for number in range(100):
        store = dist.FileStore(f"{folder}/{number}", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        group = group_of_processes()
        model = DistributedDataParallel(nn.Linear(3, 1))
        for _ in range(8):
            sum_of_ones = torch.ones(7)
            on_its_way = group.begin_sum(sum_of_ones)
            model(torch.ones(5, 3)).square().mean().backward()
            assert on_its_way is not None
            on_its_way.wait()
        dist.destroy_process_group()
        del model
    faulthandler.cancel_dump_traceback_later()
    return "ended"
