"""Controllers: plateau, divergence guard, and a batch that grows with the noise."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    SAMPLES,
    Loss,
    by_step,
    checkpoint,
    events_of,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    plain,
    plan_of,
    records_of,
    run,
    run_in_attempts,
    untimed,
)
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.core.divergence import DivergenceGuard, DivergenceState
from scaler.core.noise_history import NoiseHistory
from scaler.core.noise_scale import GradientSquares
from scaler.errors import RecipeError, TrainingError
from scaler.job import Job
from scaler.metrics.events import LrLowered
from scaler.training.controllers import Controllers

CONSTANT = {"name": "constant", "warmup": {"epochs": 0}}


def scripted(values: list[float]) -> Recipe:
    """Return a recipe whose evaluations give these scores, one after the other."""
    recipe, left = make_recipe(), [values[0], *values]  # the first is asked for before the first step, for its name
    one = TensorDataset(torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64))
    return replace(recipe, eval_data=one, evaluate=lambda model, batch: {"score": left.pop(0)})


def plateau_job(epochs: int, **plateau: Any) -> Job:
    schedule = {"name": "cosine", "warmup": {"epochs": 1}, "plateau": {"metric": "score", **plateau}}
    return make_job(per_worker_batch_size=64, train={"epochs": epochs}, schedule=schedule)


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "plateau"),
    [
        # torch's defaults but for patience: cuts at the fourth and the eighth
        ([1.0, 0.5, 0.6, 0.7, 0.5, 0.4, 0.4, 0.4, 0.1], {"patience": 1}),
        ([1.0, 0.995, 0.99, 0.985, 0.98], {"patience": 0, "threshold": 0.01}),  # each is too small an improvement
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], {"mode": "max", "patience": 0, "cooldown": 2, "factor": 0.5}),
        ([0.1, 0.15, 0.3, 0.34, NAN], {"mode": "max", "patience": 0, "threshold": 0.1, "threshold_mode": "abs"}),
        ([1.0, 1.0, 1.0, 1.0, 1.0], {"patience": 0, "factor": 0.5, "min_factor": 0.25}),
    ],
)
def test_the_lr_is_lowered_where_torch_s_reduce_lr_on_plateau_lowers_it(
    tmp_path: Path, values: list[float], plateau: dict[str, Any]
) -> None:
    job = plateau_job(len(values), **plateau)
    training, around = in_this_process(tmp_path, scripted(values), job)
    training.run()

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {key: value for key, value in plateau.items() if key != "min_factor"}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, min_lr=plateau.get("min_factor", 0.0), eps=0.0, **options
    )
    factors = [1.0]  # after each evaluation
    for value in values:
        theirs.step(value)
        factors.append(theirs.get_last_lr()[0])
    assert factors[-1] < 1.0
    plan = plan_of(job)
    for record in around.records:
        factor = factors[record.samples_seen // SAMPLES]
        assert record.lr == record.lr_planned == pytest.approx(plan.lr_at(record.samples_seen) * factor, rel=1e-15)
    lowered = events_of({"events": around.events}, "lr_lowered")
    cuts = [index for index in range(1, len(factors)) if factors[index] != factors[index - 1]]
    assert [(event.samples_seen, event.factor) for event in lowered] == [
        (index * SAMPLES, pytest.approx(factors[index]))
        for index in cuts
        if index < len(values)  # at the end no step follows
    ]


def test_the_event_of_a_lowered_lr_gives_the_reason(tmp_path: Path) -> None:
    training, around = in_this_process(tmp_path, scripted([0.5, 0.75, 0.625, 0.5]), plateau_job(4, patience=1))
    training.run()
    assert events_of({"events": around.events}, "lr_lowered") == [
        LrLowered(
            time=0.0,
            attempt=0,
            samples_seen=3 * SAMPLES,
            by="plateau",
            factor=0.1,
            reason="score 0.625 is not better than 0.5 by more than the threshold, for 2 evaluations",
        )
    ]


def test_a_first_evaluation_that_is_nan_is_no_better_than_anything_before(tmp_path: Path) -> None:
    training, around = in_this_process(tmp_path, scripted([NAN, 0.5]), plateau_job(2, patience=0))
    training.run()
    lowered = events_of({"events": around.events}, "lr_lowered")
    assert [event.reason for event in lowered] == ["score nan is not better than anything before, for 1 evaluation"]


def test_a_step_up_within_the_threshold_is_reported_as_no_improvement(tmp_path: Path) -> None:
    job = plateau_job(3, mode="max", patience=0, threshold=0.01)
    training, around = in_this_process(tmp_path, scripted([0.9617, 0.9667, 0.9667]), job)
    training.run()
    lowered = events_of({"events": around.events}, "lr_lowered")
    assert [event.reason for event in lowered] == [
        "score 0.9667 is not better than 0.9617 by more than the threshold, for 1 evaluation"
    ], "and at the end, where no step follows, there is no event"


def test_a_plateau_of_what_is_not_evaluated_is_refused(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64, schedule={**CONSTANT, "plateau": {"metric": "f1"}})
    training, around = in_this_process(tmp_path, make_recipe(), job)
    with pytest.raises(RecipeError) as caught:
        training.run()
    assert str(caught.value) == (
        "schedule.plateau.metric = f1 is not among the evaluation's values.\n  They are accuracy, loss."
    )
    assert not around.records, "it is found before the first step"
    with pytest.raises(RecipeError) as caught:
        in_this_process(tmp_path, replace(make_recipe(), eval_data=None), job)[0].run()
    assert str(caught.value) == (
        "schedule.plateau reacts to evaluations, but the recipe has no eval_data.\n  Add eval_data to it."
    )


def test_a_metric_of_some_batches_only_is_found(tmp_path: Path) -> None:
    """The first batch may lack the metric; all the data together have it."""
    calls: list[int] = []

    def seldom(model: Any, batch: Any) -> dict[str, float]:
        calls.append(len(batch[1]))
        return {"score": 1.0} if len(batch[1]) < 64 else {}  # 101 samples: 64 and 37

    recipe = replace(make_recipe(), evaluate=seldom, evaluate_over="batch")
    training, _ = in_this_process(tmp_path, recipe, plateau_job(1))
    training.run()
    assert calls == [64, 64, 37, 64, 37]


def test_looking_for_the_metric_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    """Weights, BatchNorm's statistics and random numbers stay the same."""
    drawn, weights = [], []
    for plateau in (None, {"metric": "ema_noise", "patience": 100}):
        torch.manual_seed(0)
        recipe = make_recipe(norm=True)
        losses = recipe.loss

        def loss(model: Any, batch: Any, plain_loss: Any = losses) -> Any:
            drawn[-1].append((random.random(), float(np.random.rand()), float(torch.rand(()))))
            return plain_loss(model, batch)

        def noise(model: Any, batch: Any) -> dict[str, float]:
            return {"noise": random.random() + float(np.random.rand()) + float(torch.rand(()))}

        job = make_job(
            per_worker_batch_size=64,
            schedule={**CONSTANT, "plateau": plateau},
            train={"ema": {"decay": 0.9}, "epochs": 1},
            co_scale={"ema": True},
        )
        training, _ = in_this_process(tmp_path, replace(recipe, loss=loss, evaluate=noise), job)
        drawn.append([])
        random.seed(1)
        np.random.seed(1)
        training.run()
        weights.append(plain(training._stepper.module.state_dict()))
    assert drawn[0] == drawn[1] != []
    assert weights[0] == weights[1]


