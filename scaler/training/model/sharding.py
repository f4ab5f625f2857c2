"""What a sharded model needs around forward passes that no backward follows."""

from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode

from scaler.errors import RecipeError
from scaler.job import Job

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_NUMBERS = {"__float__", "__int__", "__bool__", "__index__", "item", "tolist", "numpy"}
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


class WholeNumbers(TorchFunctionMode):
    """Lets ``float(...)``, ``item()`` and the like of sharded weights be of the whole, on every worker.

    torch returns a worker's part of a sum or a norm. Every worker must do the same in the ``with`` block.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], DTensor) and getattr(func, "__name__", "") in _NUMBERS:
            return getattr(whole(args[0]), func.__name__)(*args[1:])
        return func(*args, **(kwargs or {}))


def whole_numbers(model: nn.Module) -> AbstractContextManager[Any]:
    """Return ``WholeNumbers`` for a sharded model; for another one, a context that does nothing."""
    return WholeNumbers() if isinstance(model, FSDPModule) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its elements; a collective if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
