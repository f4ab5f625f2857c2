"""The optimizer as the plan says it."""

import pytest
import torch

from scaler.errors import JobFileError
from scaler.training.optimizer import build_optimizer, set_lr, used_lr


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2), requires_grad=False)]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"name": "sgd", "lr": 0.1, "momentum": 0.9}, torch.optim.SGD),
        ({"name": "adam", "lr": 0.1, "betas": [0.8, 0.9]}, torch.optim.Adam),  # JSON has no tuples
        ({"name": "adamw", "lr": 0.1, "weight_decay": 0.3}, torch.optim.AdamW),
        ({"name": "rmsprop", "lr": 0.1}, torch.optim.RMSprop),
        ({"name": "torch.optim:NAdam", "lr": 0.1}, torch.optim.NAdam),
    ],
)
def test_each_optimizer_is_built_with_its_keys(options: dict[str, object], kind: type) -> None:
    optimizer = build_optimizer(parameters(), options)
    assert type(optimizer) is kind
    for key, value in options.items():
        if key != "name":
            assert optimizer.defaults[key] == (tuple(value) if isinstance(value, list) else value)


def test_only_parameters_that_are_trained_are_given() -> None:
    optimizer = build_optimizer(parameters(), {"name": "sgd", "lr": 0.1})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_the_rate_is_written_into_every_group_and_read_back() -> None:
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters()], lr=0.1)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert used_lr(optimizer, planned=0.25) == 0.25
    optimizer.param_groups[1]["lr"] = 0.5
    assert used_lr(optimizer, planned=0.25) == 0.5, "one group that differs is seen"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "torch.optim:Nope", "lr": 0.1},
            "reference.optimizer: torch.optim:Nope is not a torch optimizer.\n  Use torch.optim:NAdam or the like.",
        ),
        (
            {"name": "no_such_package:Muon", "lr": 0.1},
            "reference.optimizer: no_such_package:Muon cannot be imported: No module named 'no_such_package'.\n"
            "  Install it, or mend the name.",
        ),
        (
            {"name": "sgd", "lr": 0.1, "nesterov": True},
            "reference.optimizer: sgd refuses its keys: Nesterov momentum requires a momentum and zero dampening.\n"
            "  They are {'lr': 0.1, 'nesterov': True}.",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(options: dict[str, object], text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        build_optimizer(parameters(), options)
    assert str(caught.value) == text
