"""The library half: what a script without Ray uses, and what using it loads."""

import subprocess
import sys
from pickle import dumps, loads
from typing import Any

import pytest

import scaler
from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.schedules import SHAPES
from scaler.errors import JobFileError, PlanError
from scaler.job import parse_job

ADAM = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}

OPTIMIZERS = f"Use {', '.join(NAMED_OPTIMIZERS)}, or an import path such as torch.optim:NAdam."
GIVE = (
    '  Give the optimizer that lr was tuned with: optimizer="sgd", optimizer="adamw", ...; without it, use one of the '
    "rules linear, sqrt, power, legw, none."
)


def scaled(lr: float = 0.1, batch: int = 64, *, reference: int = 16, **options: Any) -> scaler.ScaledLR:
    return scaler.scale_lr(lr, reference_batch_size=reference, global_batch_size=batch, **options)


@pytest.mark.parametrize(
    ("batch", "options", "lr"),
    [
        (256, {"optimizer": "sgd"}, 1.6),  # linear, by auto
        (16, {"optimizer": "sgd"}, 0.1),  # the reference itself
        (8, {"rule": "linear"}, 0.05),  # and down by the same formula
        (64, {"optimizer": "adamw"}, 0.2),  # adaptive: the square root
        (64, {"optimizer": "torch.optim:NAdam"}, 0.2),  # by its import path too
        (64, {"rule": "sqrt"}, 0.2),  # as asked for
        (64, {"rule": "power", "exponent": 0.25}, 0.1 * 4**0.25),
        (
            64,
            {"optimizer": "sgd", "rule": "gain", "noise_scale": 16.0},
            0.1 * 4 * 32 / 80,
        ),  # k (phi + m0) / (phi + k m0)
        (64, {"rule": "none"}, 0.1),
        (64, {"optimizer": "lamb"}, 0.2),  # legw
    ],
)
def test_the_learning_rate_at_another_batch_size(batch: int, options: dict[str, Any], lr: float) -> None:
    found = scaled(batch=batch, **options)
    assert found.lr == pytest.approx(lr, rel=1e-15)
    assert (found.batch_ratio, found.lr) == (batch / 16, 0.1 * found.lr_ratio)


def test_goyals_table() -> None:
    # 2017, section 5.1: 0.1 at 256 images, and the linear rule up to 65,536.
    found = [scaled(0.1, 256 * k, reference=256, optimizer="sgd").lr for k in (1, 2, 32, 256)]
    assert found == pytest.approx([0.1, 0.2, 3.2, 25.6], rel=1e-15)


def test_constants_of_the_rule_replace_those_given() -> None:
    found = scaled(
        optimizer="adamw", rule="adam_sde", constants={**ADAM, "amsgrad": False}, co_scale={"weight_decay": True}
    )
    assert [*found.constants.pop("betas"), found.constants.pop("eps")] == pytest.approx([0.6, 0.96, 5e-9])  # type: ignore[attr-defined]
    assert found.constants == {"weight_decay": 0.2, "amsgrad": False}
    assert sorted(found.reasons) == ["betas", "eps", "weight_decay"]
    assert found.reasons["betas"] == "1 - 4 x (1 - beta)"


def test_the_arguments_are_not_changed() -> None:
    given = dict(ADAM)
    scaled(optimizer="adamw", rule="adam_sde", constants=given)
    assert given == ADAM


def test_legw_returns_how_much_longer_the_warmup_is() -> None:
    assert scaled(optimizer="lars", batch=128).warmup_ratio == 8.0
    assert scaled(batch=128, optimizer="sgd").warmup_ratio == 1.0


def test_without_an_optimizer_the_reason_names_none() -> None:
    assert scaled(rule="linear").reason == "linear rule (Goyal et al. 2017), as requested"


def test_constants_of_torch_that_no_rule_scales_are_passed_through() -> None:
    given = {"lr": 0.1, "maximize": False, "decoupled_weight_decay": True, "foreach": None}
    assert scaled(optimizer="adamw", constants=given).constants == given


