"""Sum the gradients of several workers while backward is still running.

This does what ``DistributedDataParallel`` does without wrapping the model. A hook on each parameter notes that its
gradient is complete. A bucket of parameters is summed as soon as all its gradients are complete, in the same order on
every worker. See ``docs/decisions/0030-gradients-are-summed-without-a-wrapper.md``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.training.gradients.norm import coalesced

FIRST_BUCKET_BYTES, BUCKET_BYTES = 2**20, 25 * 2**20  # as in DDP: the first sum starts early, large ones are efficient
_UNKNOWN = 2**62  # more than any number of parts
_NONE, _SPARSE, _DENSE = 0, 1, 2

OnPart = Callable[[Sequence[nn.Parameter], Sequence[Tensor]], None]


class GradientSum:
    """Sums the gradients of a model's parameters over all workers.

    A parameter that no worker used in a step has no gradient (None) afterwards, as on one worker. A parameter that some
    workers used has the sum of theirs. Sparse gradients stay sparse: their rows are gathered.

    A parameter may get its gradient in several parts in one backward (a reentrant activation checkpoint around a layer
    that is used twice). The first step sums after backward and counts the parts; later steps wait for the same number.

    Args:
        named: name -> parameter, of the trained parameters; the same on every worker.
        sparse: the parameters among them with sparse gradients, as far as known; others are found in the first step.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], *, sparse: Sequence[nn.Parameter] = ()) -> None:
        group = dist.group.WORLD
        assert group is not None
        self._group, self._names, self._parameters = group, list(named), list(named.values())
        self._is_sparse = [any(parameter is other for other in sparse) for parameter in self._parameters]
        self._parts = [_UNKNOWN] * len(self._parameters)  # number of parts of each gradient in one backward
        self._is_counting = True  # True until this worker's first step with a non-empty share ends
        self._left = list(self._parts)
        self._buckets: list[_Bucket] = []  # created in the first step
        self._bucket_of: list[int] = []
        self._missing: list[int] = []  # gradients that each bucket still waits for
        self._launched = 0  # buckets whose sum has started in this step
        self._is_open = False
        self._on_part: OnPart | None = None
        self._works: list[dist.Work] = []
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, index))  # type: ignore[no-untyped-call]
            for index, parameter in enumerate(self._parameters)
        ]

    def begin(self, on_part: OnPart | None = None) -> None:
        """Announce the last backward of a step: buckets are summed as they become complete.

        Args:
            on_part: called with parameters and this worker's gradients of them, before they are summed.
        """
        self._on_part = on_part
        self._left = list(self._parts)
        self._missing = [len(bucket.parameters) for bucket in self._buckets]
        self._is_open = True

    def start_rest(self, *, counts: bool) -> None:
        """Start the sum of the remaining gradients after backward.

        Args:
            counts: whether this worker's gradients count; False when its share of the step is empty.
        """
        self._is_open = False
        if not counts:
            self._on_part = None
            for parameter in self._parameters:
                parameter.grad = None
        if not self._buckets:
            self._make_buckets()
        for bucket in self._buckets[self._launched :]:
            self._launch(bucket)
        self._launched = 0
        if counts and self._is_counting:
            self._is_counting = False
            parts = [_UNKNOWN - left for left in self._left]
            self._parts = [_UNKNOWN if sparse else max(1, n) for n, sparse in zip(parts, self._is_sparse, strict=True)]

    def wait(self) -> None:
        """Wait for the sums, and leave them in the parameters' ``grad``."""
        for work in self._works:
            work.wait()
        self._works.clear()
        for bucket in self._buckets:
            bucket.give_back()
        if any(self._is_sparse):
            self._sum_sparse()
        self._on_part = None

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, index: int, _: Tensor) -> None:
        """Note that a parameter got its gradient or a part of it; runs inside backward."""
        if not self._is_open:
            return
        left = self._left[index] = self._left[index] - 1
        if left > 0:
            return
        bucket = self._bucket_of[index]
        if left < 0:
            if bucket < self._launched:
                raise RecipeError(
                    f"{self._names[index]} got its gradient in more parts than in the first step, after the sum over "
                    "workers had begun.",
                    "Give torch.utils.checkpoint.checkpoint use_reentrant=False.",
                )
            self._parts[index] = self._parts[index] - left
            return
        self._missing[bucket] -= 1
        while self._launched < len(self._missing) and not self._missing[self._launched]:
            self._launch(self._buckets[self._launched])
            self._launched += 1

    def _make_buckets(self) -> None:
        """Agree on which gradients are sparse, and put the others into buckets, the last parameters first."""
        sparse = [
            known or (parameter.grad is not None and parameter.grad.layout != torch.strided)
            for known, parameter in zip(self._is_sparse, self._parameters, strict=True)
        ]
        agreed = torch.tensor(sparse, dtype=torch.int32, device=self._parameters[0].device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self._is_sparse = [bool(flag) for flag in agreed.tolist()]
        self._bucket_of = [-1] * len(self._parameters)
        filling: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        sealed: list[list[int]] = []
        for index in reversed(range(len(self._parameters))):
            if self._is_sparse[index]:
                continue
            parameter = self._parameters[index]
            members = filling.setdefault((parameter.dtype, parameter.device), [])
            members.append(index)
            size = sum(self._parameters[member].nbytes for member in members)
            if size >= (BUCKET_BYTES if sealed else FIRST_BUCKET_BYTES):
                sealed.append(filling.pop((parameter.dtype, parameter.device)))
        for number, members in enumerate([*sealed, *filling.values()]):
            self._buckets.append(_Bucket([self._parameters[member] for member in members]))
            for member in members:
                self._bucket_of[member] = number

    def _launch(self, bucket: "_Bucket") -> None:
        bucket.take(self._on_part)
        self._works.append(self._group.allreduce([bucket.summed]))

    def _sum_sparse(self) -> None:
        """Sum the gradients that are sparse on at least one worker."""
        parameters = [p for p, sparse in zip(self._parameters, self._is_sparse, strict=True) if sparse]
        gradients = [coalesced(parameter.grad) if parameter.grad is not None else None for parameter in parameters]
        if self._on_part is not None:
            mine = [(p, grad) for p, grad in zip(parameters, gradients, strict=True) if grad is not None]
            self._on_part([parameter for parameter, _ in mine], [grad for _, grad in mine])
        headers = torch.tensor([_header(grad) for grad in gradients], device=parameters[0].device)
        all_headers = torch.stack(_gathered(headers, self._group.size())).tolist()  # worker, parameter, header
        for place, (parameter, grad) in enumerate(zip(parameters, gradients, strict=True)):
            theirs = [headers[place] for headers in all_headers]
            if any(kind == _DENSE for kind, _, _ in theirs):
                whole = torch.zeros_like(parameter) if grad is None else grad.to_dense().clone()
                dist.all_reduce(whole)
                parameter.grad = whole
            elif any(kind == _SPARSE for kind, _, _ in theirs):
                dims = max(dims for _, _, dims in theirs)
                parameter.grad = self._gather_rows(parameter, grad, [rows for _, rows, _ in theirs], dims)
            else:
                parameter.grad = None

    def _gather_rows(self, parameter: nn.Parameter, grad: Tensor | None, rows: Sequence[int], dims: int) -> Tensor:
        """Return the sum of every worker's rows, with the same bits on each worker."""
        most = max(rows)
        indices = torch.zeros((most, dims), dtype=torch.int64, device=parameter.device)
        values = torch.zeros((most, *parameter.shape[dims:]), dtype=parameter.dtype, device=parameter.device)
        if grad is not None:
            indices[: grad._nnz()] = grad.indices().t()
            values[: grad._nnz()] = grad.values()
        size = self._group.size()
        every_index = torch.cat([part[:n] for part, n in zip(_gathered(indices, size), rows, strict=True)])
        every_value = torch.cat([part[:n] for part, n in zip(_gathered(values, size), rows, strict=True)])
        made = torch.sparse_coo_tensor(every_index.t(), every_value, parameter.shape, check_invariants=False)
        return made.coalesce()


class _Bucket:
    """Parameters whose gradients are summed together in one buffer; the sums stay in the buffer as their ``grad``.

    After the gradients, the buffer has one number for each parameter: how many workers used it.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        first, size = parameters[0], sum(parameter.numel() for parameter in parameters)
        buffer = torch.zeros(size + len(parameters), dtype=first.dtype, device=first.device)
        self.summed = torch.view_as_real(buffer) if buffer.is_complex() else buffer
        self._used = buffer[size:]
        self._views: list[Tensor] = []
        start = 0
        for parameter in parameters:
            strides = torch.empty_like(
                parameter, device="meta"
            ).stride()  # dense strides in the parameter's memory format
            self._views.append(buffer.as_strided(parameter.shape, strides, start))
            start += parameter.numel()
        self._is_whole = False  # whether this worker used all parameters

    @torch.no_grad()
    def take(self, on_part: OnPart | None) -> None:
        """Copy this worker's gradients into the buffer."""
        present = [
            (p, p.grad, view) for p, view in zip(self.parameters, self._views, strict=True) if p.grad is not None
        ]
        self._is_whole = len(present) == len(self.parameters)
        self._used.fill_(1.0)
        if not self._is_whole:
            for place, parameter in enumerate(self.parameters):
                if parameter.grad is None:
                    self._views[place].zero_()
                    self._used[place] = 0.0
        gradients = [grad.to_dense() if grad.is_sparse else grad for _, grad, _ in present]
        if on_part is not None:
            on_part([parameter for parameter, _, _ in present], gradients)
        if gradients:
            torch._foreach_copy_([view for _, _, view in present], gradients)

    def give_back(self) -> None:
        """Set each parameter's ``grad`` to its sum; None if no worker used it."""
        if self._is_whole:
            for parameter, view in zip(self.parameters, self._views, strict=True):
                parameter.grad = view
            return
        counts = self._used.abs().tolist()
        for parameter, view, count in zip(self.parameters, self._views, counts, strict=True):
            parameter.grad = view if count else None


def sparse_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of layers that announce sparse gradients (``nn.Embedding(sparse=True)``)."""
    weights = [getattr(module, "weight", None) for module in model.modules() if getattr(module, "sparse", None) is True]
    return [weight for weight in weights if isinstance(weight, nn.Parameter)]


def _header(gradient: Tensor | None) -> tuple[int, int, int]:
    """Return kind, number of rows and sparse dimensions of a gradient."""
    if gradient is None:
        return (_NONE, 0, 0)
    return (_SPARSE, gradient._nnz(), gradient.sparse_dim()) if gradient.is_sparse else (_DENSE, 0, 0)


def _gathered(tensor: Tensor, world_size: int) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(world_size)]
    dist.all_gather(parts, tensor)
    return parts
