"""Whole runs through the real loop, in groups of real processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import (
    SAMPLES,
    accuracies,
    checkpoint,
    in_this_process,
    make_job,
    make_recipe,
    plan_of,
    records_of,
    run,
    run_in_attempts,
    step_losses,
    untimed,
)
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.metrics.record import Record
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.randomness import seed_everything
from scaler.training.worker_context import AttemptEnd, Leave


def test_the_same_global_batch_gives_the_same_run_however_it_is_made(tmp_path: Path) -> None:
    """1 x 128, 2 x 64, 1 x 64 with two micro-steps, and 3 workers that do not divide 128: one run."""
    one = run(tmp_path, 1, make_job(num_workers=1, per_worker_batch_size=128))
    others = [
        run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=64)),
        run(tmp_path, 1, make_job(num_workers=1, per_worker_batch_size=64, grad_accum_steps=2)),
        run(tmp_path, 3, make_job(num_workers=3, global_batch_size=128, per_worker_batch_size=30)),
    ]
    expected = step_losses(one)
    assert len(expected) == 6  # 3 epochs of 128 and 122
    for other in others:
        assert step_losses(other) == pytest.approx(expected, abs=1e-4)
        assert other[0]["weights"] == pytest.approx(one[0]["weights"], abs=1e-4)
        assert accuracies(other) == pytest.approx(accuracies(one), abs=1e-6)


def test_one_model_is_evaluated_and_saved_also_with_batch_norm(tmp_path: Path) -> None:
    """Each rank has statistics of its own shares; rank 0's are saved, so every rank must evaluate with them."""
    ranks = run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=32), norm=True)
    assert ranks[0]["buffers"] == ranks[1]["buffers"]
    saved = checkpoint(next(tmp_path.iterdir()))["model"]
    assert saved["1.running_mean"].tolist() == ranks[0]["buffers"][0]


def test_every_rank_ends_with_the_same_bits(tmp_path: Path) -> None:
    ranks = run(tmp_path, 3, make_job(num_workers=3, per_worker_batch_size=7))
    assert ranks[0]["weights"] == ranks[1]["weights"] == ranks[2]["weights"]


def test_each_sample_is_used_exactly_once_an_epoch(tmp_path: Path) -> None:
    ranks = run(tmp_path, 3, make_job(num_workers=3, per_worker_batch_size=16), counted=True)
    asked = [rank["asked"] for rank in ranks]
    per_epoch = [[], [], []]
    for indices, rank in zip(asked, ranks, strict=True):
        position = 0
        for record in (Record(*record) for record in rank["records"]):
            per_epoch[record.samples_seen // SAMPLES] += indices[position : position + record.samples]
            position += record.samples
        assert position == len(indices), "nothing was fetched that was not counted"
    for epoch in per_epoch:
        assert sorted(epoch) == list(range(SAMPLES))
    assert per_epoch[0] != per_epoch[1], "each epoch has an order of its own"


def test_the_recorded_lr_is_the_planned_one_to_the_last_bit(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    plan = make_plan(job, 2)
    records = records_of(run(tmp_path, 2, job))
    assert len(records) == 2 * plan.total_steps
    assert all(record.lr == plan.lr_at(record.samples_seen) for record in records)


def test_two_identical_runs_give_identical_losses(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    first, second = run(tmp_path, 2, job), run(tmp_path, 2, job)
    assert step_losses(first) == step_losses(second)
    assert first[0]["weights"] == second[0]["weights"]


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=32)
    other = make_job(num_workers=1, per_worker_batch_size=32, train={"seed": 1})
    assert step_losses(run(tmp_path, 1, job)) != step_losses(run(tmp_path, 1, other))


def test_a_global_batch_smaller_than_the_group_trains(tmp_path: Path) -> None:
    small = make_job(num_workers=3, global_batch_size=2, train={"epochs": 0.1})
    alone = make_job(num_workers=1, global_batch_size=2, train={"epochs": 0.1})
    ranks = run(tmp_path, 3, small)
    assert step_losses(ranks) == pytest.approx(step_losses(run(tmp_path, 1, alone)), abs=1e-5)
    assert {record.samples for record in records_of(ranks) if record.rank == 2} == {0}


def test_the_times_of_a_step_add_up_to_no_more_than_the_step(tmp_path: Path) -> None:
    for record in records_of(run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=64))):
        parts = (record.data_wait_s, record.compute_s, record.sync_wait_s)
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= record.step_time_s


