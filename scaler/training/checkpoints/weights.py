"""The weights of a model in a checkpoint, under the model's own names, and the files to which they are exported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaler.errors import JobFileError, RunError
from scaler.runs import RunFolder
from scaler.training.checkpoints.choose import Which, choose_checkpoint, others
from scaler.training.checkpoints.files import UnusableError
from scaler.training.checkpoints.load import Saved, open_checkpoint
from scaler.training.checkpoints.state import require_same_shapes
from scaler.training.model.names import load_model_state, model_state, unwrapped
from scaler.training.recipe.failures import describe_type

AVERAGED = "ema_"  # begins the names of evaluated values of the moving average

Memory = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The weights and buffers of a model at one point of its training."""

    samples_seen: int  # samples in the weights, over all workers
    is_average: bool  # whether they are the moving average of the weights (train.ema)
    has_average: bool  # whether the checkpoint has one
    state: dict[str, Any]  # on the CPU, by the model's own names; as of ``nn.Module.state_dict``
    manifest: Mapping[str, Any]  # of the checkpoint


def read_weights(folder: RunFolder, which: Which, *, ema: bool | None) -> Weights:
    """Return the weights in a checkpoint of a run. Nothing in the run's folder is changed.

    Args:
        folder: of the run.
        which: as in ``choose_checkpoint``.
        ema: True: the moving average of the weights. False: the weights of the last step. None: the average if the job
            has ``train.ema``; but with ``best`` those that the best value is of: the average only for a value whose
            name begins with ``ema_``.

    Raises:
        RunError: there is no such checkpoint, it cannot be read, it has no average, or it has only the point at which
            a schedule-free optimizer trains.
    """
    samples_seen = choose_checkpoint(folder, which)
    try:
        return _read(open_checkpoint(folder, samples_seen), which, ema=ema)
    except UnusableError as error:
        raise RunError(f"run {folder.run_id}: {error.problem}", f"Use another one. {others(folder)}") from error


def _read(saved: Saved, which: Which, *, ema: bool | None) -> Weights:
    """Read the chosen weights, and nothing else of the checkpoint."""
    samples_seen, manifest = saved.files.samples_seen, saved.files.manifest
    where, average = f"run {saved.files.folder.run_id}: checkpoint {samples_seen}", saved.state["average"]
    if ema and average is None:
        raise RunError(
            f"{where} has no average of the weights: its job has no train.ema.",
            "Leave ema out, or train with train.ema.",
        )
    optimizers = saved.state["optimizer"]
    states = [optimizers] if "param_groups" in optimizers else optimizers.values()
    if ema is None and any(group.get("train_mode") for state in states for group in state["param_groups"]):
        raise RunError(
            f"{where} has the weights with which a schedule-free optimizer trains, not those that it returns.",
            "The checkpoint at the end of training has those. For these weights: ema=False, or scaler export-model "
            "--raw.",
        )
    if ema is None:
        ema = average is not None and (which != "best" or manifest["best_of"][0].startswith(AVERAGED))
    return Weights(
        samples_seen=samples_seen,
        is_average=ema,
        has_average=average is not None,
        state=saved.read(("average", "weights") if ema else ("model",)),
        manifest=manifest,
    )


def with_weights(model: nn.Module, weights: Weights) -> nn.Module:
    """Load weights into a model on the CPU, and return the model in evaluation mode, without a wrapper around it.

    Raises:
        RecipeError: it is another model; names the first difference.
    """
    model = unwrapped(model).cpu()
    require_same_shapes(
        weights.state,
        model_state(model),
        samples_seen=weights.samples_seen,
        remedy="Give the recipe with which the run was trained: load_model(run, recipe=...).",
    )
    load_model_state(model, weights.state)
    return model.eval()


def count_elements(weights: Weights) -> int:
    """Return how many numbers the tensors have; a tensor with several names, such as tied weights, counts once."""
    found = {
        (_memory(value) if value.layout == torch.strided and value.numel() else name): value.numel()
        for name, value in weights.state.items()
        if isinstance(value, Tensor)
    }
    return sum(found.values())


def write_torch(weights: Weights, path: Path) -> None:
    """Write a file that ``torch.load(file, weights_only=True)`` reads as a state for the model."""
    with path.open("wb") as file:
        torch.save(weights.state, file)


def write_safetensors(weights: Weights, path: Path, about: Mapping[str, str]) -> None:
    """Write a file that ``safetensors.torch.load_model`` reads.

    A tensor with several names (tied weights) is in the file once; the metadata has its other names, as
    ``safetensors.torch.save_model`` writes them.

    Args:
        weights: to write.
        path: of the file.
        about: metadata by name.

    Raises:
        JobFileError: safetensors is not installed, or cannot hold one of the values.
    """
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise JobFileError(
            "the format safetensors needs the package safetensors, which is not installed.",
            "pip install 'scaler[safetensors]', or use the format torch.",
        ) from None
    tensors: dict[str, Tensor] = {}
    names: dict[Memory, str] = {}  # of the tensors so far
    storages: set[int] = set()
    aliases: dict[str, str] = {}
    for name, value in weights.state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = f"a tensor of the layout {value.layout}" if isinstance(value, Tensor) else describe_type(value)
            raise JobFileError(f"safetensors cannot hold {name}, which is {kind}.", "Use the format torch.")
        key = _memory(value)
        if value.numel() and key in names:
            aliases[name] = names[key]
            continue
        names[key] = name
        storage = value.untyped_storage().data_ptr()
        own = value.detach().contiguous()
        tensors[name] = own.clone() if storage in storages and own.data_ptr() == value.data_ptr() else own
        storages.add(storage)
    try:
        save_file(tensors, path, metadata={"format": "pt", **about, **aliases})
    except (KeyError, ValueError, TypeError) as error:
        raise JobFileError(f"safetensors cannot hold these weights: {error}", "Use the format torch.") from error


def _memory(tensor: Tensor) -> Memory:
    """Return what two names of one tensor have in common."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
