import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from scaler.core.optimizers import NAMED_OPTIMIZERS, OPTIMIZERS
from scaler.core.rules import RULES
from scaler.core.schedules import SHAPES
from scaler.job import Job, dump_job, load_job, parse_job, read_job
from scaler.job.scale import Scale
from scaler.job.schedule import Schedule
from scaler.job.tracking import Mlflow, Tracking

# How a step is computed, not what it computes.
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}
# Where pytorch_optimizer's default is not what was published.
AS_PUBLISHED = {("lamb", "weight_decouple"): False, ("lamb", "adam_debias"): True}


def class_of(path: str) -> type:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", NAMED_OPTIMIZERS)
def test_the_options_table_has_the_optimizers_own_names_and_defaults(name: str) -> None:
    facts = NAMED_OPTIMIZERS[name]
    kind = class_of(facts.path)
    defaults = {key: parameter.default for key, parameter in inspect.signature(kind).parameters.items()}
    expected = {key: AS_PUBLISHED.get((name, key), defaults.get(key)) for key in facts.defaults}
    assert facts.defaults == expected
    if facts.path.startswith("torch.optim:"):
        assert expected.keys() == defaults.keys() - IMPLEMENTATION - {"params", "lr"}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in NAMED_OPTIMIZERS])
def test_every_import_path_in_the_table_is_a_torch_optimizer(name: str) -> None:
    assert name.startswith("torch.optim:")
    assert issubclass(class_of(name), class_of("torch.optim:Optimizer"))