def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"eval_every": {"epochs": 1}})
    (tmp_path / "calm").mkdir()
    (tmp_path / "stopped").mkdir()
    seed_everything(0)
    calm = make_recipe()
    assert in_this_process(tmp_path / "calm", calm, job)[0].run() is AttemptEnd.FINISHED

    seed_everything(0)
    training, around = in_this_process(tmp_path / "stopped", make_recipe(), job, stop_after=5)
    assert training.run() is AttemptEnd.STOPPED
    stopped_at = training.samples_seen
    assert 0 < stopped_at < 3 * SAMPLES
    assert find_checkpoint(around.folder) == (stopped_at, [])

    seed_everything(99)  # what the recipe builds now is overwritten by the checkpoint
    resumed = make_recipe()
    training, _ = in_this_process(tmp_path / "stopped", resumed, job)
    training.restore(stopped_at)
    assert training.run() is AttemptEnd.FINISHED
    for ours, theirs in zip(resumed.model.parameters(), calm.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_after_an_evaluation_nobody_waits_long_for_an_answer(tmp_path: Path) -> None:
    """Hand-overs are counted in steps, and the second would come after ten; an evaluation may have taken minutes."""
    job = make_job(per_worker_batch_size=64, train={"eval_every": {"samples": 192}})
    training, around = in_this_process(tmp_path, make_recipe(), job)
    around.leave_requested = lambda: Leave.STOP if around.events[-1].kind == "evaluated" else Leave.NOT
    assert training.run() is AttemptEnd.STOPPED
    assert training.samples_seen == 250, "the step after the evaluation at 192"


def test_a_run_stopped_after_every_step_is_the_run_that_was_never_stopped(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64)
    calm, stopped = run(tmp_path, 1, job)[0], run_in_attempts(tmp_path, job)
    assert stopped["attempts"] == plan_of(job).total_steps == 12
    assert untimed(stopped) == untimed(calm)
    assert stopped["weights"] == calm["weights"]


def test_checkpoints_are_kept_as_many_as_asked_for(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64)
    training, around = in_this_process(tmp_path, make_recipe(), job)
    training.run()
    assert around.folder.names("checkpoints") == [
        f"{samples:015d}{suffix}" for samples in (500, 750) for suffix in ("", ".json")
    ]


def test_a_wrong_number_of_samples_is_refused_with_the_right_one(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"num_samples": 300})
    with pytest.raises(RecipeError) as caught:
        in_this_process(tmp_path, make_recipe(), job)
    assert str(caught.value) == (
        "train.num_samples = 300, but the recipe's train_data has 250 samples.\n"
        "  Set train.num_samples to 250, or leave it out."
    )


def test_what_was_measured_before_an_error_is_handed_over(tmp_path: Path) -> None:
    calls = 0

    def fails_at_the_fourth(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ZeroDivisionError
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    job = make_job(num_workers=1, per_worker_batch_size=64)
    recipe = replace(make_recipe(loss=fails_at_the_fourth), loss_over="micro_batch")  # not called before the first step
    training, around = in_this_process(tmp_path, recipe, job)
    with pytest.raises(ZeroDivisionError):
        training.run()
    assert [record.step for record in around.records] == [0, 1, 2]


def test_clipping_comes_after_the_gradient_is_whole(tmp_path: Path) -> None:
    clipped = make_job(num_workers=1, per_worker_batch_size=64, train={"clip_grad_norm": 1e-3, "epochs": 0.5})
    seed_everything(0)
    recipe = make_recipe()
    before = [parameter.detach().clone() for parameter in recipe.model.parameters()]
    training, around = in_this_process(tmp_path, recipe, clipped)
    training.run()
    first, second = around.records[0], around.records[1]
    assert first.grad_norm > 0.01, "the recorded norm is that before clipping"
    moved = torch.cat([(b - p).flatten() for b, p in zip(before, recipe.model.parameters(), strict=True)]).norm()
    assert moved <= (first.lr + second.lr * 1.9) * 1e-3 * 1.0001, "two steps of momentum 0.9 on gradients of norm 1e-3"


def test_bf16_trains_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"precision": "bf16"})
    recipe = make_recipe()
    training, around = in_this_process(tmp_path, recipe, job)
    training.run()
    assert around.records[-1].loss < around.records[0].loss
    assert {parameter.dtype for parameter in recipe.model.parameters()} == {torch.float32}


class HalfAsFast(torch.optim.SGD):
    """Halves its learning rate in each step, as a hook of a recipe could."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["lr"] /= 2
        super().step(closure)


def test_a_record_has_the_learning_rate_that_the_optimizer_used(tmp_path: Path) -> None:
    reference = {"optimizer": {"name": "test_loop:HalfAsFast"}}
    job = make_job(num_workers=1, per_worker_batch_size=16, rule="none", reference=reference)
    records = records_of(run(tmp_path, 1, job))
    assert [record.lr for record in records] == [record.lr_planned / 2 for record in records]
    assert max(record.lr_planned for record in records) == 0.05
