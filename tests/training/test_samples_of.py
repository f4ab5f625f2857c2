"""How many samples a batch of one's own loader has."""

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scaler.errors import TrainingError
from scaler.training.own_loop.loader import samples_of


def rows(count: int) -> torch.Tensor:
    return torch.zeros(count, 3)


@pytest.mark.parametrize(
    ("batch", "samples", "why"),
    [
        (rows(8), 8, "a tensor"),
        (torch.tensor(1.0), 1, "a number"),
        ((rows(8), rows(8)), 8, "inputs and targets"),
        ({"ids": rows(4), "name": "x"}, 4, "by name"),
        (UserDict(ids=rows(4)), 4, "by name, as a tokenizer returns it"),
        (SimpleNamespace(x=rows(4)), 4, "attributes"),
        (({"ids": rows(4), "mask": rows(4)}, rows(4)), 4, "inputs by name, and targets"),
        ([{"ids": rows(4)}, {"labels": rows(4)}], 4, "inputs and targets by name"),
        ([[rows(6), rows(6)], rows(6)], 6, "two views and a class"),
        ([[rows(6), rows(6)], [rows(6), rows(6)]], 6, "two inputs and two targets"),
        ((rows(5), rows(2)), 5, "the first tensor decides"),
        (([rows(3), rows(3)], [{"boxes": rows(5)}, {"boxes": rows(1)}]), 2, "images of 3 channels, and targets"),
        (([rows(3)], [{"boxes": rows(3)}]), 1, "one image of 3 channels, with 3 boxes"),
        (([rows(3), rows(3)], [rows(5), rows(1)]), 2, "images of 3 channels, and boxes"),
        (([rows(3), rows(3), rows(3)], rows(3)), 3, "images and stacked classes"),
        ((["a", "b"], rows(2)), 2, "texts and classes"),
        (["a", "b", "c"], 3, "texts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_samples_of_a_batch(batch: Any, samples: int, why: str) -> None:
    assert samples_of(batch) == samples


@pytest.mark.parametrize("batch", [None, 3, [], {}])
def test_a_batch_whose_samples_are_not_known(batch: Any) -> None:
    with pytest.raises(TrainingError) as error:
        samples_of(batch)
    assert str(error.value) == (
        f"a batch is a {type(batch).__name__}, and its number of samples is not known.\n"
        "  Iterate over the loader itself, and count: run.count(number of samples in this process)."
    )
