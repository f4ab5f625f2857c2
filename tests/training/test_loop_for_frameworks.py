"""What a loop of one's own offers to frameworks: a scheduler, steps with closures, waits for data without a loader."""

from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from test_own_loop import data, network, records_of, sgd, start
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from scaler.errors import PlanError


def test_steps_of_the_scheduler_change_nothing(tmp_path: Path) -> None:
    """However often it is stepped; and it shows the learning rate that the optimizer used."""
    model = network()
    optimizer = sgd(model)
    run = start(str(tmp_path))
    scheduler = run.scheduler(optimizer)  # prepares the optimizer
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    _, _, loader = run.prepare(model, optimizer, DataLoader(data(), batch_size=16))
    used = []
    for x, y in loader:
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()
        for _ in range(3):
            scheduler.step()
        used += scheduler.get_last_lr()
    state = run.state_dict()
    report = run.finish()
    assert report.lr_audit.as_planned
    assert used == [row["lr"] for row in records_of({"run": state})]
    assert used[0] == 0.02 < used[-2]
    scheduler.load_state_dict({"last_epoch": 7, "_last_lr": [1.0]})  # of another scheduler
    assert (scheduler.state_dict(), scheduler.get_last_lr()) == ({}, [used[-1]])


def test_a_scheduler_for_an_optimizer_that_is_not_the_references_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"the job's reference.lr is 0.02, and the optimizer of the loop has 0.5"):
        start(str(tmp_path)).scheduler(sgd(network(), lr=0.5))


def test_a_step_that_computes_its_gradient_in_a_closure_is_the_same_step(tmp_path: Path) -> None:
    """Lightning and L-BFGS do so: the gradient is complete after the hook before the step."""

    def train(folder: Path, *, in_closure: bool) -> tuple[list[dict[str, Any]], torch.Tensor]:
        model = network()
        optimizer = sgd(model)
        run = start(str(folder))
        _, _, loader = run.prepare(model, optimizer, DataLoader(data(), batch_size=16))
        for x, y in loader:

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = mse_loss(model(x), y)
                loss.backward()
                return loss

            if in_closure:
                assert optimizer.step(closure) is not None
            else:
                closure()
                optimizer.step()
        state = run.state_dict()
        assert run.finish().lr_audit.as_planned
        return records_of({"run": state}), model[0].weight

    ours, our_weight = train(tmp_path / "closure", in_closure=True)
    theirs, their_weight = train(tmp_path / "before", in_closure=False)
    assert torch.equal(our_weight, their_weight)
    for key in ("lr", "samples", "grad_norm"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    assert all(row["compute_s"] > 0 for row in ours)


def test_the_wait_for_data_is_known_without_a_loader(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run = start(str(tmp_path))
    run.prepare(model, optimizer)
    x, y = data()[:16]
    for number in range(4):
        run.fetching()
        if number == 2:
            sleep(0.05)
        run.count(16)
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()
    run.fetching()
    run.evaluated(loss=1.0)  # the time until the next batch is no wait
    sleep(0.05)
    run.count(16)
    optimizer.step()
    state = run.state_dict()
    run.finish()
    waits = [row["data_wait_s"] for row in records_of({"run": state})]
    assert waits[2] >= 0.05
    assert waits[4] == 0
