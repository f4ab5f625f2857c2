"""Each worker has a part of the model: torch's ``fully_shard`` (FSDP2)."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError, RecipeError
from scaler.job.fsdp import Fsdp
from scaler.training.clock import Clock
from scaler.training.gradients.norm import values_of
from scaler.training.memory import return_freed_blocks
from scaler.training.model.buffers import broadcast_tensors
from scaler.training.model.initial import Initialize, materialize
from scaler.training.model.sharding import DTYPES
from scaler.training.parallel.gradient_sum import sparse_parameters
from scaler.training.parallel.sharded_reduction import ShardedReduction
from scaler.training.parallel.strategy import GradientReduction
from scaler.training.parallel.units import blocks_of, require_shardable, sharded_modules
from scaler.training.process_group import group_of_one

REPLICATE, SHARD = "replicate", "shard"


class Sharded:
    """A part of each weight, of its gradient and of the optimizer's state on each worker (``strategy: fsdp``).

    The parameters of a distributed model are ``DTensor``. Before a block computes, its weights are gathered.

    Args:
        options: ``train.fsdp`` of the job.
        replicate: copies of the model; each is divided among ``shard`` workers.
        shard: workers that share a copy.
        device: of this worker.
        seed: of the weights of a model that was built on the meta device.
        initialize: as in ``Recipe``.

    Raises:
        JobFileError: this torch cannot do it, or the weights cannot be kept on the CPU.
    """

    is_sharded = True

    def __init__(
        self,
        options: Fsdp,
        *,
        replicate: int = 1,
        shard: int,
        device: torch.device,
        seed: int = 0,
        initialize: Initialize | None = None,
    ) -> None:
        _require_new_torch()
        if options.cpu_offload and device.type == "cpu":
            raise JobFileError(
                "train.fsdp.cpu_offload = true, and the workers have no GPU.",
                "Leave it out, or set resources.gpus_per_worker.",
            )
        if device.type == "cpu" or options.cpu_offload:
            return_freed_blocks()
        self._options, self._device, self._seed, self._initialize = options, device, seed, initialize
        self._world_size = replicate * shard
        if self._world_size == 1:
            group_of_one(device)
        self._mesh = _mesh(device, replicate=replicate, shard=shard)

    def distribute(self, model: nn.Module) -> None:
        """Divide a model's weights among the workers, as rank 0 has them, one block at a time.

        Raises:
            RecipeError: the job names a block or a method that the model does not have, or the model has sparse
                gradients.
        """
        if sparse_parameters(model):
            raise RecipeError(
                "the model has sparse gradients (nn.Embedding(sparse=True)), which cannot be sharded.",
                "Build it with sparse=False, or use train.strategy: ddp.",
            )
        for method in self._options.forward_methods:
            if not callable(getattr(model, method, None)):
                known = [name for name in dir(type(model)) if not name.startswith("_")]
                raise RecipeError(
                    f"train.fsdp.forward_methods: the model ({type(model).__name__}) has no method {method}.",
                    f"{did_you_mean(method, known)}Name a method of the model.",
                )
        blocks = blocks_of(model, self._options.blocks)
        require_shardable(model, blocks)
        for name, block in reversed(blocks.items()):
            self._shard(block, name, reshard=self._options.reshard_after_forward)
        self._shard(model, "", reshard=None)
        for method in self._options.forward_methods:
            register_fsdp_forward_method(model, method)
        for module in sharded_modules(model):
            # A sum, as in GradientStep: the weights of the samples are in the losses already.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
        model.set_reduce_scatter_unused_params(True)  # type: ignore[operator]

    def reduction(self, model: nn.Module, named: Mapping[str, nn.Parameter], clock: Clock) -> GradientReduction:
        """Return what decides when gradients are summed; torch sums them in backward."""
        return ShardedReduction(
            model, named, self._options, clock=clock, device=self._device, world_size=self._world_size
        )

    def micro_batches(self, own: int, *, most: int) -> int:
        """Return the largest number of all workers: the others repeat a micro-batch with the weight 0."""
        return max(most, 1)

    def noise_parts(self, micro_batches: int) -> int:
        """Return the micro-batches of one worker: a gradient can be seen only after the sum over the workers."""
        return micro_batches

    def part_weights(self, weights: Sequence[float]) -> list[float]:
        """Return the weights of all workers' micro-batches together, in order."""
        summed = torch.tensor(weights, dtype=torch.float64, device=self._device)
        if self._world_size > 1:
            dist.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def broken_weight(self, named: Mapping[str, nn.Parameter]) -> str | None:
        """Return the name of a parameter that is not finite on some worker, or None; a collective."""
        flags = [not bool(part.isfinite().all()) for part in values_of(list(named.values()))]
        broken = torch.tensor(flags, dtype=torch.int32, device=self._device)
        if self._world_size > 1:
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        return next((name for name, flag in zip(named, broken.tolist(), strict=True) if flag), None)

    def like(self, parameter: nn.Parameter, saved: Tensor) -> Tensor:
        """Return an empty tensor that is sharded as the parameter is."""
        return torch.empty_like(parameter.detach(), dtype=saved.dtype)

    def _shard(self, block: nn.Module, name: str, *, reshard: bool | int | None) -> None:
        """Shard what of a block is not sharded yet; only this much of the model is whole on the device."""
        materialize(block, self._device, seed=self._seed, initialize=self._initialize, inside=name)
        mine = [tensor for tensor in (*block.parameters(), *block.buffers()) if not isinstance(tensor, DTensor)]
        with torch.no_grad():
            for tensor in mine:
                tensor.data = tensor.data.to(self._device)
        if self._world_size > 1:
            broadcast_tensors(mine)
        fully_shard(
            block,
            mesh=self._mesh,
            reshard_after_forward=reshard,
            mp_policy=self._precision(),
            offload_policy=CPUOffloadPolicy() if self._options.cpu_offload else OffloadPolicy(),
        )

    def _precision(self) -> MixedPrecisionPolicy:
        chosen = self._options.mixed_precision
        if chosen is None:
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(
            param_dtype=DTYPES[chosen.param_dtype],
            reduce_dtype=DTYPES[chosen.reduce_dtype],
            output_dtype=None if chosen.output_dtype is None else DTYPES[chosen.output_dtype],
        )


def _mesh(device: torch.device, *, replicate: int, shard: int) -> DeviceMesh:
    if replicate == 1:
        return init_device_mesh(device.type, (shard,), mesh_dim_names=(SHARD,))
    return init_device_mesh(device.type, (replicate, shard), mesh_dim_names=(REPLICATE, SHARD))


def _require_new_torch() -> None:
    needed: Sequence[Callable[..., object] | None] = [
        getattr(FSDPModule, name, None)
        for name in ("set_force_sum_reduction_for_comms", "set_reduce_scatter_unused_params")
    ]
    if None in needed:
        raise JobFileError(
            f"train.strategy = fsdp needs torch 2.13 or newer, and this is torch {torch.__version__}.",
            "Install a newer torch, or use train.strategy: ddp.",
        )
