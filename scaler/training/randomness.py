"""Seeds and states of all random numbers of a worker: torch's, its GPU's, numpy's and Python's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from scaler.core.seeds import stream_seed

_CPU = torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and ``random``, so that every worker builds the same recipe; call it before ``load_recipe``."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_batch(seed: int, device: torch.device) -> None:
    """Seed torch, numpy and ``random`` on the CPU and on one device: faster than ``seed_everything``, by 0.2 ms."""
    _seed_cpu(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's generator, too


def seed_worker(seed: int, *, rank: int, samples_seen: int) -> None:
    """Seed a worker that starts without a saved random state.

    Its dropout and augmentation differ from those of other workers and of earlier attempts.
    """
    seed_everything(stream_seed(seed, f"rank {samples_seen}" if samples_seen else "rank", rank))


def random_state(device: torch.device) -> Tensor:
    """Return the state of all random number generators as bytes."""
    version, words, gauss = random.getstate()
    assert version == 3
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    generator = numpy_state["state"]
    whole = [*words, *generator["key"].tolist(), generator["pos"], numpy_state["has_gauss"], gauss is not None]
    parts = [
        torch.tensor(whole, dtype=torch.int64),
        torch.tensor([numpy_state["gauss"], gauss or 0.0], dtype=torch.float64),
        torch.get_rng_state(),
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat([part.view(torch.uint8) for part in parts])


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Restore what ``random_state`` returned; the GPU's state only if the saved one has it."""
    whole = state[: 8 * _WORDS].clone().view(torch.int64).tolist()
    rest = state[8 * _WORDS :]
    numpy_gauss, gauss = rest[:16].clone().view(torch.float64).tolist()
    ours, theirs = whole[:_PYTHON_WORDS], whole[_PYTHON_WORDS:]
    random.setstate((3, tuple(ours), gauss if theirs[-1] else None))
    key = np.array(theirs[:_NUMPY_WORDS], dtype=np.uint32)
    np.random.set_state(("MT19937", key, theirs[_NUMPY_WORDS], theirs[_NUMPY_WORDS + 1], numpy_gauss))
    size = torch.get_rng_state().numel()
    torch.set_rng_state(rest[16 : 16 + size].clone())
    if device.type == "cuda" and rest.numel() > 16 + size:
        torch.cuda.set_rng_state(rest[16 + size :].clone(), device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore all random numbers after a ``with`` block."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


_PYTHON_WORDS, _NUMPY_WORDS = 625, 624
_WORDS = _PYTHON_WORDS + _NUMPY_WORDS + 3


class DrawnByImport:
    """The random numbers that the import of a module draws.

    Importing a package may draw random numbers. What a recipe draws afterwards must not depend on whether another run
    in this process, or in the process that this one is a fork of, has imported the module before.
    """

    _first: ClassVar[dict[str, tuple[ModuleType, Tensor, Tensor]]] = {}  # by name: the states before and after

    def __init__(self, before: Tensor) -> None:
        self._before = before

    @classmethod
    def begin(cls) -> Self:
        """Note the random numbers before an import."""
        return cls(random_state(_CPU))

    def end(self, module: ModuleType) -> None:
        """Leave the random numbers as the module's first import left them, if it began with these."""
        first = self._first.get(module.__name__)
        if first is None or first[0] is not module:
            self._first[module.__name__] = module, self._before, random_state(_CPU)
        elif torch.equal(self._before, first[1]):
            set_random_state(first[2], _CPU)


def gather_random_states(device: torch.device, *, world_size: int) -> Tensor:
    """Return every worker's random state, one row each; a collective if there are several workers."""
    mine = random_state(device)
    if world_size == 1:
        return mine.unsqueeze(0)
    rows = [torch.empty_like(mine, device=device) for _ in range(world_size)]
    dist.all_gather(rows, mine.to(device))
    return torch.stack(rows).cpu()


class SeparateRandomness:
    """Random numbers on the CPU that are separate from those of this process: a ``with`` block draws from them."""

    def __init__(self) -> None:
        self._inside: tuple[Any, ...] | None = None
        self._outside: tuple[Any, ...] = ()

    def seed(self, seed: int) -> None:
        """Start the random numbers again; called inside the ``with`` block."""
        _seed_cpu(seed)

    def __enter__(self) -> None:
        self._outside = _cpu_state()
        if self._inside is not None:
            _set_cpu_state(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = _cpu_state()
        _set_cpu_state(self._outside)


def _cpu_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()


def _set_cpu_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
