"""``rule: adascale``: the gain is measured, raises the learning rate, and counts as progress."""

import itertools
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
import torch
from small_runs import (
    SAMPLES,
    by_step,
    checkpoint,
    checkpoints,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    plan_of,
    records_of,
    run,
    untimed,
)

from scaler.core.noise_history import NoiseHistory
from scaler.core.noise_scale import GradientSquares, NoiseScaleAverage, gain
from scaler.errors import JobFileError
from scaler.job import Job
from scaler.metrics.record import Record
from scaler.training.controllers import Controllers
from scaler.training.optimizer.preconditioner import Preconditioner

ADAM = {"lr": 0.003, "optimizer": {"name": "adam"}}


def adascale_job(workers: int = 2, size: int = 64, **others: object) -> Job:
    return make_job(num_workers=workers, per_worker_batch_size=size // workers, rule="adascale", **others)


def gains(records: list[Record], batch: int) -> list[float]:
    """Return what each step but the last was worth, from its progress."""
    """What each step was worth in steps of the reference; of whole steps only."""
    return [
        (after.progress - before.progress) / 16
        for before, after in itertools.pairwise(records)
        if after.samples_seen - before.samples_seen == batch
    ]


def noise_so_far(records: list[Record], *, theta: float) -> NoiseScaleAverage:
    average = NoiseScaleAverage(theta=theta)
    for record in records:
        if record.grad_signal is not None and record.grad_variance is not None:
            average = average.update(GradientSquares(signal=record.grad_signal, variance=record.grad_variance))
    return average


def history_so_far(records: list[Record]) -> NoiseHistory:
    history = NoiseHistory()
    for record in records:
        if record.grad_signal is not None and record.grad_variance is not None:
            history = history.update(GradientSquares(signal=record.grad_signal, variance=record.grad_variance))
    return history


@pytest.mark.parametrize("reference", [{}, ADAM], ids=["sgd", "adam"])
def test_every_step_s_lr_and_progress_follow_its_gain(tmp_path: Path, reference: dict[str, object]) -> None:
    job = adascale_job(reference=reference, train={"epochs": 4})
    plan, ranks = plan_of(job, 2), run(tmp_path, 2, job)
    records = records_of(ranks[:1])
    found = gains(records, 64)
    exponent = 0.5 if reference else 1.0
    expected = 1.0  # until the noise is known
    for index, (record, after) in enumerate(itertools.pairwise(records)):
        noise = noise_so_far(records[: index + 1], theta=1.0 - 4 / 1000)
        assert record.noise_scale == history_so_far(records[: index + 1]).noise_scale, "not AdaScale's average"
        size = after.samples_seen - record.samples_seen
        if noise.noise_scale is not None:
            expected = gain(size / 16, noise_scale=noise.noise_scale, reference_batch_size=16)
        worth = (after.progress - record.progress) / 16
        assert worth == pytest.approx(expected, rel=1e-9), "a short step is worth the gain of its own size"
        assert 1.0 - 1e-9 <= worth <= size / 16 + 1e-9
        schedule = plan.schedule.factor(record.progress)
        assert record.lr == record.lr_planned == pytest.approx(plan.base_lr * expected**exponent * schedule, rel=1e-9)
    assert max(found) > 1.5, "else this shows little"
    assert records[0].grad_signal is not None or reference, "Adam has no running squares before its first step"


@pytest.mark.parametrize("is_scaled", [True, False])
def test_an_average_of_the_weights_forgets_by_the_gain_that_a_step_is_worth(tmp_path: Path, is_scaled: bool) -> None:
    """Computed by hand from the checkpoints of every step: a step counts as its gain in steps of the reference."""
    job = adascale_job(
        co_scale={"ema": is_scaled},
        train={"ema": {"decay": 0.9}, "epochs": 2},
        checkpoint={"every": {"samples": 1}, "keep": 999},
    )
    folder = new_folder(tmp_path)
    ranks = run(tmp_path, 2, job, folder=folder)
    records = records_of(ranks[:1])
    assert plan_of(job, 2).phases[0].ema_decay == 0.9
    worth = [(after.progress - before.progress) / 16 for before, after in itertools.pairwise(records)]
    states = checkpoints(folder).values()
    assert len(states) == len(records)
    expected = None
    sizes = [after.samples_seen - before.samples_seen for before, after in itertools.pairwise(records)]
    for state, steps, size in zip(states, worth, sizes, strict=False):
        weights, decay = state["model"]["2.weight"].double(), 0.9**steps if is_scaled else 0.9 ** (size / 64)
        expected = weights if expected is None else decay * expected + (1 - decay) * weights
        assert torch.allclose(state["average"]["weights"]["2.weight"].double(), expected, atol=1e-6)
    assert max(worth) > 1.2, "else this shows little"
    assert min(worth) < 3.5, "and not the batch ratio throughout"


def test_what_an_average_forgets_under_adascale_is_reported() -> None:
    job = adascale_job(co_scale={"ema": True}, train={"ema": {"decay": 0.9}})
    assert plan_of(job, 2).reasons["ema_decay"] == (
        "0.9 ** the measured gain: holds its memory in samples (Busbridge et al. 2023)"
    )


def test_every_rank_holds_the_same_bits(tmp_path: Path) -> None:
    ranks = run(tmp_path, 3, adascale_job(workers=3, size=63, reference=ADAM, train={"epochs": 2}))
    assert ranks[0]["weights"] == ranks[1]["weights"] == ranks[2]["weights"]
    for step in by_step(ranks):
        assert len({(r.progress, r.lr, r.grad_signal, r.grad_variance, r.noise_scale) for r in step}) == 1


def test_training_ends_when_the_reference_s_training_is_done(tmp_path: Path) -> None:
    job = adascale_job(train={"epochs": 4})
    plan, records = plan_of(job, 2), records_of(run(tmp_path, 2, job)[:1])
    total = 4 * SAMPLES
    assert plan.total_samples == total
    last = records[-1]
    assert last.progress < total <= last.progress + 16 * 4.0 * 1.0
    assert plan.total_steps <= len(records) <= 4 * 4 * ceil(SAMPLES / 64)
    assert total <= last.samples_seen + 64 <= plan.most_samples + 64
    assert last.progress < last.samples_seen, "the batch is worth less than its samples"


def test_the_gain_climbs_from_its_start(tmp_path: Path) -> None:
    """AdaScale's own warmup: at first the noise is small beside the gradient, so a large batch is worth little."""
    records = records_of(run(tmp_path, 2, adascale_job(train={"epochs": 8}))[:1])
    found = gains(records, 64)
    third = len(found) // 3
    parts = [found[:third], found[third : 2 * third], found[2 * third :]]
    means = [sum(part) / len(part) for part in parts]
    assert means == sorted(means)
    assert means[2] - means[0] > 0.1


def controllers(job: Job, workers: int = 2) -> Controllers:
    return Controllers(job, plan_of(job, workers))


KNOWN = GradientSquares(signal=1.0, variance=48.0)  # noise scale 48: gain 4 * (48 + 16) / (48 + 64)
UNKNOWN = GradientSquares(signal=-9.0, variance=48.0)


def test_while_the_noise_is_unknown_the_last_gain_stays() -> None:
    held = controllers(adascale_job())
    held.add_measurement(None, batch_ratio=4.0)
    assert held.gain(4.0) == held.lr_factor(4.0) == 1.0, "nothing is known at first"
    held.add_measurement(KNOWN, batch_ratio=4.0)
    known = gain(4.0, noise_scale=48.0, reference_batch_size=16)
    assert held.gain(4.0) == held.lr_factor(4.0) == known > 2.0
    held.add_measurement(UNKNOWN, batch_ratio=4.0)
    assert held.gain(4.0) == known
    assert held.gain(2.0) == known / 2, "a short step has its share"


@pytest.mark.parametrize(("batch_ratio", "expected"), [(8.0, 2.2857142857142856), (2.0, 2.0), (1.0, 1.0), (0.5, 1.0)])
def test_at_another_ratio_a_held_gain_stays_within_what_a_gain_can_be(batch_ratio: float, expected: float) -> None:
    before = controllers(adascale_job())
    before.add_measurement(KNOWN, batch_ratio=4.0)
    before.add_measurement(UNKNOWN, batch_ratio=4.0)
    after = controllers(adascale_job())
    after.load_state_dict(before.state_dict())
    after.add_measurement(None, batch_ratio=batch_ratio)
    assert after.gain(batch_ratio) == pytest.approx(expected)


def test_on_another_number_of_workers_the_measured_noise_continues_and_the_gain_is_that_of_the_new_batch(
    tmp_path: Path,
) -> None:
    folder = new_folder(tmp_path)
    job = make_job(
        num_workers={"min": 1, "max": 2},
        per_worker_batch_size=16,
        grad_accum_steps=2,
        rule="adascale",
        train={"epochs": 8},
    )
    before = records_of(run(tmp_path, 2, job, folder=folder, stop_after=11)[:1])
    saved = checkpoint(folder)
    assert len(before) == saved["controllers"]["noise"]["steps"] == 11
    (alone,) = run(tmp_path, 1, job, folder=folder)
    after = records_of([alone])
    assert (after[0].samples_seen, after[0].progress) == (saved["samples_seen"], saved["progress"])
    # The average forgets by this plan's ratio: 2, no longer 4.
    noise = NoiseScaleAverage.from_dict(saved["controllers"]["noise"], theta=1.0 - 2 / 1000)
    first = after[0]
    squares = GradientSquares(signal=first.grad_signal, variance=first.grad_variance)
    noise = noise.update(squares)
    history = NoiseHistory.from_dict(saved["controllers"]["noise_history"])
    assert len(history.signals) == 11
    assert first.noise_scale == history.update(squares).noise_scale
    worth = noise.gain(2.0, 16)
    factor = plan_of(job, 1).schedule.factor(first.progress)
    assert first.lr == pytest.approx(0.05 * worth * factor, rel=1e-12)
    assert all(1.0 - 1e-9 <= worth <= 2.0 + 1e-9 for worth in gains(after, 32))
    assert after[-1].progress + 32 >= 8 * SAMPLES


def test_a_training_that_was_slow_on_many_workers_comes_to_its_end_on_one(tmp_path: Path) -> None:
    """Samples of little worth count little, so more samples than the reference's whole training may have been used."""
    folder = new_folder(tmp_path)
    job = make_job(
        num_workers={"min": 1, "max": 2},
        per_worker_batch_size=63,
        grad_accum_steps=2,
        rule="adascale",
        train={"samples": 30},
    )
    before = records_of(run(tmp_path, 2, job, folder=folder, stop_after=1)[:1])
    saved = checkpoint(folder)
    assert len(before) == 1
    assert saved["samples_seen"] == 250 > plan_of(job, 1).most_samples
    assert saved["progress"] < 30, "the first step was worth less than two of its 16"
    (alone,) = run(tmp_path, 1, job, folder=folder)
    records = records_of([alone])
    assert records, "there is more to do"
    assert records[-1].progress + 16 * 8 >= 30


def test_adam_s_gradients_are_measured_as_adam_divides_them() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    precondition = Preconditioner(optimizer)
    assert not precondition.is_ready()
    squares = torch.zeros(5, dtype=torch.float64)
    for step in range(1, 4):
        weight.grad = torch.randn(5, dtype=torch.float64)
        squares = 0.99 * squares + 0.01 * weight.grad**2
        optimizer.step()
        assert precondition.is_ready()
        gradient = torch.randn(5, dtype=torch.float64)
        (found,) = precondition([weight], [gradient.clone()])
        # as if this gradient's squares were the parameter's mean
        usual = 0.99 * squares + 0.01 * (squares / (1 - 0.99**step)).mean()
        expected = gradient / ((usual / (1 - 0.99 ** (step + 1))).sqrt() + 1e-3)
        assert torch.allclose(found, expected, rtol=1e-12)


def test_rmsprop_s_squares_are_not_corrected_for_their_start() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.RMSprop([weight], lr=0.1, alpha=0.75)
    weight.grad = torch.tensor([2.0, 4.0])
    optimizer.step()
    (found,) = Preconditioner(optimizer)([weight], [torch.tensor([1.0, 1.0])])
    # squares 1 and 4 after one step, of gradients of 4 and 16: 10 on average
    assert found.tolist() == pytest.approx([(0.75 * 1 + 0.25 * 10) ** -0.5, (0.75 * 4 + 0.25 * 10) ** -0.5])


@pytest.mark.parametrize("steps", [1, 2, 5, 1000])
def test_no_coordinate_that_wakes_is_longer_than_adam_would_have_made_a_usual_one(steps: int) -> None:
    """A coordinate whose gradients were 0, and then as large as the others."""
    weight = torch.nn.Parameter(torch.zeros(100, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(steps):
        weight.grad = torch.ones(100, dtype=torch.float64)
        weight.grad[0] = 0.0
        optimizer.step()
    (found,) = Preconditioner(optimizer)([weight], [torch.ones(100, dtype=torch.float64)])
    share = (1 - 0.999) / (1 - 0.999 ** (steps + 1))
    assert found[0] == pytest.approx((share * 0.99) ** -0.5, rel=1e-6)
    assert found[1:].tolist() == pytest.approx([1.0] * 99, rel=0.01)


def test_a_parameter_whose_gradients_were_all_0_is_left_out_of_the_length() -> None:
    """Behind a layer that begins at 0 no gradient arrives in the first step."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.zeros(3)
    optimizer.step()
    (found,) = Preconditioner(optimizer)([weight], [torch.ones(3)])
    assert found.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_a_dead_relu_that_wakes_does_not_take_over_the_noise_scale(tmp_path: Path, name: str) -> None:
    recipe = make_recipe(noisy=True)
    hidden, wakes_at = torch.nn.Linear(6, 16), 8
    model = torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(16, 2))
    with torch.no_grad():
        hidden.bias[:3] = -100.0  # no sample of the data reaches these
    steps: list[int] = []

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        steps.append(len(steps))
        if len(steps) == 2 * wakes_at + 1:  # two micro-batches a step
            with torch.no_grad():
                hidden.bias[:3] = 0.1
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    job = make_job(
        per_worker_batch_size=32,
        grad_accum_steps=2,
        rule="adascale",
        reference={"lr": 0.003, "optimizer": {"name": name}},
        train={"epochs": 8},
    )
    training, around = in_this_process(tmp_path, replace(recipe, model=model, loss=loss), job)
    training.run()
    before, after = (
        [record.grad_signal + record.grad_variance for record in some if record.grad_signal is not None]
        for some in (around.records[:wakes_at], around.records[wakes_at : wakes_at + 8])
    )
    assert max(after) < 20 * max(before)


def test_an_optimizer_without_running_squares_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adamax([weight], lr=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    with pytest.raises(JobFileError) as caught:
        Preconditioner(optimizer)([weight], [torch.ones(2)])
    assert str(caught.value) == (
        "scale.rule = adascale needs running squares, and Adamax has none.\n  Use sgd, adam, adamw or rmsprop."
    )


def test_adam_s_gain_survives_an_unfreezing(tmp_path: Path) -> None:
    """A parameter that was just unfrozen has no running squares yet, and is left out of that step's norms."""
    job = adascale_job(reference=ADAM, groups=[{"match": "0.*", "freeze": {"epochs": 1}}])
    ranks = run(tmp_path, 2, job)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    records = records_of(ranks[:1])
    assert [record.grad_signal is None for record in records] == [True] + [False] * (len(records) - 1)


def test_at_the_reference_s_batch_adascale_changes_no_bit(tmp_path: Path) -> None:
    shared = {
        "num_workers": 2,
        "per_worker_batch_size": 8,
        "train": {"epochs": None, "samples": 240, "noise_scale_every": 1},
    }
    plain, adaptive = (run(tmp_path, 2, make_job(rule=rule, **shared))[0] for rule in ("none", "adascale"))
    assert adaptive["weights"] == plain["weights"]
    lrs = [[record["lr"] for record in untimed(rank)] for rank in (plain, adaptive)]
    assert lrs[0] == lrs[1]
