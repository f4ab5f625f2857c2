"""The ``train.fsdp`` section: how a model is sharded."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from scaler.job.section import MOST_WORKERS, Section

Dtype = Literal["fp32", "bf16", "fp16"]


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
    reshard_after_forward: bool | Annotated[int, Field(ge=2, le=MOST_WORKERS)] = Field(
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
