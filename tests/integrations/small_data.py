"""Data, network and job of the trainings in this folder, and what every run of theirs must show."""

import os
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import scaler
from scaler.job import Job, parse_job
from scaler.metrics.events import Evaluated, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder

SAMPLES = 90  # no multiple of any batch
LR = 0.02  # at a batch of 8
WARMUP = 2 * SAMPLES  # samples
JOB: dict[str, Any] = {
    "name": "other",
    "reference": {"global_batch_size": 8, "lr": 0.02, "optimizer": {"name": "sgd", "momentum": 0.9}},
    "scale": {"per_worker_batch_size": 4, "rule": "linear"},
    "schedule": {"name": "cosine", "warmup": {"epochs": 2}},
    "train": {"epochs": 3},
}


class Data(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Numbers and noisy sums of them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SAMPLES, 4, generator=generator)
        self.y = self.x.sum(1, keepdim=True) + torch.randn(SAMPLES, 1, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def weights_of(model: nn.Module) -> list[float]:
    found: list[float] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()
    return found


def job(**changes: Any) -> Job:
    """Return the job; its batch is 8 samples, unless ``scale`` says another one."""
    return parse_job({**JOB, **changes}, source="job")


def announce(rank: int, world_size: int) -> None:
    """Set what torchrun sets in each of its processes; the process group exists."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "tests",
    }


def records_of(run: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_records(RunFolder(run)).to_pylist()
    return sorted(rows, key=lambda row: (row["attempt"], row["samples_seen"], row["rank"]))


def evaluations_of(run: str) -> list[Evaluated]:
    return list(of_type(read_events(RunFolder(run)), Evaluated))


def require_whole_report(run: str, *, samples: int, attempts: int = 1) -> Any:
    """Check what every run must show, and return its report."""
    report = scaler.read_run(run).report
    rows = records_of(run)
    assert report.state == "succeeded"
    assert report.lr_audit.as_planned
    assert report.lr_audit.checked_steps == report.totals.steps
    assert report.totals.samples_seen == samples == sum(row["samples"] for row in rows)
    assert len(report.attempts) == attempts
    assert all(row["loss"] is not None and row["grad_norm"] > 0 for row in rows)
    assert all(min(row["data_wait_s"], row["compute_s"], row["sync_wait_s"]) >= 0 for row in rows)
    assert not report.verdicts
    return report


def require_continued(run: str, *, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Check a run of two attempts: it has all its samples, and each attempt the learning rates of its own batch.

    Lightning begins the epoch that it continues with the loader's first batch, so the last step may end later.

    Args:
        run: its folder.
        before: samples in a step of the first attempt, and samples seen when it began.
        after: of the second attempt.
    """
    report = scaler.read_run(run).report
    assert report.state == "succeeded"
    assert 3 * SAMPLES <= report.totals.samples_seen < 3 * SAMPLES + after[0]
    assert report.lr_audit.as_planned
    for attempt, (batch, start) in zip(report.attempts, (before, after), strict=True):
        assert (attempt.global_batch_size, attempt.start_samples) == (batch, start)
        samples: dict[int, int] = {}
        lrs: dict[int, float] = {}
        for row in records_of(run):
            if row["attempt"] == attempt.attempt:
                samples[row["samples_seen"]] = samples.get(row["samples_seen"], 0) + row["samples"]
                lrs[row["samples_seen"]] = row["lr"]
        assert min(lrs) == start
        at = next(seen for seen in sorted(samples) if samples[seen] == batch)  # the first whole step
        assert at < WARMUP
        peak = LR * batch / 8
        assert lrs[at] == pytest.approx(min(LR, peak) + max(0.0, peak - LR) * at / WARMUP, rel=1e-6)