def test_every_worker_lowers_the_lr_equally(tmp_path: Path) -> None:
    plateau = {"metric": "accuracy", "mode": "max", "patience": 0, "threshold": 0.5}
    job = make_job(num_workers=2, per_worker_batch_size=32, schedule={**CONSTANT, "plateau": plateau})
    ranks = run(tmp_path, 2, job)
    lrs = [[record.lr for record in records_of([rank])] for rank in ranks]
    assert lrs[0] == lrs[1]
    assert len(set(lrs[0])) > 1
    assert events_of(ranks[0], "lr_lowered")
    assert {event.kind for event in ranks[1]["events"]} == {"worker_ended"}, "else rank 0 speaks for all"


STOPPED = (
    "TrainingError: the training diverged: loss is nan.\n"
    "  Lower reference.lr, warm up longer, set train.clip_grad_norm, or let it go back to a checkpoint "
    "with a lower learning rate:\n  failures.divergence: {then: go_back}."
)


@pytest.mark.parametrize("broken_from", [0, 7])
def test_a_nan_on_one_worker_alone_stops_them_all(tmp_path: Path, broken_from: int) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    broken = {"nan_from": broken_from, "nan_calls": 10**9}
    ranks = run(tmp_path, 2, job, errors=True, broken=broken, broken_rank=1)
    assert [rank["error"] for rank in ranks] == [STOPPED, STOPPED]
    assert len(ranks[0]["records"]) == len(ranks[1]["records"]), "no worker was ahead"
    diverged = events_of(ranks[0], "diverged")
    assert [(event.reason, event.goes_back) for event in diverged] == [("loss is nan", False)]


