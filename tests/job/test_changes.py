"""The differences between two jobs, and which of them a resumed run accepts."""

from collections.abc import Callable
from typing import Any

import pytest

from scaler.errors import JobFileError
from scaler.job import Job, apply_overrides, parse_job
from scaler.job.changes import FIXED, Change, job_changes, require_resumable
from scaler.job.load import edit_job
from scaler.plan import make_plan

Digits = Callable[..., Job]


def edited(job: Job, *overrides: str) -> Job:
    return parse_job(apply_overrides(job.model_dump(), overrides), source="edited")


def texts(old: Job, new: Job) -> list[str]:
    return [str(change) for change in job_changes(old, new)]


def test_the_same_job_has_no_changes(digits: Digits) -> None:
    assert job_changes(digits(), digits()) == []
    assert job_changes(digits(), edited(digits())) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.epochs=30"], ["train.epochs: 15 -> 30"]),
        (["train.epochs=null", "train.samples=500"], ["train.epochs: 15 -> null", "train.samples: null -> 500"]),
        (["scale.num_workers={min: 1, max: 4}"], ["scale.num_workers: 2 -> {min: 1, max: 4}"]),
        (["reference.lr=1e-4", "train.seed=1"], ["reference.lr: 0.01 -> 0.0001", "train.seed: 0 -> 1"]),
        (
            ["schedule={name: constant}"],
            [
                "schedule.name: cosine -> constant",
                "schedule.warmup: {epochs: 2, start: base, shape: linear} -> auto",
                "schedule.final_fraction: 0 -> null",
            ],
        ),
        (
            ["recipe_args.hidden=64", "recipe_args.deep={a: 1}"],
            ["recipe_args.hidden: 128 -> 64", "recipe_args.deep: null -> {a: 1}"],
        ),
        (["train.ema={decay: 0.9}"], ["train.ema: null -> {decay: 0.9}"]),
        (["resources.gpus_per_worker=0.0"], []),
        (["reference.optimizer.nesterov=false"], []),  # what it is anyway
        (
            ['groups=[{match: "*.bias", weight_decay: 0}]'],
            ['groups: [] -> [{match: "*.bias", weight_decay: 0}]'],
        ),
    ],
)
def test_a_change_is_a_dotted_key_with_both_values(digits: Digits, overrides: list[str], expected: list[str]) -> None:
    assert texts(digits(), edited(digits(), *overrides)) == expected


def test_a_change_as_an_event_has_it() -> None:
    assert Change(key="train.epochs", old=3.0, new=None).texts() == ("train.epochs", "3", "null")


def test_a_secret_is_neither_compared_nor_shown(digits: Digits) -> None:
    masked = edited(digits(), 'recipe_args.api_key="***"')
    given = edited(digits(), "recipe_args.api_key=opensesame")
    assert texts(masked, given) == []
    assert texts(digits(), given) == ["recipe_args.api_key: null -> ***"]


