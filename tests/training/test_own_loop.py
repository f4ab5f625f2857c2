"""Loops of one's own with ``scaler.start``: samples, learning rates and records are those of the plan."""

import os
from io import BytesIO
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import scaler
from scaler.errors import JobFileError, PlanError, TrainingError
from scaler.job import parse_job
from scaler.metrics.events import Resumed, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder, RunState
from scaler.runs.control import request_stop
from scaler.training.hand_over import HAND_OVER_S
from scaler.training.own_loop import steps as own_steps

SAMPLES = 90  # no multiple of the batch
JOB: dict[str, Any] = {
    "name": "own",
    "reference": {"global_batch_size": 8, "lr": 0.02, "optimizer": {"name": "sgd", "momentum": 0.9}},
    "scale": {"global_batch_size": 16, "rule": "linear"},
    "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
    "train": {"epochs": 3},
}


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x.sum(1, keepdim=True) + torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.02, "momentum": 0.9, **options})


def start(storage: str, **changes: Any) -> Any:
    return scaler.start(parse_job({**JOB, **changes}, source="job"), num_samples=SAMPLES, storage=storage)


def train(
    rank: int,
    world_size: int,
    storage: str,
    changes: dict[str, Any],
    *,
    state: dict[str, Any] | None = None,
    epochs: int = 3,
) -> dict[str, Any]:
    """Train as a script does, and return its weights and its state; rank 0 also returns the run's folder."""
    dataset, model = data(), network()
    run = start(storage, **changes)
    if world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = sgd(model)
    sampler = DistributedSampler(dataset, shuffle=False) if world_size > 1 else None
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=sampler)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    if state is not None:
        model.load_state_dict({f"module.{k}" if world_size > 1 else k: v for k, v in state["model"].items()})
        optimizer.load_state_dict(state["optimizer"])
        run.load_state_dict(state["run"])
    for _ in range(epochs):
        for micro, (x, y) in enumerate(loader, start=1):
            loss = mse_loss(model(x), y)
            scaler.record(loss=loss)
            (loss / run.accumulation).backward()
            if micro % run.accumulation == 0 or micro == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    saved = {"model": plain.state_dict(), "optimizer": optimizer.state_dict(), "run": run.state_dict()}
    run.finish()
    return saved


