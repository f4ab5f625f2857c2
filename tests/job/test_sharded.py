"""``train.strategy``, ``train.fsdp`` and ``scale.mesh``: what a job file may ask for, and every refusal."""

from collections.abc import Callable

import pytest

from scaler.errors import JobFileError
from scaler.job import Job
from scaler.job.mesh import mesh_on, workers_step

Digits = Callable[..., Job]
FSDP = "train.strategy=fsdp"
RESHARD = (
    "train.fsdp.reshard_after_forward: true: free a block's gathered weights after its forward, and gather them again "
    "in backward. false: keep them until backward, which is faster and takes more memory. A number: keep them sharded "
    "among this many workers, such as those of a node."
)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["train.fsdp.cpu_offload=true"],
            "train.fsdp.cpu_offload is given, and train.strategy = ddp shards no model.\n"
            "  Write train.strategy: fsdp, or leave train.fsdp out.",
        ),
        (
            ["train.fsdp={blocks: [Block], forward_methods: [encode]}"],
            "train.fsdp.blocks and train.fsdp.forward_methods are given, and train.strategy = ddp shards no model.\n"
            "  Write train.strategy: fsdp, or leave train.fsdp out.",
        ),
        (
            [FSDP, "train.precision=fp16"],
            "train.precision = fp16 and train.strategy = fsdp: a worker sees only its part of the gradient, and cannot "
            "tell whether the step overflowed.\n  Use precision: bf16, which needs no loss scaling.",
        ),
        (
            [FSDP, "train.channels_last=true"],
            "train.channels_last = true and train.strategy = fsdp: torch shards weights in the default memory format.\n"
            "  Leave channels_last out.",
        ),
        (
            [FSDP, "reference.optimizer={name: lamb}", "scale.rule=auto"],
            "train.strategy = fsdp, and the optimizer lamb needs whole weights in its step.\n"
            "  Use another one, such as adamw; or strategy: ddp.",
        ),
        (
            [FSDP, "reference.optimizers={d: {lr: 0.1, optimizer: {name: prodigy}}}"],
            "train.strategy = fsdp, and the optimizer prodigy needs whole weights in its step.\n"
            "  Use another one, such as adamw; or strategy: ddp.",
        ),
        (
            ["scale.mesh={shard: 2}"],
            "scale.mesh.shard = 2, and train.strategy = ddp gives each worker the whole model.\n"
            "  Write train.strategy: fsdp, or replicate: 2 instead of shard.",
        ),
        (
            ["scale.mesh={replicate: 4}"],
            "scale.mesh = {replicate: 4} is for 4 workers, not for 2.\n  Use 4 workers or replicate: 2.",
        ),
        (
            ["scale.num_workers={min: 3, max: 8}", "scale.mesh={tensor: 2}"],
            "scale.num_workers.min = 3 is no multiple of 2, and scale.mesh = {tensor: 2} needs one.\n  Use 2 or 4.",
        ),
        (
            [FSDP, "scale.num_workers={min: 4, max: 10}", "scale.mesh={shard: 4}"],
            "scale.num_workers.max = 10 is no multiple of 4, and scale.mesh = {shard: 4} needs one.\n  Use 8 or 12.",
        ),
        (
            [FSDP, "scale.num_workers={min: 2, max: 8}", "scale.mesh={expert: 4}"],
            "scale.num_workers.min = 2 is no multiple of 4, and scale.mesh = {expert: 4} needs one.\n  Use 4.",
        ),
        (
            [FSDP, "scale.num_workers={min: 2, max: 8}", "scale.mesh={replicate: 2, shard: 4}"],
            "scale.mesh = {replicate: 2, shard: 4} is for 8 workers, and the job is elastic.\n"
            "  Leave replicate or shard out: it takes what is left of the workers; or write num_workers: 8.",
        ),
        (
            ["scale.num_workers={min: 2, max: 8}", "scale.mesh={replicate: 4}"],
            "scale.mesh = {replicate: 4} is for 4 workers, and the job is elastic.\n"
            "  Leave replicate out: it takes what is left of the workers; or write num_workers: 4.",
        ),
        (
            ["scale.mesh={tp: 2}"],
            'unknown key "tp" in scale.mesh.\n  Did you mean "tensor"? Known keys: '
            "replicate, shard, tensor, context, pipeline, expert.",
        ),
        (
            ["scale.mesh={tensr: 2}"],
            'unknown key "tensr" in scale.mesh.\n  Did you mean "tensor"? Known keys: '
            "replicate, shard, tensor, context, pipeline, expert.",
        ),
        (
            [FSDP, "train.fsdp.reshard_after_forward=node"],
            f'train.fsdp.reshard_after_forward = "node" is not true or false.\n  {RESHARD}',
        ),
        (
            [FSDP, "train.fsdp.reshard_after_forward=1"],
            f"train.fsdp.reshard_after_forward = 1 must be >= 2.\n  {RESHARD}",
        ),
        (
            [FSDP, "train.fsdp.reshard_after_forward=[2]"],
            f"train.fsdp.reshard_after_forward = [2] is not a whole number.\n  {RESHARD}",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(digits: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        digits(*overrides)
    assert str(caught.value).partition(": ")[2] == text


@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        ([], 1),
        ([FSDP], 1),
        (["scale.mesh={tensor: 2}"], 2),
        ([FSDP, "scale.mesh={replicate: 2}"], 2),
        ([FSDP, "scale.mesh={shard: 4, tensor: 2}"], 8),
        ([FSDP, "scale.mesh={tensor: 2, expert: 8}"], 8),  # shard in multiples of 4
        (["scale.mesh={pipeline: 2, expert: 4}"], 8),  # each stage has a multiple of 4
        ([FSDP, "scale.mesh={shard: 4, expert: 2}"], 4),  # expert divides the workers at every size
    ],
)
def test_an_elastic_job_has_sizes_in_steps_that_fit_its_mesh(digits: Digits, overrides: list[str], step: int) -> None:
    job = digits("scale.num_workers={min: 8, max: 16}", *overrides)
    assert workers_step(job) == step
    for size in range(8, 17, step):
        assert mesh_on(job, size)


def test_a_loop_of_one_s_own_may_say_that_it_shards(digits: Digits) -> None:
    from scaler.job.own_loop import require_own_loop_keys

    require_own_loop_keys(digits(FSDP, "scale.mesh={replicate: 2}"), source="job.yaml")
    with pytest.raises(JobFileError, match=r"train\.fsdp is for scaler's own loop"):
        require_own_loop_keys(digits(FSDP, "train.fsdp.cpu_offload=true"), source="job.yaml")
