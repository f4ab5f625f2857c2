import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from scaler.core.rules import ADAPTIVE, SGD_FAMILY
from scaler.job import Job, load_job, parse_job
from scaler.job.model import OPTIMIZER_OPTIONS

# How a step is computed, not what it computes.
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}


@pytest.mark.parametrize("name", OPTIMIZER_OPTIONS)
def test_the_options_table_has_torchs_own_names_and_defaults(name: str) -> None:
    import torch

    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    parameters = inspect.signature({**classes, "rmsprop": torch.optim.RMSprop}[name]).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key not in ("params", "lr")}
    ours = {key: tuple(value) if isinstance(value, list) else value for key, value in OPTIMIZER_OPTIONS[name].items()}
    assert ours == {key: value for key, value in defaults.items() if key not in IMPLEMENTATION}


@pytest.mark.parametrize("name", [name for name in (*SGD_FAMILY, *ADAPTIVE) if name not in OPTIMIZER_OPTIONS])
def test_every_import_path_that_auto_knows_is_a_torch_optimizer(name: str) -> None:
    import torch

    module, _, kind = name.partition(":")
    assert module == "torch.optim"
    assert issubclass(getattr(torch.optim, kind), torch.optim.Optimizer)


def test_auto_knows_every_optimizer_that_a_job_names_in_one_word() -> None:
    assert set(OPTIMIZER_OPTIONS) == {name for name in (*SGD_FAMILY, *ADAPTIVE) if ":" not in name}


@pytest.mark.parametrize(
    "path", ["name", "train.seed", "scale.rule", "reference.optimizer.name", "schedule.warmup.epochs"]
)
def test_a_job_is_frozen(digits: Callable[..., Job], path: str) -> None:
    *sections, last = path.split(".")
    section: Any = digits()
    for name in sections:
        section = getattr(section, name)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, last, 1)


def test_the_smallest_job_has_the_documented_defaults() -> None:
    job = parse_job(
        {
            "name": "a",
            "recipe": "a:b",
            "reference": {"global_batch_size": 4, "lr": 1, "optimizer": {"name": "sgd"}},
            "scale": {"per_worker_batch_size": 4},
            "train": {"epochs": 1},
        },
        source="here",
    )
    assert job.model_dump(exclude_none=True) == {
        "name": "a",
        "recipe": "a:b",
        "recipe_args": {},
        "reference": {"global_batch_size": 4, "lr": 1.0, "optimizer": {"name": "sgd"}},
        "scale": {
            "num_workers": 1,
            "per_worker_batch_size": 4,
            "rule": "auto",
            "on_resize": "scale_with_batch",
        },
        "schedule": {"name": "constant", "warmup": "auto", "final_fraction": 0.0},
        "train": {
            "epochs": 1.0,
            "seed": 0,
            "precision": "fp32",
            "data_workers": 0,
            "eval_every": {"epochs": 1.0},
        },
        "resources": {"cpus_per_worker": 1.0, "gpus_per_worker": 0.0},
        "checkpoint": {"every": {"epochs": 1.0}, "keep": 2},
        "failures": {"max_restarts": 3},
        "storage": "runs",
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["scale.num_workers={min: 1, max: 4}", "scale.on_resize=hold_global_batch"],  # a choice between two kinds
        ["schedule.warmup=auto"],
        ["schedule.warmup={fraction: 0.1, start: 0.5}"],
        ["reference.optimizer={name: adamw, betas: [0.9, 0.95], eps: 1e-8}"],  # options
        ["recipe_args={hidden: null, depth: [1, {a: 2}], rate: 1e-3, word: 'no'}"],  # null is a value like any other
    ],
)
def test_a_job_survives_the_way_to_the_workers(digits: Callable[..., Job], overrides: list[str]) -> None:
    job = digits(*overrides)
    assert parse_job(job.model_dump(), source="here") == job
    assert parse_job(json.loads(json.dumps(job.model_dump(mode="json"))), source="here") == job


@pytest.mark.parametrize(
    ("number", "fewest", "most"),
    [("3", 3, 3), ("{min: 2, max: 5}", 2, 5), ("{min: 2, max: 2}", 2, 2)],
)
def test_the_fewest_and_the_most_workers(digits: Callable[..., Job], number: str, fewest: int, most: int) -> None:
    scale = digits(f"scale.num_workers={number}").scale
    assert (scale.min_workers, scale.max_workers) == (fewest, most)


# JSON Schema, for editors.


def schema() -> dict[str, Any]:
    return Job.model_json_schema()


def properties(part: Any, path: str = "job") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        for name, field in part.get("properties", {}).items():
            yield f"{path}.{name}", field
        for name, inner in part.items():
            yield from properties(inner, f"{path}.{name}")
    elif isinstance(part, list):
        for inner in part:
            yield from properties(inner, path)


def test_every_key_is_described_in_the_schema() -> None:
    whole = schema()
    found = dict(properties(whole))
    assert "job.storage" in found
    assert "job.$defs.Warmup.start" in found

    def described(field: dict[str, Any]) -> bool:  # a description that is the section's own is only there
        target = whole["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
        return bool(field.get("description") or target.get("description"))

    assert [name for name, field in found.items() if not described(field)] == []


def test_the_schema_is_one_and_takes_the_job_that_ships(digits_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(yaml.safe_load(digits_path.read_text()), schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schedule", "warmpu"), 1),  # unknown key
        (("scale", "rule"), "lineal"),  # not one of the words
        (("scale", "num_workers"), 0),  # out of range
        (("reference", "lr"), "fast"),  # wrong type
    ],
)
def test_the_schema_refuses_what_scaler_refuses(digits_path: Path, path: tuple[str, str], value: object) -> None:
    job = yaml.safe_load(digits_path.read_text())
    job[path[0]][path[1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema())


def test_every_job_that_ships_loads(digits_path: Path) -> None:
    jobs = sorted(digits_path.parents[1].glob("*/job.yaml"))
    assert [load_job(path).name for path in jobs]