def records_of(saved: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_records(RunFolder(saved["run"]["run"])).to_pylist()
    return sorted(rows, key=lambda row: (row["attempt"], row["samples_seen"], row["rank"]))


def report_of(saved: dict[str, Any]) -> Any:
    return scaler.read_run(saved["run"]["run"]).report


def test_every_step_has_the_learning_rate_of_the_plan_and_every_sample_is_counted(tmp_path: Path) -> None:
    saved = train(0, 1, str(tmp_path), {})
    report, plan = report_of(saved), scaler.read_run(saved["run"]["run"]).plan
    rows = records_of(saved)
    assert [row["samples_seen"] for row in rows[:7]] == [0, 16, 32, 48, 64, 80, 90]
    assert [row["lr"] for row in rows] == [plan.lr_at(row["samples_seen"]) for row in rows]
    assert (report.state, report.totals.samples_seen, report.totals.steps) == ("succeeded", 3 * SAMPLES, 18)
    assert report.lr_audit.as_planned
    assert report.data_order == "loop"
    assert not report.verdicts


@pytest.mark.parametrize("rule", [{"rule": "linear"}, {"rule": "gain", "noise_scale": 64.0}], ids=["linear", "gain"])
def test_a_job_in_tokens_trains_as_the_same_job_in_samples(tmp_path: Path, rule: dict[str, Any]) -> None:
    """The job is in tokens, of which a sample has 10; the script and its batches are in samples."""
    samples = {"scale": {"global_batch_size": 16, **rule}}
    in_tokens = {name: 10 * value if name == "noise_scale" else value for name, value in rule.items()}
    tokens = {
        "reference": {**JOB["reference"], "global_batch_size": 80},
        "scale": {"global_batch_size": 160, **in_tokens},
        "schedule": {"name": "cosine", "warmup": {"tokens": 10 * SAMPLES}},
        "train": {"unit": "tokens", "tokens_per_sample": 10, "tokens": 30 * SAMPLES},
    }
    one, other = (train(0, 1, str(tmp_path), changes) for changes in (samples, tokens))
    for name, weight in one["model"].items():
        assert torch.equal(other["model"][name], weight)
    report = report_of(other)
    assert report.lr_audit.as_planned
    assert (report.totals.samples_seen, report.totals.tokens_seen) == (3 * SAMPLES, 30 * SAMPLES)


def test_a_step_that_counts_tokens_is_refused(tmp_path: Path) -> None:
    run = start(
        str(tmp_path),
        reference={**JOB["reference"], "global_batch_size": 80},
        scale={"global_batch_size": 160},
        train={"unit": "tokens", "tokens_per_sample": 10, "epochs": 1},
    )
    model = network()
    model, optimizer = run.prepare(model, sgd(model))
    run.count(160)
    model(torch.zeros(1, 4, dtype=torch.float64)).sum().backward()
    with pytest.raises(
        TrainingError, match=r"a step has 160 samples over 1 process, and the plan 16, of 10 tokens each"
    ):
        optimizer.step()
    run.finish()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = train(0, 1, str(tmp_path), {})
    both = _train(2, tmp_path, {})
    for name, weight in alone["model"].items():
        torch.testing.assert_close(both["model"][name], weight, rtol=1e-10, atol=1e-12)
    rows = records_of(both)
    assert {row["rank"] for row in rows} == {0, 1}
    assert sum(row["samples"] for row in rows) == 3 * SAMPLES
    assert report_of(both).lr_audit.as_planned


def test_records_arrive_after_the_script_has_left_its_process_group(tmp_path: Path) -> None:
    found = run_group(_leaving, 2, str(tmp_path))
    assert sum(row["samples"] for row in records_of(found[0])) == 3 * SAMPLES


def _leaving(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    run, model = start(storage), DistributedDataParallel(network())
    loader = DataLoader(data(), batch_size=run.batch_size, sampler=DistributedSampler(data()))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    for _ in range(3):
        for batch in loader:
            step(model, optimizer, batch)
    state = run.state_dict()
    dist.destroy_process_group()
    run.finish()
    return {"run": state}


def test_micro_batches_are_one_step(tmp_path: Path) -> None:
    scale = {"global_batch_size": 16, "per_worker_batch_size": 8, "rule": "linear"}
    rows = records_of(train(0, 1, str(tmp_path), {"scale": scale}))
    assert [row["samples_seen"] for row in rows[:7]] == [0, 16, 32, 48, 64, 80, 90]


def test_a_loader_that_pads_is_counted_as_it_is(tmp_path: Path) -> None:
    """91 samples on two processes are 92 in an epoch: ``DistributedSampler`` gives one of them twice."""
    found = run_group(_padded, 2, str(tmp_path))
    report = report_of(found[0])
    assert report.totals.samples_seen == 2 * 92
    assert report.lr_audit.as_planned


def _padded(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    run = scaler.start(parse_job(JOB, source="job"), num_samples=91, storage=storage, overrides=["train.epochs=2"])
    model = DistributedDataParallel(network())
    dataset = TensorDataset(torch.randn(91, 4).double(), torch.randn(91, 1).double())
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=DistributedSampler(dataset))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    for _ in range(3):  # more than the job's: the loader yields nothing once the training is over
        for x, y in loader:
            mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    state = run.state_dict()
    run.finish()
    return {"run": state}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_training_continues_on_another_number_of_processes(tmp_path: Path, before: int, after: int) -> None:
    """In the middle of the warmup; the batch grows with the processes, and the learning rate is planned anew."""
    changes = {"scale": {"per_worker_batch_size": 8, "rule": "linear"}, "schedule": {"name": "linear"}}
    changes["schedule"]["warmup"] = {"epochs": 2}
    first = _train(before, tmp_path, changes, epochs=1)
    second = _train(after, tmp_path, changes, epochs=2, state=first)
    assert second["run"]["run"] == first["run"]["run"]
    run = scaler.read_run(second["run"]["run"])
    assert (run.report.totals.samples_seen, len(run.report.attempts), run.report.lr_audit.as_planned) == (270, 2, True)
    resumed = of_type(read_events(RunFolder(first["run"]["run"])), Resumed)
    assert [(event.from_samples, event.workers) for event in resumed] == [(SAMPLES, after)]
    last = [row for row in records_of(second) if row["attempt"] == 1]
    plan = run.plan
    assert plan.global_batch_size == 8 * after
    assert last[0]["lr"] == pytest.approx(plan.lr_at(SAMPLES), rel=1e-12)


def _train(world_size: int, storage: Path, changes: dict[str, Any], **options: Any) -> dict[str, Any]:
    if world_size == 1:
        return train(0, 1, str(storage), changes, **options)
    found: dict[str, Any] = torch.load(BytesIO(run_group(_train_with, world_size, str(storage), changes, options)[0]))
    return found


def _train_with(rank: int, world_size: int, storage: str, changes: Any, options: Any) -> bytes:
    """Return what ``train`` returns as bytes: a process may be gone before another one has copied its tensors."""
    file = BytesIO()
    torch.save(train(rank, world_size, storage, changes, **options), file)
    return file.getvalue()


def test_processes_that_do_not_average_gradients_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing averages the gradients"):
        run_group(_unwrapped, 2, str(tmp_path))


def _unwrapped(rank: int, world_size: int, storage: str) -> None:
    run, model, dataset = start(storage), network(), data()
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=DistributedSampler(dataset))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    for x, y in loader:
        mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def loop_of(tmp_path: Path, optimizer: torch.optim.Optimizer, model: nn.Module, **changes: Any) -> tuple[Any, Any]:
    run = start(str(tmp_path), **changes)
    return run, run.prepare(model, optimizer, DataLoader(data(), batch_size=run.batch_size))[2]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    mse_loss(model(batch[0]), batch[1]).backward()
    optimizer.step()


def test_another_scheduler_is_noticed(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run, loader = loop_of(tmp_path, optimizer, model)
    other = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def train_with_both() -> None:
        with run:
            for batch in loader:
                step(model, optimizer, batch)
                other.step()

    with pytest.raises(TrainingError, match="something else writes it"):
        train_with_both()
    folder = RunFolder(run.state_dict()["run"])
    assert folder.state() is RunState.FAILED
    assert "something else writes it" in folder.read_json("status.json")["failure"]


def test_a_step_that_is_larger_than_the_plan_is_refused(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run, _ = loop_of(tmp_path, optimizer, model)

    def train_on_large_batches() -> None:
        with run:
            for batch in run.prepare(DataLoader(data(), batch_size=30)):
                step(model, optimizer, batch)

    with pytest.raises(TrainingError, match="a step has 30 samples over 1 process, and the plan 16"):
        train_on_large_batches()


def test_a_step_without_counted_samples_is_refused(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    loop_of(tmp_path, optimizer, model)
    with pytest.raises(TrainingError, match="an optimizer step without counted samples"):
        step(model, optimizer, data()[:16])


def test_samples_without_a_loader_are_counted(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run, _ = loop_of(tmp_path, optimizer, model)
    while not run.is_over:
        run.count(15)
        step(model, optimizer, data()[:15])
    assert run.samples_seen == 270
    assert run.finish().lr_audit.as_planned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1}, "the job's reference.lr is 0.02, and the optimizer of the loop has 0.1"),
        ({"momentum": 0.5}, "the job's reference.optimizer.momentum is 0.9, and the optimizer of the loop has 0.5"),
    ],
)
def test_an_optimizer_that_is_not_the_references_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model = network()
    with pytest.raises(PlanError, match=message):
        loop_of(tmp_path, sgd(model, **options), model)


def test_another_kind_of_optimizer_is_refused(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(PlanError, match=r"the job's reference.optimizer.name is sgd, and the optimizer of the loop"):
        loop_of(tmp_path, torch.optim.AdamW(model.parameters(), lr=0.02), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"epochs": 3, "clip_grad_norm": 1.0}}, "train.clip_grad_norm is for scaler's own loop"),
        ({"groups": [{"match": "*", "lr_ratio": 0.1}]}, "groups is for scaler's own loop"),
        (
            {"reference": {**JOB["reference"], "optimizers": {"d": {"lr": 0.1}}}},
            r"reference.optimizers.d is a second sgd",
        ),
        (
            {"reference": {**JOB["reference"], "optimizer": {"name": "sgd", "fallback": {"name": "adam", "lr": 0.1}}}},
            r"reference.optimizer.fallback and match are for recipes",
        ),
        (
            {
                "scale": {
                    "per_worker_batch_size": 8,
                    "batch_schedule": {"name": "doubling", "every": {"epochs": 1}, "max_global_batch_size": 32},
                }
            },
            "scale.batch_schedule changes the batch",
        ),
    ],
)
def test_keys_that_a_loop_would_ignore_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFileError, match=message):
        start(str(tmp_path), **changes)