def test_without_a_guard_it_trains_on(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64, failures={"divergence": None})
    (rank,) = run(tmp_path, 1, job, broken={"nan_from": 2, "nan_calls": 10**9})
    assert len(rank["records"]) == plan_of(job).total_steps


def test_a_loss_far_above_the_others_stops_it_too(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=16, failures={"divergence": {"multiple": 3.0}}, schedule=CONSTANT)
    recipe = make_recipe()

    class Rising(Loss):
        def __call__(self, model: Any, batch: Any) -> Any:
            return super().__call__(model, batch) * (100.0 if len(self.sizes) > 12 else 1.0)

    training, _ = in_this_process(tmp_path, replace(recipe, loss=Rising()), job)
    with pytest.raises(TrainingError) as caught:
        training.run()
    assert "3 times it" in caught.value.problem
    assert caught.value.problem.startswith("the training diverged: loss ")


def go_back_job(workers: int = 1, **divergence: Any) -> Job:
    return make_job(
        num_workers=workers,
        per_worker_batch_size=64 // workers,
        failures={"divergence": {"then": "go_back", **divergence}},
        schedule=CONSTANT,
        checkpoint={"every": {"steps": 2}},
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_it_goes_back_to_a_checkpoint_and_continues_at_a_lower_lr(tmp_path: Path, workers: int) -> None:
    folder = new_folder(tmp_path)
    job = go_back_job(workers, lr_factor=0.25)
    broken = {"nan_from": 6, "nan_calls": 1}
    ranks = run(tmp_path, workers, job, folder=folder, broken=broken, broken_rank=workers - 1)
    plan = plan_of(job, workers)
    for rank in ranks:
        first, second = ([r for r in records_of([rank]) if r.attempt == attempt] for attempt in (0, 1))
        assert all(record.lr == plan.lr_at(record.samples_seen) for record in first)
        assert all(record.lr == 0.25 * plan.lr_at(record.samples_seen) for record in second)
        assert second[0].samples_seen <= first[-1].samples_seen
        assert second[-1].samples_seen + 58 == 3 * SAMPLES, "it came to the end: 250 are 3 x 64 and 58"
        assert all(torch.tensor(rank["weights"]).isfinite())
    assert all(rank["weights"] == ranks[0]["weights"] for rank in ranks)
    started = events_of(ranks[0], "attempt_started")
    assert [event.attempt for event in started] == [0, 1]
    assert started[1].start_samples == min(r.samples_seen for r in records_of(ranks) if r.attempt == 1)
    (diverged,) = events_of(ranks[0], "diverged")
    assert (diverged.attempt, diverged.reason, diverged.goes_back) == (0, "loss is nan", True)
    saved = checkpoint(folder)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    assert saved["controllers"]["times_gone_back"] == 1


def test_it_goes_back_to_before_the_first_loss_that_was_too_large(tmp_path: Path) -> None:
    """Ten losses above the limit make a divergence; no checkpoint of these ten steps is used to continue."""
    job = go_back_job(lr_factor=1e-30)
    job = Job.model_validate({**job.model_dump(), "reference": {**job.reference.model_dump(), "lr": 1e30}})
    (rank,) = run(tmp_path, 1, job)
    guard, state, above = DivergenceGuard(), DivergenceState(), []
    for record in records_of([rank]):
        if record.attempt == 0:
            state, _ = guard.observe(state, record.loss)
            above += [record.samples_seen] if state.above else []
    assert len(above) == 10
    started = events_of(rank, "attempt_started")
    assert len(started) == 2
    assert started[1].start_samples <= above[0]


def test_it_goes_back_only_so_often_and_each_time_lower(tmp_path: Path) -> None:
    (rank,) = run(tmp_path, 1, go_back_job(max_times=2), errors=True, broken={"nan_from": 5, "nan_calls": 10**9})
    assert rank["error"] == (
        "TrainingError: the training diverged again, after going back 2 times: loss is nan.\n"
        "  Lower reference.lr, warm up longer, set train.clip_grad_norm, or let it go back more often: "
        "failures.divergence.max_times."
    )
    peak = plan_of(go_back_job()).peak_lr
    lrs = {record.attempt: record.lr for record in records_of([rank])}
    assert lrs == {0: peak, 1: 0.5 * peak, 2: 0.25 * peak}
    assert [event.goes_back for event in events_of(rank, "diverged")] == [True, True, False]
    assert [event.attempt for event in events_of(rank, "attempt_started")] == [0, 1, 2]


def blowing_up(**failures: Any) -> tuple[Job, dict[str, float]]:
    """Return a recipe whose first step has a finite loss and leaves weights that are not finite."""
    job = make_job(
        per_worker_batch_size=64,
        reference={"lr": 1e37, "optimizer": {"name": "sgd"}},
        schedule=CONSTANT,
        checkpoint={"every": {"steps": 1}},
        **failures,
    )
    return job, {"factor": 1e5}


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """All losses so far are finite: the last step broke the weights."""
    job, broken = blowing_up()
    folder = new_folder(tmp_path)
    (rank,) = run(tmp_path, 1, job, folder=folder, errors=True, broken=broken)
    assert rank["error"].splitlines()[0] == "TrainingError: the training diverged: 0.weight is not finite."
    assert len(rank["records"]) == 1
    assert not list(folder.glob("checkpoints/*"))


def test_going_back_from_such_weights_leads_to_numbers(tmp_path: Path) -> None:
    job, broken = blowing_up(failures={"divergence": {"then": "go_back", "lr_factor": 1e-45, "max_times": 1}})
    folder = new_folder(tmp_path)
    (rank,) = run(tmp_path, 1, job, folder=folder, broken=broken)
    assert all(torch.tensor(rank["weights"]).isfinite())
    assert all(tensor.isfinite().all() for tensor in checkpoint(folder)["model"].values())


def test_going_back_takes_average_and_frozen_parameters_along(tmp_path: Path) -> None:
    """Everything after the checkpoint is undone: the average, the unfreezing, a grown batch."""
    values = go_back_job().model_dump()
    values["groups"] = [{"match": "0.*", "freeze": {"samples": 192}}]
    values["train"]["ema"] = {"decay": 0.9}
    values["checkpoint"] = {"every": {"epochs": 10}}  # so it goes back to the very start
    job = Job.model_validate(values)
    (rank,) = run(tmp_path, 1, job, broken={"nan_from": 4, "nan_calls": 1})
    (calm,) = run(tmp_path, 1, Job.model_validate({**values, "reference": {**values["reference"], "lr": 0.025}}))
    again = [record for record in untimed(rank) if record["step"] == 0][1]
    assert again["samples_seen"] == 0
    after = untimed(rank)[-len(calm["records"]) :]
    assert [record["grad_norm"] for record in after] == [record["grad_norm"] for record in untimed(calm)]
    assert rank["weights"] == calm["weights"], (
        "half the learning rate from the start, as a run at half the learning rate"
    )


def grow_job(workers: int = 2, most: int = 64, **others: Any) -> Job:
    return make_job(
        num_workers=workers,
        per_worker_batch_size=8 // workers,
        batch_schedule={"name": "noise_scale", "max_global_batch_size": most, "every": {"samples": 100}},
        train={"noise_scale_every": 1, "epochs": 12},
        **others,
    )


def test_the_batch_doubles_where_the_noise_scale_is_surely_above_twice_it(tmp_path: Path) -> None:
    ranks = run(tmp_path, 2, grow_job(), noisy=True)
    grown = {event.samples_seen: event.global_batch_size for event in events_of(ranks[0], "batch_grown")}
    assert len(grown) >= 2, "else this shows nothing"
    history, batch, looked = NoiseHistory(), 8, 0
    for step in by_step(ranks):
        first, size = step[0], sum(record.samples for record in step)
        assert len({(r.samples_seen, r.lr, r.grad_signal, r.noise_scale) for r in step}) == 1, (
            "on every worker the same"
        )
        assert size == batch or (first.samples_seen + size) % SAMPLES == 0
        assert first.lr == first.lr_planned
        if first.grad_signal is not None and first.grad_variance is not None:
            history = history.update(GradientSquares(signal=first.grad_signal, variance=first.grad_variance))
        assert first.noise_scale == history.noise_scale
        ended = first.samples_seen + size
        if ended // 100 != first.samples_seen // 100:
            looked += 1
            present = history.present()
            is_above = present is not None and present.lower > 2 * batch
            assert (ended in grown) == (is_above and batch < 64 and ended < 12 * SAMPLES)
            batch = grown.get(ended, batch)
    assert looked > len(grown), "sometimes it looks and does not grow"
    assert max(max(rank["sizes"]) for rank in ranks) <= 4, "no micro-batch is larger than at the start"


def test_the_lr_follows_a_grown_batch_by_the_rule(tmp_path: Path) -> None:
    job = grow_job(schedule=CONSTANT)
    ranks = run(tmp_path, 2, job, noisy=True)
    grown = [(0, 8), *((e.samples_seen, e.global_batch_size) for e in events_of(ranks[0], "batch_grown"))]
    assert len(grown) > 1
    for step in by_step(ranks):
        batch = [size for at, size in grown if at <= step[0].samples_seen][-1]
        samples = sum(record.samples for record in step)
        assert samples <= batch
        assert step[0].lr == pytest.approx(0.05 * samples / 16)
    for event in events_of(ranks[0], "batch_grown"):
        assert event.peak_lr == pytest.approx(0.05 * event.global_batch_size / 16)


def test_a_grown_batch_stays_within_the_job_s_bound_on_more_workers(tmp_path: Path) -> None:
    """Growth is a multiple of the first batch, which grows with the workers; the bound is a number of samples."""
    folder = new_folder(tmp_path)
    values = make_job(
        num_workers={"min": 1, "max": 2},
        per_worker_batch_size=2,
        grad_accum_steps=8,
        batch_schedule={"name": "noise_scale", "max_global_batch_size": 32, "every": {"samples": 100}},
        train={"noise_scale_every": 1, "epochs": 4},
    )
    attempts = [run(tmp_path, 1, values, folder=folder, stop_after=15, noisy=True)[0] for _ in range(2)]
    assert [e.global_batch_size for attempt in attempts for e in events_of(attempt, "batch_grown")] == [32]
    ranks = run(tmp_path, 2, values, folder=folder, noisy=True)
    assert max(sum(record.samples for record in step) for step in by_step(ranks)) == 32


def test_instead_of_decay_the_batch_grows_only_as_far_as_the_noise_scale_surely_is(tmp_path: Path) -> None:
    schedule = {"name": "linear", "warmup": {"epochs": 0}}
    wanted = {"name": "instead_of_decay", "max_global_batch_size": 128, "growth": 1.25, "up_to": "noise_scale"}
    job = make_job(
        num_workers=2,
        per_worker_batch_size=4,
        batch_schedule=wanted,
        schedule=schedule,
        train={"noise_scale_every": 1, "epochs": 8},
    )
    plan, ranks = plan_of(job, 2), run(tmp_path, 2, job, noisy=True)
    grown = {event.samples_seen: event for event in events_of(ranks[0], "batch_grown")}
    history, batch, bounds = NoiseHistory(), 8, set()
    every, total = plan.grow_every_samples, plan.total_samples
    assert every == 20
    for step in by_step(ranks):
        first, size = step[0], sum(record.samples for record in step)
        if first.grad_signal is not None and first.grad_variance is not None:
            history = history.update(GradientSquares(signal=first.grad_signal, variance=first.grad_variance))
        expected = 0.05 * size / 16 * (1 - first.samples_seen / total)
        assert first.lr == first.lr_planned == pytest.approx(expected), "the rule's, times the schedule"
        ended = first.samples_seen + size
        present = history.present()
        if ended // every == first.samples_seen // every or ended == total:
            continue
        schedule_asks = min(128, round(8 / (1 - ended / total)))
        noise_allows = int(present.lower) if present is not None else 0
        allowed = min(schedule_asks, noise_allows)
        assert (ended in grown) == (allowed >= min(1.25 * batch, 128) and allowed > batch)
        if ended in grown:
            assert grown[ended].global_batch_size == allowed
            batch = allowed
            bounds.add("noise" if noise_allows < schedule_asks else "schedule")
        elif schedule_asks >= 1.25 * batch:
            bounds.add("waits for the noise")
    assert {"schedule", "waits for the noise"} <= bounds, "else this shows less"


TWO_MICRO_STEPS = {"per_worker_batch_size": 16, "grad_accum_steps": 2}
NOISY = {"noise_scale_every": 1, "epochs": 3}
RESUMED = {
    "plateau": make_job(
        per_worker_batch_size=32,
        train={"epochs": 3, "eval_every": {"samples": 100}},
        schedule={
            **CONSTANT,
            "plateau": {"metric": "accuracy", "mode": "max", "patience": 1, "threshold": 0.1, "cooldown": 1},
        },
    ),
    "growth": make_job(
        per_worker_batch_size=2,
        grad_accum_steps=4,
        reference={"lr": 0.2},
        batch_schedule={"name": "noise_scale", "max_global_batch_size": 64, "every": {"samples": 50}},
        train={"noise_scale_every": 1, "epochs": 2},
    ),
    "adascale": make_job(rule="adascale", **TWO_MICRO_STEPS),
    "adascale_adam": make_job(
        rule="adascale", reference={"lr": 0.003, "optimizer": {"name": "adam"}}, **TWO_MICRO_STEPS
    ),
    "ema": make_job(per_worker_batch_size=32, co_scale={"ema": True}, train={"ema": {"decay": 0.95}}),
    "guard": make_job(
        per_worker_batch_size=16, failures={"divergence": {"multiple": 1.2}}, reference={"lr": 0.2}, schedule=CONSTANT
    ),
    "noise": make_job(train=NOISY, **TWO_MICRO_STEPS),
    "doubling with adam_sde": make_job(
        per_worker_batch_size=16,
        rule="adam_sde",
        reference={"lr": 0.003, "optimizer": {"name": "adam"}},
        batch_schedule={"name": "doubling", "every": {"epochs": 1}, "max_global_batch_size": 64},
    ),
    "instead of decay": make_job(
        per_worker_batch_size=16,
        batch_schedule={"name": "instead_of_decay", "max_global_batch_size": 64, "growth": 1.25},
    ),
    "instead of decay up to the noise": make_job(
        per_worker_batch_size=2,
        grad_accum_steps=4,
        reference={"lr": 0.2},
        schedule={"name": "linear", "warmup": {"epochs": 0}},
        batch_schedule={"name": "instead_of_decay", "max_global_batch_size": 64, "up_to": "noise_scale"},
        train={"noise_scale_every": 1, "epochs": 2},
    ),
    "unfreezing": make_job(per_worker_batch_size=32, groups=[{"match": "0.*", "freeze": {"epochs": 1}}]),
}


@pytest.mark.parametrize("name", RESUMED)
def test_stopped_after_every_step_it_is_the_run_that_was_never_stopped(tmp_path: Path, name: str) -> None:
    job = RESUMED[name]
    folder = new_folder(tmp_path)
    (calm,) = run(tmp_path, 1, job, folder=folder)
    stopped = run_in_attempts(tmp_path, job)
    assert stopped["attempts"] == len(calm["records"])
    assert untimed(stopped) == untimed(calm)
    assert stopped["weights"] == calm["weights"]
    kinds = ("evaluated", "lr_lowered", "batch_grown")
    assert events_of(stopped, *kinds) == events_of(calm, *kinds)
    ours, theirs = checkpoint(stopped["folder"]), checkpoint(folder)
    assert ours["controllers"] == theirs["controllers"]
    for part in ("optimizer", "average", "progress"):
        assert plain(ours[part]) == plain(theirs[part])


def test_the_runs_above_do_react(tmp_path: Path) -> None:
    """Else they would show nothing."""
    assert events_of(run(tmp_path, 1, RESUMED["plateau"])[0], "lr_lowered")
    for name in ("growth", "instead of decay up to the noise"):
        assert events_of(run(tmp_path, 1, RESUMED[name])[0], "batch_grown")
    assert len(plan_of(RESUMED["instead of decay"]).phases) > 3
    gains = {record.lr for record in records_of(run(tmp_path, 1, RESUMED["adascale"]))}
    assert len(gains) > 5


def test_a_plateau_of_another_metric_keeps_the_lr_and_forgets_the_values(tmp_path: Path) -> None:
    def job(metric: str, mode: str) -> Any:
        plateau = {"metric": metric, "mode": mode, "patience": 0}
        return make_job(per_worker_batch_size=64, schedule={**CONSTANT, "plateau": plateau})

    before = Controllers(job("accuracy", "max"), plan_of(job("accuracy", "max")))
    for accuracy in (0.9, 0.9, 0.9):
        before.add_evaluation({"accuracy": accuracy, "loss": 2.0})
    lowered = before.lr_factor(1.0)
    assert lowered < 1.0
    after = Controllers(job("loss", "min"), plan_of(job("loss", "min")))
    after.load_state_dict(before.state_dict())
    assert after.lr_factor(1.0) == lowered
    assert after.add_evaluation({"accuracy": 0.9, "loss": 2.0}) is None, (
        "2.0 is the first loss, not one that is worse than 0.9"
    )