REFUSED = [
    (
        "reference.optimizers={d: {lr: 0.1, optimizer: {name: adam}}}",
        "reference.optimizers.d: null -> {lr: 0.1, optimizer: {name: adam}}: the saved state is of these optimizers.",
    ),
    ("name=other", "name: digits -> other: the run's id begins with it."),
    ("recipe=other:build", "recipe: recipe:build -> other:build: the saved weights are of its model."),
    ("storage=elsewhere", "storage: runs -> elsewhere: the run's folder cannot move."),
    (
        "train.num_samples=1000",
        "train.num_samples: 1437 -> 1000: samples_seen counts epochs of this many samples.",
    ),
    ("train.unit=tokens", "train.unit: samples -> tokens: samples_seen and the batch are of this unit."),
    (
        "train.seed=1",
        "train.seed: 0 -> 1: it decides the order of the data: samples would be used twice in an epoch, or never.",
    ),
    (
        "train.ema={decay: 0.9}",
        (
            "train.ema: null -> {decay: 0.9}: the average starts with the training, so it cannot be added or removed "
            "later."
        ),
    ),
    (
        "reference.optimizer={name: sgd}",
        "reference.optimizer.momentum: 0.9 -> 0: the saved state of the optimizer fits only the old value.",
    ),
    (
        "scale.rule=adascale",
        "scale.rule: linear -> adascale: with adascale, progress is counted in samples of the reference's training.",
    ),
    (
        "scale.batch_schedule={name: noise_scale, max_global_batch_size: 512}",
        "scale.batch_schedule: null -> {name: noise_scale, every: {epochs: 1}, max_global_batch_size: 512}: the "
        "growth of the batch is measured, and saved in checkpoints.",
    ),
    (
        "scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 512, up_to: noise_scale}",
        "scale.batch_schedule: null -> {name: instead_of_decay, max_global_batch_size: 512, growth: 2, up_to: "
        "noise_scale}: the growth of the batch is measured, and saved in checkpoints.",
    ),
    (
        'groups=[{match: "*", lr_ratio: 2}]',
        'groups: [] -> [{match: "*", lr_ratio: 2}]: the optimizer\'s state is saved by groups.',
    ),
    (
        'layer_decay={factor: 0.5, layers: ["0.*", "2.*"]}',
        'layer_decay: null -> {factor: 0.5, layers: ["0.*", "2.*"]}: the optimizer\'s state is saved by groups.',
    ),
]


@pytest.mark.parametrize(("override", "line"), REFUSED, ids=[override.partition("=")[0] for override, _ in REFUSED])
def test_what_a_checkpoint_or_the_folder_holds_cannot_change(digits: Digits, override: str, line: str) -> None:
    for old, new in ((digits(), edited(digits(), override)), (edited(digits(), override), digits())):
        with pytest.raises(JobFileError) as caught:
            require_resumable(job_changes(old, new))
        if old == digits():
            key = line.partition(":")[0]
            assert caught.value.problem == f"a resumed run cannot change {key}."
            assert caught.value.remedy.splitlines()[0] == line
            assert caught.value.remedy.splitlines()[-1] == "Or start a new run: scaler submit JOB."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["reference.optimizer={name: adam}"], ["reference.optimizer={name: adam, amsgrad: true}"]),
        (["reference.optimizer={name: adam}"], ["reference.optimizer={name: adamw}"]),
        (
            ["reference.optimizer={name: 'torch.optim:NAdam', momentum_decay: 0.1}"],
            ["reference.optimizer={name: 'torch.optim:NAdam'}"],
        ),
        (
            ["scale.batch_schedule={name: noise_scale, max_global_batch_size: 512}"],
            ["scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 512}"],
        ),
        (
            ["scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 512, up_to: noise_scale}"],
            ["scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 512}"],
        ),
        (
            ['layer_decay={factor: 0.5, layers: ["0.*", "2.*"]}'],
            ['layer_decay={factor: 0.6, layers: ["0.*", "2.*"]}'],
        ),
    ],
)
def test_and_within_what_is_there_already(digits: Digits, old: list[str], new: list[str]) -> None:
    with pytest.raises(JobFileError, match="a resumed run cannot change"):
        require_resumable(job_changes(edited(digits(), *old), edited(digits(), *new)))