def test_every_group_keeps_its_ratio_to_the_reference(tmp_path: Path) -> None:
    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.002}]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9)
    run, loader = loop_of(tmp_path, optimizer, model, schedule={"name": "constant", "warmup": {"epochs": 0}})
    for batch in loader:
        step(model, optimizer, batch)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.0025])  # a short step: 10 of 16
    assert run.finish().lr_audit.as_planned


def test_two_optimizers_step_on_the_same_samples(tmp_path: Path) -> None:
    models = [network(), network()]
    optimizers = [sgd(model) for model in models]
    run = start(str(tmp_path))
    *_, loader = run.prepare(*models, *optimizers, DataLoader(data(), batch_size=run.batch_size))
    for batch in loader:
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer, batch)
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"] > 0.02
    assert run.finish().totals.steps == 6


def test_the_optimizer_that_is_prepared_first_may_leave_steps_out(tmp_path: Path) -> None:
    """As the generator of a GAN whose critic takes several steps for each of its own."""
    models = [network(), network()]
    optimizers = [sgd(model) for model in models]
    run = start(str(tmp_path))
    *_, loader = run.prepare(*models, *optimizers, DataLoader(data(), batch_size=run.batch_size))
    for number, batch in enumerate(loader):
        step(models[1], optimizers[1], batch)
        if number % 3 == 2:
            step(models[0], optimizers[0], batch)
    report = run.finish()
    assert (report.totals.steps, report.lr_audit.as_planned, report.lr_audit.max_abs_error) == (6, True, 0.0)