def test_auto_knows_every_optimizer_that_a_job_names_in_one_word_but_lion() -> None:
    families = {name: facts.family for name, facts in NAMED_OPTIMIZERS.items()}
    assert [name for name, family in families.items() if family is None or family.auto_rule is None] == ["lion"]


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
        "reference": {"global_batch_size": 4, "lr": 1.0, "optimizer": {"name": "sgd"}, "optimizers": {}},
        "scale": {
            "num_workers": 1,
            "mesh": {"tensor": 1, "context": 1, "pipeline": 1, "expert": 1},
            "per_worker_batch_size": 4,
            "rule": "auto",
            "betas": "sde",
            "horizon": False,
            "co_scale": {"weight_decay": False, "ema": False, "momentum": False},
            "on_resize": "scale_with_batch",
            "rewarmup": {"above": 1.5, "steps": 50},
        },
        "groups": (),
        "schedule": {"name": "constant", "warmup": "auto"},
        "train": {
            "epochs": 1.0,
            "unit": "samples",
            "sequence_lengths": (),
            "last_batch": "scale",
            "seed": 0,
            "strategy": "ddp",
            "fsdp": {
                "blocks": "auto",
                "reshard_after_forward": True,
                "cpu_offload": False,
                "reduce_every_micro_step": True,
                "forward_methods": (),
            },
            "precision": "fp32",
            "compile": False,
            "channels_last": False,
            "pin_memory": True,
            "noise_scale_every": 20,
            "data_workers": 0,
            "check_data": True,
            "eval_every": {"epochs": 1.0},
        },
        "resources": {"cpus_per_worker": 1.0, "gpus_per_worker": "auto", "placement": "pack", "wait_s": 600.0},
        "runtime_env": {"env_vars": {}, "py_modules": ()},
        "checkpoint": {"every": {"epochs": 1.0}, "keep": 2},
        "failures": {
            "max_restarts": 3,
            "hang_timeout_s": 600.0,
            "divergence": {"multiple": 10.0, "then": "stop", "lr_factor": 0.5, "max_times": 3},
        },
        "tracking": {},
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
        ["reference.optimizer={name: lamb}", "scale.rule=auto"],
        ["scale.rule=power", "scale.exponent=0.6", "scale.co_scale={weight_decay: true}"],
        ["scale.rule=gain", "scale.noise_scale=480"],
        ["scale.batch_schedule={name: points, points: [{at: {epochs: 2}, factor: 2}, {at: {steps: 9}, factor: 3}]}"],
        ["scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 999}"],
        ["scale.batch_schedule={name: noise_scale, max_global_batch_size: 999}"],
        ["schedule={name: multi_step, at: [{epochs: 3}, {samples: 9000}], plateau: {patience: 2}}"],
        ["schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}"],
        ["schedule={name: cyclical, climb: {epochs: 1}, low: 0.1, mode: exp_range, decay: 0.9}"],
        ["groups=[{match: '*', lr_ratio: 0.1, freeze: {epochs: 1}}, {match: 'a*', weight_decay: 0, freeze: true}]"],
        ["groups=recipe"],
        ["layer_decay={factor: 0.8, layers: ['a.{n}.*', 'b.*']}"],
        ["scale={global_batch_size: 64, per_worker_batch_size: auto, rewarmup: {above: 2, epochs: 1}}"],
        ["checkpoint={every: {seconds: 60}, best: {metric: accuracy, mode: max}}", "failures.hang_timeout_s=null"],
        ["train.ema={decay: 0.999}", "scale.co_scale.ema=true", "failures.divergence=null"],
        ["train.compile={dynamic: true}", "train.activation_checkpointing=[Block, Head]", "train.tf32=false"],
        ["train.compile=true", "train.activation_checkpointing=auto", "resources={accelerator_type: L4}"],
        ["train.strategy=fsdp", "train.fsdp={blocks: ['layers.*'], reshard_after_forward: false}"],
        ["train.strategy=fsdp", "train.fsdp={reshard_after_forward: 2, mixed_precision: {param_dtype: bf16}}"],
        ["scale.num_workers=16", "scale.mesh={replicate: 2, tensor: 2, context: 2, pipeline: 2, expert: 2}"],
        ["recipe_args={hidden: null, depth: [1, {a: 2}], rate: 1e-3, word: 'no'}"],  # null is a value like any other
    ],
)
def test_a_job_survives_the_way_to_the_workers(digits: Callable[..., Job], overrides: list[str]) -> None:
    job = digits(*overrides)
    assert parse_job(job.model_dump(), source="here") == job
    assert parse_job(json.loads(json.dumps(job.model_dump(mode="json"))), source="here") == job
    assert read_job(dump_job(job).encode(), source="here") == job  # what the run folder keeps


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
        if "const" in field:  # the name of a kind says it all
            return True
        target = whole["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
        return bool(field.get("description") or target.get("description"))

    assert [name for name, field in found.items() if not described(field)] == []


def test_the_schema_is_one_and_takes_the_job_that_ships(digits_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(yaml.safe_load(digits_path.read_text()), schema())


def names_of_schedules() -> list[str]:
    kinds = [get_args(annotated)[0] for annotated in get_args(Schedule)]
    return [name for kind in kinds for name in get_args(kind.model_fields["name"].annotation)]


@pytest.mark.parametrize("name", names_of_schedules())
def test_a_schedule_of_the_job_is_one_of_the_core(digits: Callable[..., Job], name: str) -> None:
    needed = {
        "step": "every: {epochs: 1}",
        "multi_step": "at: [{epochs: 1}]",
        "exponential": "decay: 0.9",
        "cosine_restarts": "first: {epochs: 1}",
        "cyclical": "climb: {epochs: 1}, low: 0.1",
    }
    override = f"schedule={{name: {name}, {needed.get(name, 'warmup: auto')}}}"
    job = digits(override)
    assert job.schedule.name == name in SHAPES
    assert next(iter(type(job.schedule).model_fields)) == "name", "it comes first in messages and files"
    jsonschema.validate(job.model_dump(mode="json", exclude_none=True), schema())


def test_the_rules_of_the_job_are_those_of_the_core() -> None:
    assert get_args(Scale.model_fields["rule"].annotation) == RULES


def test_a_schedule_without_a_name_is_constant(digits: Callable[..., Job]) -> None:
    job = digits("schedule={warmup: {epochs: 1}}")
    assert job.schedule.name == "constant"
    jsonschema.validate({**job.model_dump(mode="json", exclude_none=True), "schedule": {"warmup": "auto"}}, schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schedule", "name"), "cosin"),
        (("schedule", "decay"), 0.1),  # a key of another kind
        (("scale", "batch_schedule"), {"name": "doubling"}),  # a missing key
        (("scale", "co_scale"), {"weight_decay": 1}),
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


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        ("sqlite:///m.db", "sqlite:////here/m.db"),
        ("sqlite:///a/m.db?timeout=5", "sqlite:////here/a/m.db?timeout=5"),
        ("sqlite:///~/m.db", "sqlite:////home/me/m.db"),
        ("sqlite:////there/m.db", "sqlite:////there/m.db"),
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
    ],
)
def test_a_database_in_a_file_is_found_from_anywhere(uri: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    tracking = Tracking(mlflow=Mlflow(uri=uri)).seen_from(Path("/here"))
    assert tracking.mlflow is not None
    assert tracking.mlflow.uri == seen
    assert Tracking().seen_from(Path("/here")) == Tracking()