MAY_CHANGE = [
    "recipe_args.hidden=64",
    "reference.lr=0.1",
    "reference.optimizers={d: {lr: 0.1}}",
    "reference.warmup={epochs: 1}",
    "train.last_batch=carry",
    "reference.global_batch_size=32",
    "reference.optimizer={name: sgd, momentum: 0.8, nesterov: true, weight_decay: 0.1}",
    "scale.num_workers=4",
    "scale.num_workers={min: 1, max: 4}",
    "scale.per_worker_batch_size=64",
    "scale.grad_accum_steps=2",
    "scale={num_workers: 2, global_batch_size: 64}",
    "scale.rule=sqrt",
    "scale.on_resize=hold_global_batch",
    "scale.rewarmup=null",
    "scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 512}",
    "scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 512}",
    "schedule={name: constant}",
    "schedule.plateau={metric: loss}",
    "train.epochs=30",
    "train.stop_after={epochs: 3}",
    "train.strategy=fsdp",  # a checkpoint is loaded by any number of workers, with either strategy
    "scale.mesh={replicate: 2}",
    "train.precision=bf16",
    "train.tf32=true",
    "train.compile=true",
    "train.compile={mode: max-autotune-no-cudagraphs}",
    "train.activation_checkpointing=auto",
    "train.channels_last=true",
    "train.pin_memory=false",
    "train.clip_grad_norm=1.0",
    "train.noise_scale_every=null",
    "train.data_workers=2",
    "train.check_data=false",
    "train.eval_every={samples: 100}",
    "train.num_samples=null",  # compared by what the recipe has
    "resources={cpus_per_worker: 0.5, gpus_per_worker: 0}",
    "runtime_env={env_vars: {MODE: fast}}",
    "checkpoint={every: {seconds: 60}, keep: 3}",
    "failures={max_restarts: 0, hang_timeout_s: null, divergence: null}",
    "reference.samples_per_s=1000",
    "reference.total_samples=10000",  # the plan is made again from the reference
    "reference.epochs=3",
    'tracking={mlflow: {uri: "sqlite:///m.db"}, wandb: {project: digits}}',
]


@pytest.mark.parametrize("override", MAY_CHANGE)
def test_everything_else_may_change(digits: Digits, override: str) -> None:
    changes = job_changes(digits(), edited(digits(), override))
    assert changes
    require_resumable(changes)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ["schedule.plateau={metric: loss, mode: min}"],
            ["schedule.plateau={metric: accuracy, mode: max}"],
            ["schedule.plateau.metric: loss -> accuracy", "schedule.plateau.mode: min -> max"],
        ),
        (
            ["checkpoint.best={metric: loss, mode: min}"],
            ["checkpoint.best={metric: accuracy, mode: max}"],
            ["checkpoint.best.metric: loss -> accuracy", "checkpoint.best.mode: min -> max"],
        ),
    ],
)
def test_what_is_watched_may_change(digits: Digits, old: list[str], new: list[str], expected: list[str]) -> None:
    """What the training remembers of the one metric it forgets: that is its own affair."""
    changes = job_changes(edited(digits(), *old), edited(digits(), *new))
    assert [str(change) for change in changes] == expected
    require_resumable(changes)


HELD = [
    "scale.num_workers={min: 1, max: 4}",
    "scale.per_worker_batch_size=64",
    "scale.grad_accum_steps=2",
    "scale.on_resize=hold_global_batch",
]


@pytest.mark.parametrize(
    ("overrides", "workers", "expected"),
    [
        (
            HELD,
            1,
            [
                "scale.num_workers: {min: 1, max: 4} -> 1",
                "scale.grad_accum_steps: 2 -> null",
                "scale.global_batch_size: null -> 512",
            ],
        ),
        (
            [HELD[0], "scale.global_batch_size=96", HELD[3]],
            3,  # it is fixed already; micro-steps were found for each size, and are now
            ["scale.num_workers: {min: 1, max: 4} -> 3", "scale.grad_accum_steps: 1 -> null"],
        ),
        (HELD[:3], 1, ["scale.num_workers: {min: 1, max: 4} -> 1"]),  # it scales with the batch
        (["scale.num_workers=4", *HELD[1:]], 1, ["scale.num_workers: 4 -> 1"]),  # nothing was held
        ([*HELD, "scale.num_workers=4"], 1, ["scale.num_workers: 4 -> 1"]),  # nor here: --set makes another job
    ],
)
def test_fewer_workers_hold_the_batch_that_an_elastic_job_holds(
    digits: Digits, overrides: list[str], workers: int, expected: list[str]
) -> None:
    before = digits(*overrides)
    for after in (
        digits(*overrides, workers=workers),
        edit_job(before.model_dump(), workers=workers, source="stored"),
    ):
        assert texts(before, after) == expected
        assert isinstance(after.scale.num_workers, int)


