"""Batches on the device: everything in them that can move does, and containers keep their classes."""

from collections import OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from scaler.training.data.containers import moved, to_device

META, CPU = torch.device("meta"), torch.device("cpu")


class Attributes(dict[str, Any]):
    """A dict whose keys are attributes too (ModelOutput, EasyDict, omegaconf)."""

    __getattr__ = dict.__getitem__


class Encoding(UserDict[str, Any]):
    """Like transformers' BatchEncoding: not a dict, with its own ``to`` that takes no ``non_blocking``."""

    def to(self, device: torch.device) -> "Encoding":
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class InPlace:
    """Its ``to`` returns nothing."""

    def __init__(self) -> None:
        self.x = torch.ones(2)

    def to(self, device: torch.device, non_blocking: bool = False) -> None:
        self.x = self.x.to(device, non_blocking=non_blocking)


class Items(list[Tensor]):
    """A list with attributes beside its items."""

    name = ""


class Pair(tuple[Any, ...]):
    """A tuple whose constructor takes two arguments, and that has an attribute."""

    def __new__(cls, one: Any, two: Any) -> "Pair":
        made = super().__new__(cls, (one, two))
        made.name = "pair"
        return made


class Point(NamedTuple):
    x: Tensor
    label: str = "a"


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    ids: tuple[int, ...] = (1,)
    length: int = field(init=False, default=3)


@dataclass(slots=True)
class Slotted:
    x: Tensor
    inner: list[Tensor]


def packed() -> PackedSequence:
    return pack_sequence([torch.ones(3), torch.ones(2)])


Named = namedtuple("Named", ["x", "y"])


def items() -> Items:
    made = Items([torch.ones(2)])
    made.name = "kept"
    return made


CASES = [
    (lambda: torch.ones(2), lambda b: b),
    (lambda: [torch.ones(2), 3], lambda b: b[0]),
    (lambda: (torch.ones(2), "text"), lambda b: b[0]),
    (lambda: {"x": [{"y": (torch.ones(2),)}]}, lambda b: b["x"][0]["y"][0]),
    (lambda: Attributes(x=torch.ones(2)), lambda b: b.x),
    (lambda: OrderedDict(x=torch.ones(2)), lambda b: b["x"]),
    (lambda: defaultdict(list, x=torch.ones(2)), lambda b: b["x"]),
    (lambda: MappingProxyType({"x": torch.ones(2)}), lambda b: b["x"]),
    (lambda: UserDict(x=torch.ones(2)), lambda b: b["x"]),
    (lambda: Encoding(x=torch.ones(2)), lambda b: b["x"]),
    (lambda: UserList([torch.ones(2)]), lambda b: b[0]),
    (lambda: deque([torch.ones(2)]), lambda b: b[0]),
    (items, lambda b: b[0]),
    (lambda: Pair(torch.ones(2), 1), lambda b: b[0]),
    (lambda: Point(torch.ones(2)), lambda b: b.x),
    (lambda: Named(torch.ones(2), 1), lambda b: b.x),
    (lambda: torch.ones(2, 2).max(dim=1), lambda b: b.values),
    (packed, lambda b: b.data),
    (lambda: Frozen(torch.ones(2)), lambda b: b.x),
    (lambda: Slotted(torch.ones(2), [torch.ones(2)]), lambda b: b.inner[0]),
    (lambda: SimpleNamespace(x=torch.ones(2)), lambda b: b.x),
    (InPlace, lambda b: b.x),
]


@pytest.mark.parametrize(("make", "part"), CASES)
def test_what_can_move_does_and_the_container_stays_of_its_class(make: Any, part: Any) -> None:
    batch = make()
    found = to_device(batch, META)
    assert type(found) is type(batch)
    assert part(found).is_meta


@pytest.mark.parametrize(("make", "part"), CASES)
def test_a_batch_of_which_nothing_has_to_move_is_the_very_one_that_collate_made(make: Any, part: Any) -> None:
    batch = make()
    assert to_device(batch, CPU) is batch
    there = to_device(make(), META)
    assert to_device(there, META) is there or isinstance(there, PackedSequence), "also on another device than the CPU"


def test_what_a_container_has_beside_its_items_is_kept() -> None:
    assert to_device(items(), META).name == "kept"
    assert to_device(Pair(torch.ones(2), 1), META).name == "pair"
    assert to_device(defaultdict(list, x=torch.ones(2)), META)["new"] == []
    assert to_device(Frozen(torch.ones(2)), META).length == 3


def test_the_batch_that_a_dataset_keeps_is_not_changed() -> None:
    batch = Attributes(x=torch.ones(2), inner=[torch.ones(2)])
    to_device(batch, META)
    assert not batch.x.is_meta
    assert not batch["inner"][0].is_meta


def test_pinning_goes_through_the_same_containers() -> None:
    found = moved(Pair(torch.ones(2), {"x": torch.ones(2)}), lambda part: part + 1, method="pin_memory")
    assert isinstance(found, Pair)
    assert found[1]["x"].tolist() == [2.0, 2.0]


def test_a_tensors_subclass_stays_one() -> None:
    class Image(Tensor):
        pass

    assert type(to_device([torch.ones(2).as_subclass(Image)], META)[0]) is Image
