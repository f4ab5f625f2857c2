"""Small recipes of the kinds that public scripts have: the same training on one worker, on two, and after a resume."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from recipe_kinds import KINDS, SIZE
from small_runs import NEVER_STOP, EveryStep, Kept, by_step, make_job, new_folder, shapes_of, weights_of

from scaler.job import Job, parse_job
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe
from scaler.training.worker_context import AttemptEnd

BATCH, EPOCHS = 16, 2


def job_of(kind: str) -> Job:
    last = "drop" if kind == "images" else "scale"
    return make_job(
        num_workers={"min": 1, "max": 2},
        global_batch_size=BATCH,
        schedule={"name": "constant"},
        rewarmup=None,
        train={"num_samples": SIZE, "epochs": EPOCHS, "last_batch": last, "eval_every": {"epochs": 1}},
    )


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], kind: str, stop: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    made, used = KINDS[kind]()
    recipe = checked_recipe(made, "r:build")
    around = Kept(rank, world_size, folder, stop_after=stop)
    training = Training(recipe, job, make_plan(job, world_size, parameters=shapes_of(recipe)), around)
    training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    end = training.run()
    samples = sum(record.samples for record in around.records)
    return {
        "finished": end is AttemptEnd.FINISHED,
        "records": [tuple(record) for record in around.records],
        "evals": [event.values for event in around.events if event.kind == "evaluated"],
        "used": used[-samples:],  # without those of the checks before the first step
        "weights": weights_of(recipe.model),
    }


def run(folder: Path, world_size: int, kind: str, *, stop: int = NEVER_STOP) -> list[dict[str, Any]]:
    arguments = (str(folder), job_of(kind).model_dump(), kind, stop)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


def used_by(*groups: list[dict[str, Any]]) -> Counter[int]:
    return Counter(number for group in groups for rank in group for number in rank["used"])


def step_losses(group: list[dict[str, Any]]) -> list[float]:
    """Return the loss of each step over all workers, by the weights of the loss (samples or tokens)."""
    return [
        sum(record.loss * record.loss_weight for record in step) / sum(record.loss_weight for record in step)
        for step in by_step(group)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_train_as_one_and_a_resume_on_two_as_if_nothing_had_stopped(tmp_path: Path, kind: str) -> None:
    (alone,) = run(new_folder(tmp_path), 1, kind)
    pair = run(new_folder(tmp_path), 2, kind)
    assert step_losses(pair) == pytest.approx(step_losses([alone]), rel=1e-5)
    assert pair[0]["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert [sorted(values) for values in pair[0]["evals"]] == [sorted(values) for values in alone["evals"]]
    for ours, theirs in zip(pair[0]["evals"], alone["evals"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for records, alone_records in zip(by_step(pair), by_step([alone]), strict=True):
        assert {record.lr for record in records} == {alone_records[0].lr}
    per_epoch = SIZE // BATCH * BATCH if kind == "images" else SIZE
    assert sum(used_by([alone]).values()) == EPOCHS * per_epoch
    assert used_by(pair) == used_by([alone])
    if kind != "images":
        assert used_by(pair) == dict.fromkeys(range(SIZE), EPOCHS), "each sample once an epoch"

    folder = new_folder(tmp_path)
    first = run(folder, 1, kind, stop=per_epoch // BATCH + 2)  # in the second epoch
    second = run(folder, 2, kind)
    assert not first[0]["finished"]
    assert second[0]["finished"]
    assert step_losses(first) + step_losses(second) == pytest.approx(step_losses([alone]), rel=1e-5)
    assert second[0]["weights"] == pytest.approx(alone["weights"], abs=1e-5)
    assert used_by(first, second) == used_by([alone])
