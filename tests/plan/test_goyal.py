"""jobs/goyal_imagenet plans the numbers of Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1."""

from pathlib import Path

import pytest

from scaler.job import load_job
from scaler.plan import make_plan

JOB = Path(__file__).parents[2] / "jobs" / "goyal_imagenet" / "job.yaml"
IMAGES = 1_281_167
# As torchvision names ResNet-50's parameters; a group needs one of each kind.
SOME = {"conv1.weight": 9408, "bn1.weight": 64, "layer1.0.downsample.1.weight": 256, "fc.bias": 1000}


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 0.1),  # the climb starts at the reference's learning rate, not at 0
        (2.5, 1.65),  # half of the climb: (0.1 + 3.2) / 2
        (5, 3.2),  # 0.1 x 8192 / 256
        (29.9, 3.2),
        (30, 0.32),
        (60, 0.032),
        (80, 0.0032),
        (90, 0.0032),
    ],
)
def test_the_learning_rate_of_the_paper_at_each_of_its_corners(epoch: float, lr: float) -> None:
    plan = make_plan(load_job(JOB), parameters=SOME)
    assert plan.global_batch_size == 8192
    assert plan.lr_at(round(epoch * IMAGES)) == pytest.approx(lr, rel=1e-6)


def test_the_length_of_the_paper() -> None:
    plan = make_plan(load_job(JOB), parameters=SOME)
    assert (plan.steps_per_epoch, plan.total_samples) == (157, 90 * IMAGES)
    assert plan.warnings == ()


def test_batchnorm_has_no_weight_decay_and_the_rest_has() -> None:
    plan = make_plan(load_job(JOB), parameters=SOME)
    decayed = {name: group.weight_decay for group in plan.groups for name in group.tensors}
    assert decayed == {
        "conv1.weight": None,  # the optimizer's, 1e-4
        "bn1.weight": 0.0,
        "layer1.0.downsample.1.weight": 0.0,
        "fc.bias": None,
    }
    assert plan.optimizer["weight_decay"] == 1e-4


def test_the_baseline_is_eight_workers_without_a_climb() -> None:
    plan = make_plan(load_job(JOB), 8, parameters=SOME)
    assert (plan.global_batch_size, plan.peak_lr, plan.lr_at(0)) == (256, 0.1, 0.1)
