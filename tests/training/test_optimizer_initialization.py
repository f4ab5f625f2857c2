"""torch takes a step of zeros to make an optimizer's state before it saves or loads; it is no step of the training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import scaler
from scaler.job import parse_job
from scaler.training.optimizer.initialization import is_initialization

SCHEDULE = scaler.Schedule(shape=scaler.shapes.Linear(length=80))
SGD: dict[str, Any] = {"name": "line", "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd"}}}


def test_states_are_read_while_a_loop_of_ones_own_trains(tmp_path: Path) -> None:
    """SGD without momentum never has state, so each call takes such a step: here before, in and after a step."""
    job = parse_job({**SGD, "scale": {"per_worker_batch_size": 8}, "train": {"samples": 24}}, source="job")
    run = scaler.start(job, num_samples=24, storage=tmp_path)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.prepare(model, optimizer)
    saved = get_optimizer_state_dict(model, optimizer)
    set_optimizer_state_dict(model, optimizer, saved)
    while not run.is_over:
        run.count(8)
        get_optimizer_state_dict(model, optimizer)
        model(torch.ones(8, 2)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        get_optimizer_state_dict(model, optimizer)
    report = run.finish()
    assert (report.totals.steps, report.totals.samples_seen) == (3, 24)
    assert report.lr_audit.as_planned
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_a_sample_scheduler_does_not_move() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = scaler.SampleScheduler(
        optimizer, reference_batch_size=4, global_batch_size=8, schedule=SCHEDULE, rule="linear"
    )
    get_optimizer_state_dict(model, optimizer)
    assert optimizer.state  # the step was taken
    assert scheduler.state_dict()["samples_seen"] == 0
    assert scheduler.get_last_lr() == [0.2]


@pytest.mark.parametrize(
    ("lr", "gradient", "momentum", "expected"),
    [
        (0.0, 0.0, 0.0, True),
        (0.1, 0.0, 0.0, False),  # a learning rate
        (0.0, 1.0, 0.0, False),  # the first step of a warmup from 0
        (0.0, 0.0, 0.9, False),  # has state
    ],
)
def test_only_a_step_of_zeros_without_state_is_one(lr: float, gradient: float, momentum: float, expected: bool) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=lr, momentum=momentum)
    weight.grad = torch.full((2,), gradient)
    if momentum:
        optimizer.step()
    assert is_initialization(optimizer) == expected