def test_a_step_that_no_optimizer_takes_uses_its_samples_up(tmp_path: Path) -> None:
    """As ``torch.amp.GradScaler`` does when a gradient is not finite."""
    model = network()
    optimizer = sgd(model)
    run, loader = loop_of(tmp_path, optimizer, model)
    for number, batch in enumerate(loader):
        if number != 2:
            step(model, optimizer, batch)
    report = run.finish()
    assert (report.totals.samples_seen, report.totals.steps) == (SAMPLES, 5)
    assert report.lr_audit.as_planned


def test_a_plateau_lowers_the_learning_rate(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    schedule = {
        "name": "constant",
        "warmup": {"epochs": 0},
        "plateau": {"metric": "loss", "patience": 0, "factor": 0.5},
    }
    run, loader = loop_of(
        tmp_path, optimizer, model, schedule=schedule, checkpoint={"best": {"metric": "loss", "mode": "min"}}
    )
    best = []
    for _ in range(3):
        for batch in loader:
            step(model, optimizer, batch)
        best.append(run.evaluated(loss=1.0))
    assert best == [True, False, False]
    assert run.lr() == pytest.approx(0.04 / 4)
    assert run.finish().lr_audit.as_planned


def test_scaler_stop_ends_the_loop_at_the_same_step_everywhere(tmp_path: Path) -> None:
    found = run_group(_stopped, 2, str(tmp_path))
    assert found[0]["samples_seen"] == found[1]["samples_seen"] < 270
    assert RunFolder(found[0]["run"]).state() is RunState.STOPPED


def _stopped(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    run, model, dataset = start(storage), DistributedDataParallel(network()), data()
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=DistributedSampler(dataset))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    for _ in range(3):
        for number, batch in enumerate(loader):
            step(model, optimizer, batch)
            if number == 2 and rank == 0:
                request_stop(RunFolder(run.state_dict()["run"]))
                while not run._context.leave_requested():
                    pass
                sleep(HAND_OVER_S)  # then it is asked what to do
    state: dict[str, Any] = run.state_dict()
    run.finish()
    return state


def test_processes_that_have_not_met_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="before the 2 processes have met"):
        start(str(tmp_path))


