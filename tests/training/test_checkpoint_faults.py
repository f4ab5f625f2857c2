"""A checkpoint is all or nothing, whichever write fails and whichever worker is killed."""

import os
import random
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from kept import Kept
from small_runs import make_job, plan_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from scaler.errors import RunError
from scaler.runs import RunFolder
from scaler.training.best import BestValue
from scaler.training.checkpoints.copies import copy_state
from scaler.training.checkpoints.files import complete_checkpoints, find_checkpoint
from scaler.training.checkpoints.save import FolderWriter, save_copy
from scaler.training.checkpoints.state import load_checkpoint, write_checkpoint
from scaler.training.checkpoints.writer import CheckpointWriter


class GoneError(Exception):
    """The storage, or the process, is gone: nothing after this moment has an effect."""


@dataclass(frozen=True)
class Faulty(RunFolder):
    """A folder in which one operation fails, counted from 0, and with ``for_good`` every later one."""

    at: int = 10**9
    for_good: bool = False
    done: list[str] = field(default_factory=list)

    def _count(self, what: str, torn: Callable[[], Any] = lambda: None) -> None:
        number = len(self.done)
        self.done.append(what)
        if number == self.at:
            torn()
        if number == self.at or (self.for_good and number > self.at):
            raise GoneError(what)

    def write(self, name: str, content: str | bytes) -> None:
        self._count(f"write {name}")
        super().write(name, content)

    def write_blocks(self, name: str, blocks: Iterable[bytes | memoryview]) -> None:
        data = b"".join(map(bytes, blocks))
        self._count(f"write {name}", lambda: super(Faulty, self).write_blocks(name, [data[: len(data) // 2]]))
        super().write_blocks(name, [data])

    def remove(self, name: str) -> None:
        self._count(f"remove {name}")
        super().remove(name)

    def remove_folder(self, name: str) -> None:
        self._count(f"remove {name}", lambda: next((Path(self.uri) / name).glob("model*"), Path("/nothing")).unlink())
        super().remove_folder(name)


def saved(save: Callable[[], object]) -> str:
    """Save, and return why it failed; empty: it did not."""
    try:
        save()
    except RunError as error:
        return error.problem
    return ""


def state_of(value: int) -> dict[str, Any]:
    return {"samples_seen": value, "model": {"w": torch.full((8,), value)}, "moments": torch.full((9,), value)}


def require_state(folder: RunFolder, samples_seen: int, *, value: int) -> None:
    state = load_checkpoint(folder, samples_seen)
    assert state["samples_seen"] == value
    assert state["model"]["w"].tolist() == [value] * 8
    assert state["moments"].tolist() == [value] * 9


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_fault_at_any_write_leaves_a_checkpoint_that_is_right(tmp_path: Path, for_good: bool, replaces: bool) -> None:
    at, names = 0, []
    while True:
        folder = RunFolder(str(tmp_path / f"{at}"))
        write_checkpoint(folder, state_of(1), {"samples_seen": 100})
        if replaces:
            write_checkpoint(folder, state_of(2), {"samples_seen": 200})
        faulty = Faulty(folder.uri, at=at, for_good=for_good)
        reason = saved(partial(write_checkpoint, faulty, state_of(3), {"samples_seen": 200}))
        if not reason:
            break
        assert reason == f"GoneError: {faulty.done[at]}."
        if not for_good:
            assert not (tmp_path / f"{at}/checkpoints/{200:015d}").exists(), "it takes no space"
        found, _ = find_checkpoint(folder)
        assert found == (200 if replaces and at == 0 and for_good else 100)
        require_state(folder, found, value=2 if found == 200 else 1)
        assert find_checkpoint(folder) == (found, [])
        names.append(faulty.done[at])
        at += 1
    require_state(folder, 200, value=3)
    written = [f"write checkpoints/{200:015d}{name}" for name in (
        "/model-00000.bin", "/resume-00000.bin", "/plain.pt", "/metadata.json", ".json"
    )]  # fmt: skip
    removed = [f"remove checkpoints/{200:015d}{name}" for name in (".json", "")] if replaces else []
    assert names == removed + written


# Two workers


def sharded_state(value: int) -> dict[str, Any]:
    """Return a state with the value in every element, sharded over the workers."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return {
        name: {"w": DTensor.from_local(torch.full((size,), value), mesh, [Shard(0)])}
        for name, size in (("model", 40_000), ("moments", 80_000))
    } | {"samples_seen": value}


def require_sharded(folder: RunFolder, samples_seen: int) -> None:
    state = load_checkpoint(folder, samples_seen)
    assert state["samples_seen"] == samples_seen
    assert all(bool((state[name]["w"] == samples_seen).all()) for name in ("model", "moments"))


def _faults(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    good, group = RunFolder(folder), dist.new_group(backend="gloo")

    def save(value: int, into: RunFolder) -> str:
        copy = copy_state(sharded_state(value), rank=rank)
        writer = FolderWriter(into, {"samples_seen": value}, copy.plain, rank=rank)
        return saved(lambda: save_copy(copy, writer, group))

    assert save(1, good) == ""
    failed: dict[int, list[str]] = {0: [], 1: []}
    for broken in (0, 1):
        while True:
            faulty = Faulty(folder, at=len(failed[broken]) if rank == broken else 10**9)
            reason = save(2, faulty)
            dist.barrier()
            if not reason:
                break
            failed[broken].append(reason)
            if rank == 0:
                assert complete_checkpoints(good) == [1]
            dist.barrier()
        require_sharded(good, 2)
    return {"failed": failed, "events": _failures_of_a_writer(rank, folder)}


def _failures_of_a_writer(rank: int, folder: str) -> list[Any]:
    """Save three times through the thread that training uses; worker 1 cannot write the second time."""
    job, context = make_job(num_workers=2, per_worker_batch_size=64), Kept(rank, 2, folder)
    writer = CheckpointWriter(job, context, BestValue(None), is_sharded=True)
    plan = plan_of(job, 2)
    for value, fails in ((3, False), (4, rank == 1), (5, False), (6, rank == 1)):
        writer.wait()
        context.folder = Faulty(folder, at=0, for_good=True) if fails else RunFolder(folder)
        state = {**sharded_state(value), "progress": float(value)}
        writer.save(state, plan, values=None, is_best=False, began=0.0)
    with pytest.raises(RunError, match=r"its last checkpoint cannot be written: GoneError: write .*model-00001\.bin\."):
        writer.finish()
    found = find_checkpoint(RunFolder(folder)) if rank == 0 else None
    return [(type(event).__name__, event.samples_seen) for event in writer.events()] + [found]


def test_a_fault_of_one_worker_is_one_of_all_and_none_waits_for_ever(tmp_path: Path) -> None:
    first, second = run_group(_faults, 2, str(tmp_path / "run"))
    assert first["failed"] == second["failed"]
    at = f"checkpoints/{2:015d}"
    files = [f"/model-0000{0}.bin", f"/resume-0000{0}.bin", "/plain.pt", "/metadata.json", ".json"]
    assert first["failed"][0][-5:] == [f"GoneError: write {at}{file}." for file in files]
    assert first["failed"][1] == [f"GoneError: write {at}/{kind}-00001.bin." for kind in ("model", "resume")]
    assert first["events"] == [
        ("Checkpointed", 3), ("CheckpointFailed", 4), ("Checkpointed", 5), ("CheckpointFailed", 6), (5, [])
    ]  # fmt: skip
    assert second["events"] == [None]


ROUNDS = 15


def _saver(rank: int, folder: str, meeting: str, first: int) -> None:
    """Save checkpoints until killed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for value in range(first, first + 10_000):
        copy = copy_state(sharded_state(value), rank=rank)
        save_copy(
            copy, FolderWriter(RunFolder(folder), {"samples_seen": value}, copy.plain, rank=rank), dist.group.WORLD
        )


def _kill_savers(rank: int, world_size: int, folder: str) -> list[int]:
    """Fork two workers that save, and kill one at a random moment; return what was found after each round."""
    there, found, chance = RunFolder(folder), [0], random.Random(0)
    for number in range(ROUNDS):
        pids = []
        for member in range(2):
            pid = os.fork()
            if pid == 0:
                with suppress(Exception):
                    _saver(member, folder, f"{folder}-{number}", found[-1] + 1)
                os._exit(1)
            pids.append(pid)
        until = monotonic() + 60
        while not [samples for samples in complete_checkpoints(there) if samples > found[-1]]:
            assert monotonic() < until, "the workers do not save"
            sleep(0.001)
        sleep(chance.uniform(0, 0.03))
        os.kill(chance.choice(pids), signal.SIGKILL)
        sleep(chance.choice([0, 0.005]))  # the other one may notice
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        newest, passed_over = find_checkpoint(there)
        assert newest is not None
        assert newest > found[-1]
        assert all("its manifest was not written" in reason for _, reason in passed_over)
        require_sharded(there, newest)
        found.append(newest)
    return found


def test_after_a_kill_at_any_moment_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    (found,) = run_group(_kill_savers, 1, str(tmp_path / "run"))
    assert len(found) == ROUNDS + 1
