"""When the gradients of a sharded model are summed, and which of its parameters a step used."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from scaler.job.fsdp import Fsdp
from scaler.training.clock import Clock, Mark
from scaler.training.model.names import plain_names
from scaler.training.model.sharding import shard_again
from scaler.training.parallel.strategy import OnPart
from scaler.training.parallel.units import sharded_modules
from scaler.training.parallel.waits import Waits


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
        self._waits = Waits(sharded_modules(model), clock, device=device)
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
        for module in sharded_modules(self._model):  # one after the other: the whole model may not fit
            module.unshard()
            whole = ((name, p) for name, p in self._model.named_parameters() if not isinstance(p, DTensor))
            found.update((plain(name), parameter) for name, parameter in whole)
            module.reshard()
        return [found[name] for name in names]