def test_a_loss_with_a_weight_is_a_mean_over_weights(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run, loader = loop_of(tmp_path, optimizer, model, train={"epochs": 1})
    for number, batch in enumerate(loader):
        scaler.record(loss=float(number), weight=2.0 * number)
        step(model, optimizer, batch)
    rows = records_of({"run": run.state_dict()}) if run.finish() else []
    assert [(row["loss"], row["weight"]) for row in rows[1:4]] == [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]


def test_batches_of_an_evaluation_are_not_counted(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    run, loader = loop_of(tmp_path, optimizer, model, train={"epochs": 1})
    for batch in loader:
        step(model, optimizer, batch)
    with torch.no_grad():
        assert sum(len(batch[0]) for batch in loader) == SAMPLES
    assert run.finish().totals.samples_seen == SAMPLES


def test_a_step_does_not_take_losses_with_and_without_weights(tmp_path: Path) -> None:
    model = network()
    run, loader = loop_of(tmp_path, sgd(model), model)
    next(iter(loader))
    run.record(loss=1.0, weight=2.0)
    with pytest.raises(TrainingError, match="with a weight and without one"):
        run.record(loss=1.0)
    run.finish()


def test_other_values_are_means_over_all_processes(tmp_path: Path) -> None:
    state = run_group(_with_values, 2, str(tmp_path))[0]
    report = scaler.read_run(state["run"]).report
    assert report.final.train == {"accuracy": pytest.approx(0.5), "rank": pytest.approx(0.5)}


def _with_values(rank: int, world_size: int, storage: str) -> dict[str, Any]:
    run, model = start(storage, train={"epochs": 1}), DistributedDataParallel(network())
    loader = DataLoader(data(), batch_size=run.batch_size, sampler=DistributedSampler(data()))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    for batch in loader:
        scaler.record(loss=torch.ones(()), accuracy=torch.full((), 0.5), rank=rank)
        step(model, optimizer, batch)
    state: dict[str, Any] = run.state_dict()
    run.finish()
    return state


def test_a_loss_that_is_not_finite_ends_every_process_at_the_same_step(tmp_path: Path) -> None:
    found = run_group(_diverged, 2, str(tmp_path))
    assert found[0] == found[1]
    message, samples_seen = found[0]
    assert "the training diverged" in message
    assert 32 <= samples_seen < 270


def _diverged(rank: int, world_size: int, storage: str) -> tuple[str, int]:
    own_steps.HAND_OVER_S = 0.0  # at every step
    run, model, dataset = start(storage), DistributedDataParallel(network()), data()
    loader = DataLoader(dataset, batch_size=run.batch_size, sampler=DistributedSampler(dataset))
    model, optimizer, loader = run.prepare(model, sgd(model), loader)
    try:
        for number, batch in enumerate(loader):
            step(model, optimizer, batch)
            scaler.record(loss=float("nan") if number == 1 and rank == 1 else 1.0)
    except TrainingError as error:
        run.finish(error)
        return str(error), run.samples_seen
    raise AssertionError("nothing noticed the loss")


def test_an_own_loop_cannot_go_back_to_a_checkpoint_of_scaler_s(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="go_back needs scaler's checkpoints"):
        start(str(tmp_path), failures={"divergence": {"then": "go_back"}})


def test_muon_and_adamw_each_follow_the_rule_and_the_reference_of_their_own(tmp_path: Path) -> None:
    """Muon by the root and AdamW unscaled, prepared in any order; a last step of 10 of 16 samples."""
    model = network()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    muon = torch.optim.Muon(matrices, lr=0.02)
    adamw = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.ndim != 2], lr=0.003)
    rest = {"lr": 0.003, "optimizer": {"name": "adamw"}, "rule": "none"}
    reference = {"global_batch_size": 8, "lr": 0.02, "optimizer": {"name": "muon"}, "optimizers": {"rest": rest}}
    run = start(
        str(tmp_path),
        reference=reference,
        scale={"per_worker_batch_size": 16, "rule": "auto"},
        schedule={"name": "constant", "warmup": {"epochs": 0}},
    )
    *_, loader = run.prepare(model, adamw, muon, DataLoader(data(), batch_size=run.batch_size))
    seen = []
    for features, labels in loader:
        mse_loss(model(features), labels).backward()
        for optimizer in (adamw, muon):
            optimizer.step()
            optimizer.zero_grad()
        seen.append((len(labels), muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]))
    for size, muon_lr, adamw_lr in seen:
        assert (muon_lr, adamw_lr) == (pytest.approx(0.02 * (size / 8) ** 0.5), pytest.approx(0.003))
    assert {size for size, *_ in seen} > {16}
    audit = run.finish().lr_audit
    assert (audit.as_planned, audit.max_abs_error) == (True, pytest.approx(0.0, abs=1e-15))


