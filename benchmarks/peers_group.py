"""A group of processes that train one after another what they are asked to, so that a training need not start any."""

import contextlib
import os
import traceback
import warnings
from multiprocessing.connection import Connection
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

STEPS, WARMUP = 450, 50  # of a training whose steps are timed
WIDTH = 256


class Group:
    """Processes with one torch thread each, and a gloo group if there are several.

    Args:
        world_size: processes.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._store = dist.TCPStore("127.0.0.1", 0, world_size, True, wait_for_workers=False)
        context = mp.get_context("spawn")
        self._ends: list[Any] = []
        self._processes = []
        for rank in range(world_size):
            mine, theirs = context.Pipe()
            self._ends.append(mine)
            process = context.Process(target=_member, args=(rank, world_size, self._store.port, theirs), daemon=True)
            process.start()
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end, process in zip(self._ends, self._processes, strict=True):
            with contextlib.suppress(OSError):
                end.send(None)
            process.join(timeout=10)
            process.kill()

    def samples_per_s(self, side: str, job_file: str, *, epochs: int, warmup_steps: int) -> float:
        """Train with one of ``peers_loops.LOOPS``; return samples of all processes per second after the warmup."""
        found = self._ask(_train, side, job_file, epochs, warmup_steps)
        return sum(samples for samples, _ in found) / found[0][1]

    def batch_of(self, step_s: float) -> int:
        """Return the batch with which a plain step takes about ``step_s``."""
        batch_size = 64
        for _ in range(3):
            batch_size = max(1, round(batch_size * step_s / self.step_s(batch_size, is_scaled=False)))
        return batch_size

    def step_s(self, batch_size: int, *, is_scaled: bool) -> float:
        """Return the mean seconds of a step of an MLP, with or without ``scaler.start``, hand-overs included."""
        return max(self._ask(_time_steps, batch_size, is_scaled))

    def _ask(self, function: Any, *arguments: Any) -> list[Any]:
        for end in self._ends:
            end.send((function, arguments))
        found = [end.recv() for end in self._ends]
        errors = [text for is_done, text in found if not is_done]
        if errors:
            raise SystemExit("\n".join(errors))
        return [value for _, value in found]


def _member(rank: int, world_size: int, port: int, end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for stream in (1, 2):  # what trainers say of themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "peers",
    }
    if world_size > 1:
        store = dist.TCPStore("127.0.0.1", port, world_size, False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    while (asked := end.recv()) is not None:
        function, arguments = asked
        try:
            end.send((True, function(world_size, *arguments)))
        except Exception:
            end.send((False, traceback.format_exc()))


def _train(world_size: int, side: str, job_file: str, epochs: int, warmup_steps: int) -> tuple[int, float]:
    """Return this process's samples and seconds from the start of a step to the start of the last one."""
    from peers_loops import LOOPS, Task

    timed = LOOPS[side](Task(job_file, epochs=epochs, world_size=world_size))
    return sum(timed.samples[warmup_steps:-1]), timed.times[-1] - timed.times[warmup_steps]


def _time_steps(world_size: int, batch_size: int, is_scaled: bool) -> float:
    import tempfile

    from torch import nn
    from torch.nn.functional import mse_loss
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    import scaler
    from scaler.job import parse_job

    torch.manual_seed(0)
    data = TensorDataset(
        torch.randn(STEPS * batch_size * world_size, 32), torch.randn(STEPS * batch_size * world_size, 1)
    )
    model: Any = nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    model = DistributedDataParallel(model) if world_size > 1 else model
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sampler: Any = DistributedSampler(data, shuffle=False) if world_size > 1 else None
    loader: Any = DataLoader(data, batch_size=batch_size, sampler=sampler)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        if is_scaled:
            job = {
                "name": "steps",
                "reference": {"global_batch_size": batch_size, "lr": 1e-4, "optimizer": {"name": "adamw"}},
                "scale": {"per_worker_batch_size": batch_size},
                "train": {"steps": STEPS},
            }
            run = scaler.start(parse_job(job, source="job"), num_samples=len(data), storage=folder)
            model, optimizer, loader = run.prepare(model, optimizer, loader)
        for x, y in loader:
            times.append(perf_counter())
            loss = mse_loss(model(x), y)
            if is_scaled:
                scaler.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if is_scaled:
            run.finish()
    return (times[-1] - times[WARMUP]) / (len(times) - 1 - WARMUP)
