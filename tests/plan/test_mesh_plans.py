"""Plans of jobs whose workers share the model: the batch is divided among replicate x shard."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.errors import JobFileError, PlanError
from scaler.job import Job, parse_job
from scaler.job.load import with_mesh
from scaler.plan import Plan, make_plan
from scaler.plan.make import require_every_size

Digits = Callable[..., Job]
FSDP = "train.strategy=fsdp"
GROWS, MOST = "scale.batch_schedule=", "max_global_batch_size: 1024"
ONE_STEP = (
    "compares the gradients of micro-steps with train.strategy = fsdp, where no worker has its whole gradient, and "
    "there is one micro-step.\n  Use scale.grad_accum_steps: 2, or strategy: ddp."
)
small = st.integers(1, 3)
BATCHES: tuple[dict[str, Any], ...] = (
    {"per_worker_batch_size": 12, "grad_accum_steps": 2},
    {"global_batch_size": 100},
    {"global_batch_size": 100, "per_worker_batch_size": 7},
    {"global_batch_size": 64, "per_worker_batch_size": "auto"},
    {"per_worker_batch_size": 8, "batch_schedule": {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 3}]}},
    {
        "per_worker_batch_size": 8,
        "batch_schedule": {"name": "doubling", "every": {"epochs": 1}, "max_global_batch_size": 500},
    },
    {"per_worker_batch_size": 8, "batch_schedule": {"name": "instead_of_decay", "max_global_batch_size": 500}},
)


def job_of(workers: Any, scale: dict[str, Any], **train: Any) -> Job:
    values = {
        "name": "t",
        "recipe": "r:build",
        "reference": {"global_batch_size": 32, "lr": 0.1, "optimizer": {"name": "sgd", "momentum": 0.9}},
        "scale": {"num_workers": workers, **scale},
        "schedule": {"name": "cosine", "warmup": {"epochs": 0.5}},
        "train": {"epochs": 3, "num_samples": 1000, **train},
    }
    return parse_job(values, source="job")


@given(replicate=small, shard=small, tensor=small, context=small, pipeline=small, scale=st.sampled_from(BATCHES))
def test_a_plan_is_that_of_the_data_parallel_ranks_alone(
    replicate: int, shard: int, tensor: int, context: int, pipeline: int, scale: dict[str, Any]
) -> None:
    """Workers with the same samples change no number of a training: they are left out, and the plan is the same."""
    ranks, workers = replicate * shard, replicate * shard * tensor * context * pipeline
    mesh = {"replicate": replicate, "shard": shard, "tensor": tensor, "context": context, "pipeline": pipeline}
    plan = make_plan(job_of(workers, {**scale, "mesh": mesh}, strategy="fsdp"))
    alone = make_plan(job_of(ranks, scale))
    assert (plan.world_size, plan.data_parallel_size, plan.mesh) == (workers, ranks, {**mesh, "expert": 1})
    same = {name: getattr(alone, name) for name in ("world_size", "mesh", "reasons", "warnings", "memory")}
    assert replace(plan, **same) == alone


@given(replicate=small, shard=small, tensor=small, samples=st.integers(0, 100), accumulation=small)
def test_each_sample_of_a_step_is_of_one_data_parallel_rank(
    replicate: int, shard: int, tensor: int, samples: int, accumulation: int
) -> None:
    mesh = {"replicate": replicate, "shard": shard, "tensor": tensor}
    scale = {"per_worker_batch_size": 50, "grad_accum_steps": accumulation, "mesh": mesh}
    plan = make_plan(job_of(replicate * shard * tensor, scale, strategy="fsdp"))
    assert plan.global_batch_size == replicate * shard * 50 * accumulation
    found = [
        place
        for rank in range(plan.data_parallel_size)
        for bounds in plan.micro_batch_bounds(samples, rank=rank, samples_seen=0)
        for place in range(*bounds)
    ]
    assert found == list(range(samples))


@pytest.mark.parametrize(
    ("overrides", "mesh", "batch"),
    [
        ([], {"replicate": 4, "shard": 1}, 512),  # ddp: copies
        ([FSDP], {"replicate": 1, "shard": 4}, 512),
        ([FSDP, "scale.mesh={replicate: 2}"], {"replicate": 2, "shard": 2}, 512),
        ([FSDP, "scale.mesh={shard: 2}"], {"replicate": 2, "shard": 2}, 512),
        ([FSDP, "scale.mesh={replicate: 2, shard: 2}"], {"replicate": 2, "shard": 2}, 512),
        ([FSDP, "scale.mesh={tensor: 2}"], {"replicate": 1, "shard": 2, "tensor": 2}, 256),
        (["scale.mesh={tensor: 2}"], {"replicate": 2, "shard": 1, "tensor": 2}, 256),  # a loop with copies
        (["scale.mesh={pipeline: 2, context: 2}"], {"replicate": 1, "shard": 1, "context": 2, "pipeline": 2}, 128),
        ([FSDP, "scale.mesh={expert: 2}"], {"replicate": 1, "shard": 4, "expert": 2}, 512),  # experts regroup shards
    ],
)
def test_the_strategy_decides_what_is_left_of_the_workers(
    digits: Digits, overrides: list[str], mesh: dict[str, int], batch: int
) -> None:
    plan = make_plan(digits("scale.num_workers=4", *overrides))
    assert {name: size for name, size in plan.mesh.items() if size > 1 or name in ("replicate", "shard")} == mesh
    assert plan.global_batch_size == batch


def test_the_mesh_is_shown_where_a_job_has_one(digits: Digits) -> None:
    def shown(*overrides: str) -> str | None:
        return make_plan(digits("scale.num_workers=8", *overrides)).reasons.get("mesh")

    assert shown() is None
    assert shown(FSDP) == "replicate 1, shard 8: the batch is divided among 8 workers"
    assert shown("scale.mesh={replicate: 8}") == "replicate 8, shard 1: the batch is divided among 8 workers"
    assert shown(FSDP, "scale.mesh={tensor: 2, context: 2, expert: 4}") == (
        "replicate 1, shard 2, tensor 2, context 2, expert 4: the batch is divided among 2 data-parallel ranks of 4 "
        "workers, which get the same samples"
    )
    assert shown("scale.mesh={pipeline: 8}") == (
        "replicate 1, shard 1, pipeline 8: the batch is divided among 1 data-parallel rank of 8 workers, which get the "
        "same samples"
    )


def test_a_number_of_workers_on_the_command_line_is_the_one_that_the_mesh_must_fit(digits: Digits) -> None:
    overrides = (FSDP, "scale.mesh={replicate: 2, shard: 4}")
    assert make_plan(digits(*overrides, workers=8)).data_parallel_size == 8
    with pytest.raises(JobFileError, match="is for 8 workers, not for 2"):
        digits(*overrides)


def test_a_held_batch_is_that_of_the_data_parallel_ranks(digits: Digits) -> None:
    job = digits(
        *("scale.num_workers={min: 2, max: 8}", "scale.on_resize=hold_global_batch", "scale.mesh={tensor: 2}"),
        *("scale.per_worker_batch_size=32",),
    )
    plans = [make_plan(job, size) for size in (2, 4, 6, 8)]
    assert {plan.global_batch_size for plan in plans} == {4 * 32}
    assert [plan.data_parallel_size for plan in plans] == [1, 2, 3, 4]
    require_every_size(job, plans[-1])  # no size in between is planned
    fixed = make_plan(digits(*("scale.mesh={tensor: 2}", "scale.per_worker_batch_size=32"), workers=4))
    assert fixed.global_batch_size == 64, "not elastic: it scales with the batch"


def test_idle_workers_are_counted_with_those_that_have_the_same_samples(digits: Digits) -> None:
    plan = make_plan(digits("scale.num_workers=8", "scale.mesh={tensor: 2}", "scale.global_batch_size=3"))
    (message,) = [warning.message for warning in plan.warnings if warning.code == "idle_workers"]
    assert message == "The global batch of 3 leaves 2 of 8 workers idle."


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["scale.rule=adascale"], f"scale.rule = adascale {ONE_STEP}"),
        ([f"{GROWS}{{name: noise_scale, {MOST}}}"], f"scale.batch_schedule = noise_scale {ONE_STEP}"),
        (
            [f"{GROWS}{{name: instead_of_decay, {MOST}, up_to: noise_scale}}"],
            f"scale.batch_schedule.up_to = noise_scale {ONE_STEP}",
        ),
        (
            ["train.fsdp.reshard_after_forward=3"],
            "train.fsdp.reshard_after_forward = 3 does not divide the 8 workers that share a copy of the model.\n"
            "  Use 2 or 4 or true.",
        ),
        (
            ["train.fsdp.reshard_after_forward=4", "scale.mesh={shard: 1}"],
            "train.fsdp.reshard_after_forward = 4 does not divide the 1 worker that has a copy of the model.\n"
            "  Use true.",
        ),
    ],
)
def test_what_sharding_cannot_do_is_refused(digits: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(digits(FSDP, "scale.num_workers=8", *overrides))
    assert str(caught.value) == text


def test_with_micro_steps_the_noise_can_be_measured(digits: Digits) -> None:
    plan = make_plan(digits(FSDP, "scale.rule=adascale", "scale.grad_accum_steps=2"))
    assert plan.is_measured


def test_a_plan_survives_its_json_and_one_without_a_mesh_is_of_copies(digits: Digits) -> None:
    plan = make_plan(digits(FSDP, "scale.num_workers=8", "scale.mesh={replicate: 2}"))
    values = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(values) == plan
    older = Plan.from_dict(
        {name: value for name, value in values.items() if name not in ("mesh", "data_parallel_size")}
    )
    assert (older.data_parallel_size, older.mesh["replicate"], older.mesh["shard"]) == (8, 8, 1)


def test_a_script_s_mesh_is_in_its_job() -> None:
    values = job_of({"min": 1, "max": 16}, {"per_worker_batch_size": 8}).model_dump()
    job = parse_job({**values, "recipe": None}, source="job")
    meshed = with_mesh(job, {"replicate": 2, "shard": 2, "tensor": 2, "expert": 2})
    plan = make_plan(meshed, 16)
    assert (plan.data_parallel_size, plan.global_batch_size) == (4, 32)
    assert (plan.mesh["tensor"], plan.mesh["expert"]) == (4, 2), "an expert dimension is a factor of a DeviceMesh"
    assert parse_job(meshed.model_dump(), source="again") == meshed
    assert with_mesh(job, {"replicate": 3}).train.strategy == "ddp"


def test_the_batch_that_an_elastic_job_holds_is_the_same_whether_the_job_or_the_script_has_the_mesh() -> None:
    workers = {"min": 2, "max": 8}
    scale = {"per_worker_batch_size": 4, "on_resize": "hold_global_batch"}
    of_script = make_plan(with_mesh(job_of(workers, scale), {"replicate": 4, "tensor": 2}), 8)
    of_job = make_plan(job_of(workers, {**scale, "mesh": {"tensor": 2}}), 8)
    assert (of_script.global_batch_size, of_script.peak_lr) == (of_job.global_batch_size, of_job.peak_lr) == (16, 0.05)
