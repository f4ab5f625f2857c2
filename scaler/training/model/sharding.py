"""What a sharded model needs around forward passes that no backward follows."""

from contextlib import suppress

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from scaler.errors import RecipeError
from scaler.job import Job

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SIGNS = (
    "got mixed torch.Tensor and DTensor",  # a weight is used that is not gathered
    "FSDP requires running forward through the root module first",  # a block is called before the model
)


def shard_again(model: nn.Module) -> None:
    """Divide the weights that a forward pass has gathered among the workers again, also after an exception in it.

    torch keeps some gathered until backward. Without a backward, they would stay as they are while the weights change.

    Args:
        model: unless it is sharded, nothing is done.
    """
    if isinstance(model, FSDPModule):
        with suppress(AttributeError):  # torch 2.13, if the model has run no forward yet
            model.reset_iter_state()


def outside_forward(error: BaseException) -> RecipeError | None:
    """Return the error for a recipe that uses a sharded model's weights outside ``forward``; None: it is another."""
    text = str(error)
    if not (isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)):
        return None
    return RecipeError(
        "train.strategy = fsdp, and the recipe uses weights of the model outside its forward, where a worker has only "
        f"a part of them: {text.splitlines()[0]}",
        "Compute it inside forward: loss and evaluate use what model(...) returns. A method that they call, such as "
        "model.encode, is named in the job: train.fsdp.forward_methods: [encode].",
    )


def computing_dtypes(model: nn.Module, job: Job) -> set[torch.dtype]:
    """Return the dtypes of a model's weights, as it stores them and as it computes with them if it is sharded."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    precision = job.train.fsdp.mixed_precision
    if isinstance(model, FSDPModule) and precision is not None:
        dtypes.add(DTYPES[precision.param_dtype])
    return dtypes
