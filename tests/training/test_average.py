"""The moving average of the weights."""

from pathlib import Path

import pytest
import torch
from small_runs import checkpoint, checkpoints, make_job, make_recipe, new_folder, plan_of, run
from torch import nn

from scaler.training.model.average import WeightAverage


def model_of(value: float) -> nn.Module:
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def averaged(average: WeightAverage) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in average.model.parameters()]).tolist()


@pytest.mark.parametrize("steps", [2, 8, 32])
def test_many_updates_are_one_with_the_power_of_the_decay_while_the_weights_stay(steps: int) -> None:
    """This makes ``decay ** batch_ratio`` the right decay for a larger batch (Busbridge et al. 2023)."""
    decay = 0.9
    many, one = WeightAverage(model_of(1.0)), WeightAverage(model_of(1.0))
    for average in (many, one):
        average.update(model_of(1.0), decay=decay)  # the first copies
    for _ in range(steps):
        many.update(model_of(3.0), decay=decay)
    one.update(model_of(3.0), decay=decay**steps)
    assert averaged(many) == pytest.approx(averaged(one), abs=1e-15 * steps)
    assert averaged(one) == pytest.approx([3.0 - 2.0 * decay**steps] * 8, abs=1e-15)


def test_the_first_step_copies() -> None:
    average = WeightAverage(model_of(1.0))
    average.update(model_of(5.0), decay=0.999)
    assert averaged(average) == [5.0] * 8
    average.update(model_of(7.0), decay=0.5)
    assert averaged(average) == [6.0] * 8


def test_decay_0_is_the_weights_themselves_and_equal_weights_do_not_move_it() -> None:
    average = WeightAverage(model_of(0.1))
    for decay in (0.9, 0.0, 0.3, 0.999):
        average.update(model_of(0.1), decay=decay)
        assert averaged(average) == [0.1] * 8
    average.update(model_of(0.7), decay=0.0)
    assert averaged(average) == [0.7] * 8


def test_it_continues_where_it_was_saved() -> None:
    first = WeightAverage(model_of(1.0))
    for value in (1.0, 2.0, 4.0):
        first.update(model_of(value), decay=0.75)
    second = WeightAverage(model_of(0.0))
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update(model_of(8.0), decay=0.75)
    assert averaged(second) == averaged(first)


def test_a_run_s_average_follows_the_batch_and_is_evaluated_beside_the_weights(tmp_path: Path) -> None:
    """Computed by hand from the checkpoints of every step: decay ** 4 at four times the batch."""
    job = make_job(
        num_workers=2,
        per_worker_batch_size=32,
        co_scale={"ema": True},
        train={"ema": {"decay": 0.9}, "epochs": 1},
        checkpoint={"every": {"samples": 50}, "keep": 99},
    )
    assert plan_of(job, 2).phases[0].ema_decay == pytest.approx(0.9**4)
    folder = new_folder(tmp_path)
    ranks = run(tmp_path, 2, job, folder=folder)
    expected = None
    for samples, state in checkpoints(folder).items():
        weights = state["model"]["2.weight"].double()
        decay = 0.9 ** (58 / 16) if samples % 1000 == 250 else 0.9**4  # the last step has 58 samples
        expected = weights if expected is None else decay * expected + (1 - decay) * weights
        assert torch.allclose(state["average"]["weights"]["2.weight"].double(), expected, atol=1e-6)
        assert samples % 1000 != 250 or not torch.allclose(expected, weights, atol=1e-3)
    evaluated = [event.values for event in ranks[0]["events"] if event.kind == "evaluated"]
    assert [sorted(values) for values in evaluated] == [["accuracy", "ema_accuracy", "ema_loss", "loss"]]


def test_the_average_is_evaluated_with_the_buffers_that_are_saved_with_it(tmp_path: Path) -> None:
    """Each worker has statistics of its own shares; rank 0's are saved, so every worker must evaluate with them."""
    job = make_job(num_workers=2, per_worker_batch_size=32, train={"ema": {"decay": 0.5}, "epochs": 1})
    folder = new_folder(tmp_path)
    ranks = run(tmp_path, 2, job, folder=folder, norm=True, double=True)
    (found,) = [event.values for event in ranks[0]["events"] if event.kind == "evaluated"]
    recipe = make_recipe(norm=True, double=True)
    recipe.model.load_state_dict(checkpoint(folder)["average"]["weights"])
    recipe.model.eval()
    with torch.no_grad():
        inputs, labels = recipe.eval_data.tensors  # type: ignore[union-attr]
        loss = nn.functional.cross_entropy(recipe.model(inputs), labels)
    assert found["ema_loss"] == pytest.approx(float(loss), rel=1e-12)
