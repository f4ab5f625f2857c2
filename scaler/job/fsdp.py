"""The ``train.fsdp`` section: how a model is sharded, and what does not go with it."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from scaler.core.optimizers import optimizer_facts
from scaler.job.section import MOST_WORKERS, Section, problem

if TYPE_CHECKING:
    from scaler.job.model import Job

Dtype = Literal["fp32", "bf16"]


class MixedPrecision(Section):
    """Precision of the gathered weights and of the sums of gradients. The shards and the optimizer are fp32."""

    param_dtype: Dtype = Field(
        "bf16", description="Precision in which weights are gathered, and in which forward and backward compute."
    )
    reduce_dtype: Dtype = Field("fp32", description="Precision in which gradients are summed over the workers.")
    output_dtype: Dtype | None = Field(None, description="Precision of the model's outputs; null: as they are.")


class Fsdp(Section):
    """Options of `strategy: fsdp` (torch's fully_shard)."""

    blocks: Annotated[
        Annotated[tuple[str, ...], Field(strict=False, min_length=1), Tag("<list>")]
        | Annotated[Literal["auto"], Tag("<word>")],
        Discriminator(lambda value: "<list>" if isinstance(value, list | tuple) else "<word>"),
    ] = Field(
        "auto",
        description="Modules whose weights are gathered together, one module at a time; the rest of the model is one "
        "more. A list of class names, or of patterns of module names such as layers.*; or auto: the modules of one "
        "class that stand together in an nn.ModuleList or nn.Sequential.",
    )
    reshard_after_forward: Annotated[
        Annotated[int, Field(ge=2, le=MOST_WORKERS), Tag("<number>")] | Annotated[bool, Tag("<word>")],
        Discriminator(lambda value: "<word>" if isinstance(value, bool | str) else "<number>"),
    ] = Field(
        True,
        description="true: free a block's gathered weights after its forward, and gather them again in backward. "
        "false: keep them until backward, which is faster and takes more memory. A number: keep them sharded among "
        "this many workers, such as those of a node.",
    )
    mixed_precision: MixedPrecision | None = Field(
        None, description="Precision of gathered weights and of sums; null: that of the weights."
    )
    cpu_offload: bool = Field(
        False,
        description="Keep weights, gradients and the optimizer's state in the CPU's memory, where the optimizer "
        "steps; a GPU has only the gathered blocks.",
    )
    reduce_every_micro_step: bool = Field(
        True,
        description="true: sum the gradient over the workers in each micro-step. false: only in the last one, which "
        "saves communication; each worker then keeps the whole gradient of its micro-steps.",
    )
    forward_methods: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Methods of the model besides forward that the loss or the evaluation calls, such as generate. "
        "They gather weights as forward does.",
    )


def require_shardable(job: "Job") -> None:
    """Refuse options of sharding without sharding, and what does not work on sharded weights; for the job's validator.

    Raises:
        PydanticCustomError: names the key, and what to use.
    """
    train = job.train
    if train.strategy == "ddp":
        default = Fsdp()
        given = [key for key in Fsdp.model_fields if getattr(train.fsdp, key) != getattr(default, key)]
        if given:
            keys = " and ".join(f"train.fsdp.{key}" for key in given)
            raise problem(
                f"{keys} {'is' if len(given) == 1 else 'are'} given, and train.strategy = ddp shards no model.",
                "Write train.strategy: fsdp, or leave train.fsdp out.",
            )
        return
    if train.precision == "fp16":
        raise problem(
            "train.precision = fp16 and train.strategy = fsdp: a worker sees only its part of the gradient, and cannot "
            "tell whether the step overflowed.",
            "Use precision: bf16, which needs no loss scaling.",
        )
    if train.channels_last:
        raise problem(
            "train.channels_last = true and train.strategy = fsdp: torch shards weights in the default memory format.",
            "Leave channels_last out.",
        )
    several = [own.optimizer for own in job.reference.several.values() if own.optimizer is not None]
    for optimizer in (job.reference.optimizer, *several):
        if not optimizer_facts(optimizer.name).works_sharded:
            raise problem(
                f"train.strategy = fsdp, and the optimizer {optimizer.name} needs whole weights in its step.",
                "Use another one, such as adamw; or strategy: ddp.",
            )