def test_the_held_batch_and_its_learning_rate_are_those_of_the_elastic_plan(digits: Digits) -> None:
    for workers in (1, 2, 3, 4):
        elastic, fixed = make_plan(digits(*HELD), workers), make_plan(digits(*HELD, workers=workers))
        assert fixed.phases == elastic.phases
        assert fixed.phases[0].global_batch_size == 512


def test_a_number_of_workers_that_is_set_is_another_job(digits: Digits) -> None:
    assert texts(digits(*HELD), digits(*HELD, "scale.num_workers=1")) == ["scale.num_workers: {min: 1, max: 4} -> 1"]


def test_every_key_of_the_job_is_decided_one_way_or_the_other(digits: Digits) -> None:
    """A key that is added to the job must be thought about here."""
    decided = {override.partition("=")[0] for override in (*MAY_CHANGE, *(line for line, _ in REFUSED))}

    def keys(values: dict[str, Any], inside: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            name = f"{inside}{key}"
            nested = isinstance(value, dict) and name in ("reference", "scale", "train", "schedule")
            found += keys(value, f"{name}.") if nested else [name]
        return found

    known = {
        "train.steps": "train.epochs",
        "train.samples": "train.epochs",
        "train.tokens": "train.epochs",
        "reference.total_tokens": "reference.total_samples",
        "train.tokens_per_sample": "train.unit",
        "train.sequence_lengths": "train.unit",
        "schedule.name": "schedule",
        "schedule.warmup": "schedule",
        "schedule.final_fraction": "schedule",
        "scale.exponent": "scale.rule",
        "scale.noise_scale": "scale.rule",
        "scale.betas": "scale.rule",
        "scale.co_scale": "scale.rule",  # constants are written anew
        "train.fsdp": "train.strategy",
        "scale.horizon": "scale.rule",
        "scale.beta2_range": "scale.rule",
        "scale.global_batch_size": "scale",
        "recipe_args": "recipe_args.hidden",
    }
    undecided = [key for key in keys(digits().model_dump()) if known.get(key, key) not in decided]
    assert undecided == []
    assert all(key.partition(".")[0] in Job.model_fields for key in FIXED)


def test_a_resumed_run_may_be_sharded_in_another_way(digits: Digits) -> None:
    sharded = digits("train.strategy=fsdp", "scale.num_workers=4", "train.fsdp={blocks: [Block], cpu_offload: true}")
    replicated = digits("scale.num_workers=4")
    again = digits(
        *("train.strategy=fsdp", "scale.num_workers=8", "scale.mesh={replicate: 2}"),
        *("train.fsdp={reshard_after_forward: 2, mixed_precision: {}, reduce_every_micro_step: false}",),
    )
    for old, new in ((replicated, sharded), (sharded, again), (again, replicated)):
        changes = job_changes(old, new)
        assert {change.key.partition(".")[2].split(".")[0] for change in changes} & {"strategy", "fsdp", "mesh"}
        require_resumable(changes)


def test_all_refused_changes_are_listed_at_once_with_the_options_that_undo_them(digits: Digits) -> None:
    new = edited(
        digits(), "name=other", "train.seed=7", "train.epochs=30", "recipe=other things:build".replace(" ", "_")
    )
    with pytest.raises(JobFileError) as caught:
        require_resumable(job_changes(digits(), new))
    assert str(caught.value) == (
        "a resumed run cannot change name, recipe, train.seed.\n"
        "  name: digits -> other: the run's id begins with it.\n"
        "  recipe: recipe:build -> other_things:build: the saved weights are of its model.\n"
        "  train.seed: 0 -> 7: it decides the order of the data: samples would be used twice in an epoch, or "
        "never.\n"
        "  Undo: --set name=digits --set recipe=recipe:build --set train.seed=0\n"
        "  Or start a new run: scaler submit JOB."
    )
