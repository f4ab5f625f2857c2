"""Each worker has a part of the model: torch's ``fully_shard`` (FSDP2)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

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
from scaler.training.clock import Clock, Mark
from scaler.training.memory import return_freed_blocks
from scaler.training.model.blocks import modules_that_match, outermost, repeated_modules
from scaler.training.model.buffers import broadcast_tensors
from scaler.training.model.initial import Initialize, materialize
from scaler.training.model.names import plain_names
from scaler.training.model.sharding import DTYPES, shard_again
from scaler.training.parallel.gradient_sum import sparse_parameters
from scaler.training.parallel.strategy import GradientReduction, OnPart
from scaler.training.parallel.waits import Waits
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
        blocks = self._blocks(model)
        _require_shardable(model, blocks)
        for name, block in reversed(blocks.items()):
            self._shard(block, name, reshard=self._options.reshard_after_forward)
        self._shard(model, "", reshard=None)
        for method in self._options.forward_methods:
            register_fsdp_forward_method(model, method)
        for module in _sharded_modules(model):
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
        flags = [not bool(_local(parameter).isfinite().all()) for parameter in named.values()]
        broken = torch.tensor(flags, dtype=torch.int32, device=self._device)
        if self._world_size > 1:
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        return next((name for name, flag in zip(named, broken.tolist(), strict=True) if flag), None)

    def like(self, parameter: nn.Parameter, saved: Tensor) -> Tensor:
        """Return an empty tensor that is sharded as the parameter is."""
        return torch.empty_like(parameter.detach(), dtype=saved.dtype)

    def _blocks(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the blocks by name, each after those around it."""
        wanted = self._options.blocks
        if wanted == "auto":
            found = outermost(model, repeated_modules(model) - {model})
            shared = _shared_weights(model, found)
            return {name: block for name, block in found.items() if all(name not in units for units in shared.values())}
        named = modules_that_match(model, wanted, key="train.fsdp.blocks") - {model}
        blocks = {name: module for name, module in model.named_modules() if module in named}
        for weight, units in _shared_weights(model, blocks).items():
            other, block = sorted(units)[:2]
            raise RecipeError(
                f"train.fsdp.blocks has {block}, and its weight {weight} is also one of {other or 'the whole model'}.",
                "Tied weights must be in one block: leave such blocks out, or use train.fsdp.blocks: auto.",
            )
        return blocks

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


class ShardedReduction:
    """Decides in which backward the gradients of a sharded model are summed, and which parameters were used.

    torch leaves a gradient of zeros to a parameter that no worker used. On one worker it has none, and an optimizer
    leaves it alone. So the workers agree on the parameters that were used.

    Args:
        model: distributed by ``Sharded``.
        named: name -> trained parameter.
        options: ``train.fsdp`` of the job.
        clock: of the device.
        device: of this worker.
        world_size: workers.
    """

    def __init__(
        self,
        model: nn.Module,
        named: Mapping[str, nn.Parameter],
        options: Fsdp,
        *,
        clock: Clock,
        device: torch.device,
        world_size: int,
    ) -> None:
        self._model, self._parameters, self._options = model, list(named.values()), options
        self._device, self._world_size = device, world_size
        self._used = [False] * len(self._parameters)
        self._counts = False
        self._agreed: Tensor | None = None
        self._work: dist.Work | None = None
        self._waits = Waits(_sharded_modules(model), clock, device=device)
        self._hooks = [
            gathered.register_post_accumulate_grad_hook(partial(self._arrived, index))  # type: ignore[no-untyped-call]
            for index, gathered in enumerate(self._gathered(list(named)))
        ]

    def before_backward(self, *, is_last: bool, counts: bool, on_part: OnPart | None) -> None:
        """Sum in this backward if it is the last one, or if every micro-step is summed, as when it is measured."""
        self._counts = counts
        sums = is_last or self._options.reduce_every_micro_step or on_part is not None
        model = self._model
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(sums)
        model.set_requires_all_reduce(is_last or on_part is not None)

    def after_backward(self, *, counts: bool) -> None:
        """Start to agree on the parameters that were used."""
        self._agreed = torch.tensor(self._used, dtype=torch.int32, device=self._device)
        if self._world_size > 1:
            self._work = dist.all_reduce(self._agreed, op=dist.ReduceOp.MAX, async_op=True)

    def wait(self) -> None:
        """Remove the gradients of parameters that no worker used."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        if not all(self._used):  # otherwise the answer is known, and a GPU is not waited for
            assert self._agreed is not None
            for parameter, used in zip(self._parameters, self._agreed.tolist(), strict=True):
                if not used:
                    parameter.grad = None
        self._used = [False] * len(self._parameters)

    def take_waits(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return the waits for gathered weights and summed gradients since the last call."""
        return self._waits.take()

    def close(self) -> None:
        """Remove the hooks from the model and its parameters."""
        self._waits.close()
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, index: int, _: Tensor) -> None:
        """Note that backward reached a parameter."""
        if self._counts:
            self._used[index] = True

    def _gathered(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the whole parameters, which torch keeps from one gathering to the next."""
        shard_again(self._model)  # an exception may have ended the last step
        found: dict[str, nn.Parameter] = {}
        plain = plain_names(self._model)
        for module in _sharded_modules(self._model):  # one after the other: the whole model may not fit
            module.unshard()
            whole = ((name, p) for name, p in self._model.named_parameters() if not isinstance(p, DTensor))
            found.update((plain(name), parameter) for name, parameter in whole)
            module.reshard()
        return [found[name] for name in names]


def _unit_of(name: str, blocks: Mapping[str, nn.Module]) -> str:
    """Return the name of the innermost block that a parameter is in; empty: it is in none."""
    return max((block for block in blocks if name.startswith(f"{block}.")), key=len, default="")


def _shared_weights(model: nn.Module, blocks: Mapping[str, nn.Module]) -> dict[str, set[str]]:
    """Return the weights that are in several blocks, or in one and in the rest of the model: name -> their names."""
    units: dict[int, tuple[str, set[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        units.setdefault(id(parameter), (name, set()))[1].add(_unit_of(name, blocks))
    return {name: found for name, found in units.values() if len(found) > 1}


def _require_shardable(model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Refuse what torch would refuse with an error that names no parameter.

    Raises:
        RecipeError: a block has no forward, a parameter has no dimensions, or a block has trained parameters of
            different dtypes.
    """
    for name, block in blocks.items():
        if isinstance(block, nn.ModuleList | nn.ModuleDict):
            raise RecipeError(
                f"train.fsdp.blocks has {name}, a {type(block).__name__}, which has no forward.",
                f"Name what is in it: {name}.*.",
            )
    dtypes: dict[str, tuple[str, torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise RecipeError(
                f"the parameter {name} has no dimensions, and cannot be sharded.",
                "Give it one: nn.Parameter(torch.tensor([value])). Or use train.strategy: ddp.",
            )
        first, dtype = dtypes.setdefault(_unit_of(name, blocks), (name, parameter.dtype))
        if parameter.dtype != dtype:
            raise RecipeError(
                f"the parameters {first} and {name} are {dtype} and {parameter.dtype}, and they are sharded together.",
                "Use one dtype, with autocast or train.fsdp.mixed_precision for the others; or train.strategy: ddp.",
            )


def _sharded_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
