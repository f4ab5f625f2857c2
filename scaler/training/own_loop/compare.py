"""What the processes of a loop must have in common: compared in the first step, and then now and then."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from scaler.core.mesh import DATA
from scaler.errors import TrainingError
from scaler.training.own_loop.counts import OfStep
from scaler.training.own_loop.mesh import CONTEXT, EXPERT, PIPELINE, TENSOR, LoopMesh

COMPARED_EVERY = 100  # steps from one comparison of the processes to the next
SAME_NORM = 1e-3  # relative difference of gradient norms that rounding explains


def require_equal_steps(steps: Sequence[OfStep], mesh: LoopMesh) -> None:
    """Compare what all processes know of an earlier step.

    Args:
        steps: of each process, by its rank.
        mesh: says which of them train on the same samples.

    Raises:
        TrainingError: processes of one data-parallel rank trained on different samples, or nothing averages the
            gradients of different ones.
    """
    for ranks in mesh.groups(TENSOR, CONTEXT, PIPELINE, EXPERT):
        counts = [steps[rank].samples for rank in ranks]
        if len(set(counts)) > 1:
            raise TrainingError(
                f"ranks {_listed(ranks)} are one data-parallel rank, and counted {_listed(counts)} samples in a step.",
                _SAME_SAMPLES,
            )
    for ranks in mesh.groups(TENSOR, EXPERT):
        if len({steps[rank].digest for rank in ranks}) > 1:
            raise TrainingError(
                f"ranks {_listed(ranks)} are one data-parallel rank, and fetched different samples in a step.",
                _SAME_SAMPLES,
            )
    for ranks in mesh.groups(*DATA):
        norms = torch.tensor([steps[rank].norm for rank in ranks], dtype=torch.float64)
        mean, spread = float(norms.mean()), float(norms.std(correction=0))
        if spread > SAME_NORM * max(mean, 1e-30):
            names = f"the {len(ranks)} processes" if len(ranks) == len(steps) else f"ranks {_listed(ranks)}"
            raise TrainingError(
                f"the gradient norms of {names} differ by {spread / mean:.0%}: nothing averages the "
                "gradients, so each process trains a model of its own.",
                "Wrap the model before training: DistributedDataParallel(model) or fully_shard(model).",
            )


def digest_of(batch: Any) -> float:
    """Return a number that tells a batch from others, by its first tensor; 0: it has none."""
    first = next(_tensors(batch), None)
    if first is None:
        return 0.0
    return float(crc32(first.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()))


_SAME_SAMPLES = (
    "Let the sampler follow the data-parallel rank: DistributedSampler(data, num_replicas=run.data_parallel_size, "
    "rank=run.data_parallel_rank)."
)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
