"""Modules stay in the mode that build() gave them, and frozen ones keep their statistics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import in_this_process, make_job
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.training.model.modes import evaluation_mode, norms_in_evaluation_mode, start_training

FIXED: dict[str, Any] = {"per_worker_batch_size": 8, "train": {"num_samples": 24, "epochs": 2}}


def norm_recipe(model: nn.Module) -> Recipe:
    data = TensorDataset(3.0 + torch.randn(24, 6, generator=torch.Generator().manual_seed(1)))
    return Recipe(model=model, train_data=data, eval_data=data, loss=lambda model, batch: model(batch[0]).pow(2).mean())


def test_what_build_put_into_evaluation_mode_stays_there_also_after_evaluations(tmp_path: Path) -> None:
    seen: list[tuple[bool, ...]] = []
    model = nn.Sequential(nn.BatchNorm1d(6).eval(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 1))
    model.register_forward_hook(lambda *_: seen.append(tuple(module.training for module in model)))
    recipe = replace(norm_recipe(model), loss_over="micro_batch")  # else the loss is tried out in other modes
    training, _ = in_this_process(tmp_path, recipe, make_job(**FIXED))
    training.run()
    assert set(seen) == {(False, True, True, True), (False, False, False, False)}
    assert seen.index((False,) * 4) < len(seen) - 1 - seen[::-1].index((False, True, True, True)), "trained afterwards"
    assert model[0].num_batches_tracked == 0
    assert model[2].num_batches_tracked == 6


def test_a_model_that_is_in_evaluation_mode_as_a_whole_is_trained() -> None:
    """transformers' from_pretrained returns it so."""
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).eval()
    start_training(model, keep_modes=None)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(("keep_modes", "trains"), [(True, False), (None, True), (False, True)])
def test_keep_modes_decides_for_a_model_in_evaluation_mode(
    tmp_path: Path, keep_modes: bool | None, trains: bool
) -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 1)).eval()
    recipe = replace(norm_recipe(model), keep_modes=keep_modes)
    training, _ = in_this_process(tmp_path, recipe, make_job(**FIXED))
    training.run()
    assert all(module.training == trains for module in model.modules()), "also after evaluations"
    assert (model[0].num_batches_tracked > 0) == trains


def test_without_keep_modes_a_part_in_evaluation_mode_is_trained() -> None:
    """A backbone of from_pretrained under a new head, for example."""
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).eval(), nn.Linear(2, 2))
    start_training(model, keep_modes=None)
    assert not model[0][0].training
    start_training(model, keep_modes=False)
    assert all(module.training for module in model.modules())


def test_a_models_own_train_counts() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self[0].eval()
            return self

    model = Frozen(nn.BatchNorm1d(2), nn.Linear(2, 2))
    start_training(model, keep_modes=None)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [False, True]


def test_a_part_that_trains_inside_one_that_does_not_keeps_training() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.Dropout()), nn.Linear(2, 2))
    model[0].eval()
    model[0][1].train()
    start_training(model, keep_modes=None)
    assert [module.training for module in model.modules()] == [True, False, False, True, True]


@pytest.mark.parametrize("affine", [True, False])
def test_the_statistics_of_a_frozen_group_stay_until_it_is_unfrozen(tmp_path: Path, affine: bool) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=affine)), nn.Linear(6, 1))
    groups = [{"match": "0.*", "freeze": {"epochs": 1}}]
    training, _ = in_this_process(tmp_path, norm_recipe(model), make_job(groups=groups, **FIXED))
    training.run()
    assert model[0][1].num_batches_tracked == 3, "of the second epoch's three steps"


def test_a_frozen_group_never_changes_its_statistics(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 1))
    job = make_job(groups=[{"match": "0.*", "freeze": True}], **FIXED)
    training, _ = in_this_process(tmp_path, norm_recipe(model), job)
    training.run()
    assert model[0].num_batches_tracked == 0
    assert model[0].running_mean.tolist() == [0.0] * 6


def test_a_forward_that_counts_for_nothing_touches_no_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    with norms_in_evaluation_mode(model):
        assert isinstance(model(torch.ones(1, 2)), Tensor)
    assert model[0].num_batches_tracked == 0
    assert model[0].training