def test_an_optimizer_with_a_rule_of_its_own_takes_no_options_of_the_job_s_rule(tmp_path: Path) -> None:
    model = network()
    first, *others = model.parameters()
    rest = {"lr": 0.01, "optimizer": {"name": "rmsprop"}, "rule": "sqrt"}
    adamw = {"name": "adamw", "betas": [0.9, 0.99]}
    run = start(
        str(tmp_path),
        reference={"global_batch_size": 8, "lr": 0.003, "optimizer": adamw, "optimizers": {"rest": rest}},
        scale={"per_worker_batch_size": 16, "rule": "adam_sde", "betas": "power", "beta2_range": [0.9, 0.9999]},
        schedule={"name": "constant", "warmup": {"epochs": 0}},
    )
    adam = torch.optim.AdamW([first], lr=0.003, betas=(0.9, 0.99))
    other = torch.optim.RMSprop(others, lr=0.01)
    run.prepare(model, adam, other)
    assert adam.param_groups[0]["betas"] == pytest.approx((0.9**2, 0.99**2))
    assert (other.param_groups[0]["lr"], other.param_groups[0]["alpha"]) == (pytest.approx(0.01 * 2**0.5), 0.99)


def test_fsdp1_is_refused(tmp_path: Path) -> None:
    class Wrapped(FullyShardedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)  # FSDP's own needs a GPU

    message = r"the model is wrapped in FullyShardedDataParallel \(FSDP1\).*\n  Use FSDP2"
    with pytest.raises(TrainingError, match=message):
        start(str(tmp_path)).prepare(nn.Sequential(Wrapped()))
