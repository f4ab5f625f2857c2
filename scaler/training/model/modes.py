"""Training and evaluation mode of a model's modules, and frozen parameters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from scaler.plan import PlanGroup
from scaler.training.model.names import named_parameters


def start_training(model: nn.Module, *, keep_modes: bool | None) -> None:
    """Put a model into training mode, except for the modules that the recipe's ``build`` put into evaluation mode.

    ``model.train()`` alone would undo the ``.eval()`` of a BatchNorm that the recipe froze. If every module is in
    evaluation mode, as in models from transformers' ``from_pretrained``, ``keep_modes`` decides.

    Args:
        model: as the recipe built it, not wrapped.
        keep_modes: the recipe's. True: evaluation mode is kept also where every module has it. None: such a model is
            put into training mode. False: all modules are put into training mode.
    """
    modules = list(model.modules())
    held = [module for module in modules if not module.training]
    model.train()  # always: a model's own ``train`` may do more
    keeps = len(held) < len(modules) if keep_modes is None else keep_modes
    _hold(held if keeps else [])


class FrozenStatistics:
    """Keeps the running statistics of normalization layers constant while their parameters are frozen.

    A layer without parameters counts as part of the nearest module around it that has some. While all these parameters
    are frozen, the layer is in evaluation mode: it normalizes with its running statistics.

    Args:
        model: not wrapped, in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        around = {child: parent for parent in model.modules() for child in parent.children()}
        self._norms: list[tuple[nn.Module, list[nn.Parameter]]] = []
        for module in model.modules():
            if not (isinstance(module, _NormBase) and module.track_running_stats and module.training):
                continue
            owner: nn.Module | None = module
            while owner is not None and next(owner.parameters(), None) is None:
                owner = around.get(owner)
            if owner is not None:
                self._norms.append((module, list(owner.parameters())))

    def hold(self, frozen: Sequence[nn.Parameter]) -> None:
        """Put layers whose parameters are all ``frozen`` into evaluation mode, and the others into training mode."""
        ids = {id(parameter) for parameter in frozen}
        for module, parameters in self._norms:
            module.training = not all(id(parameter) in ids for parameter in parameters)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside a ``with`` block; afterwards each module has its earlier mode."""
    held, trains = [], False
    for module in model.modules():
        trains = trains or module.training
        if not module.training:
            held.append(module)
    model.eval()
    try:
        yield
    finally:
        if trains:
            model.train()
            _hold(held)


@contextmanager
def norms_in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalize with its running statistics inside a ``with`` block, because one sample has no variance.

    ``SyncBatchNorm`` is not changed: the other workers wait for its sums.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    held = [norm for norm in norms if norm.track_running_stats and not isinstance(norm, nn.SyncBatchNorm)]
    for norm in held:
        norm.training = False
    try:
        yield
    finally:
        for norm in held:
            norm.training = True


def _hold(modules: Sequence[nn.Module]) -> None:
    """Put modules into evaluation mode, but not the modules inside them that train."""
    held = set(modules)
    for module in modules:
        if all(inner in held for inner in module.modules()):
            module.eval()
        else:
            module.training = False


class Freezing:
    """Freezes and unfreezes the parameters of a plan's groups, with the statistics of their normalization layers.

    Args:
        model: not wrapped, in training mode.
        groups: the plan's.
    """

    def __init__(self, model: nn.Module, groups: Sequence[PlanGroup]) -> None:
        parameters = named_parameters(model)
        self._frozen = [(group, [parameters[name] for name in group.tensors]) for group in groups if group.frozen]
        self._statistics = FrozenStatistics(model)
        self._is_new = True

    def apply(self, samples_seen: int) -> bool:
        """Freeze and unfreeze parameters as the plan says for ``samples_seen``; return whether any changed."""
        changed = False
        frozen: list[nn.Parameter] = []
        for group, parameters in self._frozen:
            trained = group.unfreeze_at is not None and samples_seen >= group.unfreeze_at
            frozen += [] if trained else parameters
            for parameter in parameters:
                changed = changed or parameter.requires_grad != trained
                parameter.requires_grad_(trained)
        if changed or self._is_new:
            self._statistics.hold(frozen)
            self._is_new = False
        return changed
