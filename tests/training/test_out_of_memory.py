"""``per_worker_batch_size: auto`` halves the micro-batch when memory does not suffice, and changes nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import events_of, in_this_process, make_job, make_recipe, records_of, run, weights_of
from torch import Tensor, nn

from scaler.errors import TrainingError
from scaler.plan import limit_micro_batches, make_plan


class Hungry:
    """A loss with memory for so many samples."""

    def __init__(self, most: int, *, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.most, self.error, self.sizes = most, error, list[int]()

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if model.training and len(batch[1]) > self.most:
            text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
            raise self.error(text)
        self.sizes.append(len(batch[1]))
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


AUTO = {"global_batch_size": 64, "per_worker_batch_size": "auto", "rule": "linear"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_the_micro_batch_is_halved_until_it_fits_and_the_run_is_the_same(
    tmp_path: Path, error: type[Exception]
) -> None:
    loss = Hungry(20, error=error)
    torch.manual_seed(0)
    recipe = make_recipe(loss=loss)
    training, around = in_this_process(tmp_path, recipe, make_job(**AUTO))
    training.run()
    halved = events_of({"events": around.events}, "micro_batch_halved")
    assert [event.per_worker_batch_size for event in halved] == [32, 16]
    assert max(loss.sizes) == 16
    (by_hand,) = run(tmp_path, 1, make_job(**{**AUTO, "per_worker_batch_size": 16}))
    torch.manual_seed(0)
    ours, theirs = around.records, records_of([by_hand])
    assert [record.lr for record in ours] == [record.lr for record in theirs], "the learning rate, to the last bit"
    assert [record.samples for record in ours] == [record.samples for record in theirs]


def test_weights_are_those_of_a_job_that_gave_the_size_itself(tmp_path: Path) -> None:
    def trained(loss: Any, given: dict[str, Any], folder: str) -> list[float]:
        torch.manual_seed(0)
        (tmp_path / folder).mkdir()
        recipe = make_recipe(loss=loss)
        in_this_process(tmp_path / folder, recipe, make_job(**given))[0].run()
        return weights_of(recipe.model)

    fits = trained(Hungry(10**9), {**AUTO, "per_worker_batch_size": 16}, "by-hand")
    assert trained(Hungry(16), AUTO, "auto") == fits


def test_one_sample_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    training, _ = in_this_process(tmp_path, make_recipe(loss=Hungry(0)), make_job(**AUTO))
    with pytest.raises(TrainingError) as caught:
        training.run()
    assert str(caught.value) == (
        "out of memory with one sample in a forward/backward.\n  Use a smaller model, or workers with more memory."
    )


def test_a_size_that_was_asked_for_is_not_changed(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64)
    with pytest.raises(torch.OutOfMemoryError):
        in_this_process(tmp_path, make_recipe(loss=Hungry(20)), job)[0].run()


@pytest.mark.parametrize(
    ("most", "expected"),
    [(100, (32, 1)), (32, (32, 1)), (31, (16, 2)), (16, (16, 2)), (11, (11, 3)), (1, (1, 32))],
)
def test_smaller_micro_batches_leave_everything_else_as_it_was(most: int, expected: tuple[int, int]) -> None:
    plan = make_plan(make_job(num_workers=2, **AUTO), 2)
    limited = limit_micro_batches(plan, most)
    assert (limited.per_worker_batch_size, limited.grad_accum_steps) == expected
    kept = ("global_batch_size", "peak_lr", "optimizer", "schedule", "total_steps", "warmup_samples")
    assert all(getattr(limited, name) == getattr(plan, name) for name in kept)


def test_auto_needs_a_batch_to_divide() -> None:
    with pytest.raises(Exception, match="per_worker_batch_size: auto and no global_batch_size"):
        make_job(per_worker_batch_size="auto")
    with pytest.raises(Exception, match="per_worker_batch_size: auto and grad_accum_steps: 2"):
        make_job(**AUTO, grad_accum_steps=2)
