"""Names are those of the model without torch.compile, in groups, freezing and checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import in_this_process, make_job, make_recipe
from torch import nn

from scaler import Recipe
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.model.names import load_model_state, model_state, named_parameters


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


class Both(nn.Module):
    """A model with a compiled part."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = compiled(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))), nn.Linear(3, 1)


@pytest.mark.parametrize("make", [lambda: compiled(nn.Linear(2, 2)), Both])
def test_a_compiled_model_has_the_names_of_the_plain_one(make: Any) -> None:
    names = [*named_parameters(make()), *model_state(make())]
    assert not any("_orig_mod" in name for name in names)
    assert {name for name in names if "." not in name} in (set(), {"weight", "bias"})


def test_a_state_goes_from_a_compiled_model_to_a_plain_one_and_back() -> None:
    plain = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    wrapped = compiled(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    load_model_state(wrapped, model_state(plain))
    assert all(torch.equal(one, other) for one, other in zip(wrapped.parameters(), plain.parameters(), strict=True))
    state = model_state(wrapped)
    assert list(state) == list(plain.state_dict())
    assert state._metadata == plain.state_dict()._metadata
    load_model_state(plain, state)


def recipe(*, compile_it: bool) -> Recipe:
    made = make_recipe()
    values = {name: getattr(made, name) for name in ("train_data", "eval_data", "loss", "evaluate")}
    return Recipe(model=compiled(made.model) if compile_it else made.model, **values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("first", [True, False])
def test_a_run_with_groups_resumes_with_its_model_compiled_or_not(tmp_path: Path, first: bool) -> None:
    groups = [{"match": "0.*", "freeze": True}, {"match": "2.*", "lr_ratio": 0.5}]
    job = make_job(per_worker_batch_size=64, groups=groups, train={"ema": {"decay": 0.9}})
    made = recipe(compile_it=first)
    before = made.model.state_dict()
    frozen = next(value for name, value in before.items() if name.endswith("0.weight")).clone()
    in_this_process(tmp_path, made, job)[0].run()
    after = model_state(made.model)
    assert torch.equal(after["0.weight"], frozen)
    again = recipe(compile_it=not first)
    training, around = in_this_process(tmp_path, again, job)
    found, _ = find_checkpoint(around.folder)
    assert found is not None
    training.restore(found)
    assert all(torch.equal(value, after[name]) for name, value in model_state(again.model).items())