def test_the_result_is_a_value() -> None:
    found = scaled(optimizer="adamw", constants=ADAM)
    assert loads(dumps(found)) == found
    with pytest.raises(AttributeError):
        found.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"lr": 0.0},
            ("lr = 0 is not in (0, inf).\n  It is the learning rate that was tuned at reference_batch_size."),
        ),
        (
            {"lr": float("nan")},
            ("lr = nan is not in (0, inf).\n  It is the learning rate that was tuned at reference_batch_size."),
        ),
        (
            {"batch": 0},
            "global_batch_size = 0 is below 1.\n  It is samples per optimizer step, over all workers.",
        ),
        (
            {"reference": -1},
            "reference_batch_size = -1 is below 1.\n  It is samples per optimizer step, over all workers.",
        ),
        (
            {"lr": 1e308, "rule": "linear"},
            "peak_lr = 1e+308 x 4 is too large for a number.\n  Lower lr.",
        ),
        (
            {"rule": "lineal"},
            "scale.rule = lineal is not a rule.\n"
            '  Did you mean "linear"? '
            "Rules: auto, linear, sqrt, power, adam_sde, gain, adascale, legw, none.",
        ),
        (
            {"optimizer": "SGD"},
            f'optimizer = SGD is not an optimizer.\n  Did you mean "sgd"? {OPTIMIZERS}',
        ),
        (
            {"optimizer": "torch.optim.AdamW", "rule": "linear"},  # also where the rule does not look at it
            f'optimizer = torch.optim.AdamW is not an optimizer.\n  Did you mean "adamw"? {OPTIMIZERS}',
        ),
        (
            {"optimizer": "sgd", "rule": "none", "co_scale": {"momentum": True}, "constants": {"momentun": 0.9}},
            ('constants has the key momentun, which no rule scales.\n  Did you mean "momentum"?'),
        ),
        ({}, f"rule = auto depends on the optimizer, and none is given.\n{GIVE}"),
        (
            {"rule": "gain", "noise_scale": 16.0},
            f"rule = gain depends on the optimizer, and none is given.\n{GIVE}",
        ),
        ({"rule": "adam_sde"}, f"rule = adam_sde depends on the optimizer, and none is given.\n{GIVE}"),
        (
            {"rule": "linear", "co_scale": {"weight_decay": True}},
            f"co_scale = {{'weight_decay': True}} depends on the optimizer, and none is given.\n{GIVE}",
        ),
        (
            {"optimizer": "my_pkg:Adagradish"},  # no substring decides
            "scale.rule = auto does not know the optimizer my_pkg:Adagradish.\n"
            "  Choose a rule for it: rule: linear, rule: sqrt or rule: none.",
        ),
        (
            {"rule": "adascale"},
            "rule = adascale measures its gain in training, which only scaler's own loop does.\n"
            "  Train with scaler submit, or use rule = gain with a noise_scale.",
        ),
        (
            {"rule": "power"},
            "rule = power comes without exponent.\n  Give exponent: lr_ratio = batch_ratio ** exponent.",
        ),
        (
            {"rule": "gain"},
            "rule = gain comes without noise_scale.\n  Give noise_scale: the gradient noise scale, in samples.",
        ),
        ({"rule": "linear", "exponent": 0.7}, "exponent = 0.7 has no effect with rule = linear.\n  Use rule = power."),
        (
            {"rule": "power", "exponent": 3.0},
            "exponent = 3 is not in [-2, 2].\n  1 is linear, 0.5 the square root.",
        ),
        (
            {"rule": "gain", "noise_scale": float("nan")},
            "noise_scale = nan is not above 0.\n  It is measured in samples.",
        ),
        (
            {"rule": "linear", "betas": "power"},
            "betas = power has no effect with rule = linear.\n  Use rule = adam_sde.",
        ),
        (
            {"optimizer": "adam", "rule": "adam_sde", "betas": (0.9, 0.99)},
            "betas = (0.9, 0.99) is neither sde nor power, the ways to scale betas.\n"
            "  The optimizer's own betas go into constants.",
        ),
        (
            {"optimizer": "adam", "rule": "adam_sde"},
            (
                "scale.rule = adam_sde scales betas, and reference.optimizer does not give it.\n"
                "  Add betas: [0.9, 0.999]."
            ),
        ),
        (
            {"optimizer": "adam", "rule": "adam_sde", "constants": ADAM, "batch": 160},
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 10 * (1 - 0.9) = 1.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 159 (reference 16).",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(values: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        scaled(**values)
    assert str(caught.value) == text


@pytest.mark.parametrize("rule", ["linear", "sqrt", "power", "gain", "none"])
@pytest.mark.parametrize(
    "options", [{}, {"exponent": 0.5}, {"exponent": 2.5}, {"noise_scale": 9.0}, {"noise_scale": -1.0}]
)
def test_options_are_refused_exactly_where_the_job_file_refuses_them(rule: str, options: dict[str, Any]) -> None:
    job = {
        "name": "job",
        "recipe": "recipe:build",
        "reference": {"global_batch_size": 16, "lr": 0.1, "optimizer": {"name": "sgd"}},
        "scale": {"global_batch_size": 64, "rule": rule, **options},
        "train": {"epochs": 1},
    }
    refused = []
    for make in (lambda: scaled(rule=rule, optimizer="sgd", **options), lambda: parse_job(job, source="job.yaml")):
        try:
            make()
            refused.append(False)
        except JobFileError:
            refused.append(True)
    assert refused[0] == refused[1]


def test_every_shape_is_there_under_one_name() -> None:
    found = {getattr(scaler.shapes, name) for name in scaler.shapes.__all__}
    assert found == {*SHAPES.values(), scaler.shapes.Shape}
    assert scaler.Schedule(shape=scaler.shapes.Constant(), warmup=scaler.Warmup(samples=4))(1) == 0.25


def test_every_public_name_is_found_and_no_other() -> None:
    for name in scaler.__all__:
        assert getattr(scaler, name) is not None
    with pytest.raises(AttributeError) as caught:
        scaler.scale_lrs  # noqa: B018
    assert str(caught.value) == "module 'scaler' has no attribute 'scale_lrs'"


SCALED = "scaler.scale_lr(0.1, reference_batch_size=16, global_batch_size=64, rule='linear')"
LIGHT = f"{SCALED}; scaler.Warmup; scaler.shapes.Cosine"
PLANNED = "scaler.Schedule(shape=scaler.shapes.Cosine(length=9)).factor(3)"


@pytest.mark.parametrize(
    ("use", "absent"),
    [
        (LIGHT, {"torch", "ray", "pydantic", "numpy"}),
        (PLANNED, {"torch", "ray", "pydantic", "numpy"}),
        ("scaler.SampleScheduler", {"ray", "pandas", "pyarrow"}),
    ],
)
def test_it_loads_only_what_it_needs(use: str, absent: set[str]) -> None:
    show = f"import sys, scaler; {use}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "scaler" in loaded
    assert sorted(loaded & absent) == []
