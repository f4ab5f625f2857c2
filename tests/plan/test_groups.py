"""Parameter groups. The round job: 10 epochs of 1000 samples, a peak learning rate of 0.04."""

import json
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import Plan, PlanGroup, make_plan

Digits = Callable[..., Job]

MODEL = {
    "embed.weight": 100,
    "blocks.0.weight": 16,
    "blocks.0.bias": 4,
    "blocks.1.weight": 16,
    "blocks.1.bias": 4,
    "head.weight": 40,
    "head.bias": 10,
}


def groups(round_job: Digits, *overrides: str, model: dict[str, int] = MODEL) -> tuple[PlanGroup, ...]:
    return make_plan(round_job(*overrides), parameters=model).groups


def refusal(round_job: Digits, *overrides: str, model: dict[str, int] | None = MODEL) -> str:
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(*overrides), parameters=model)
    return str(caught.value)


def test_a_job_without_groups_has_none(round_job: Digits) -> None:
    assert groups(round_job) == ()
    assert make_plan(round_job()).parameters == {}


def test_a_group_and_the_rest(round_job: Digits) -> None:
    rest, head = groups(round_job, "groups=[{match: 'head.*', lr_ratio: 10, weight_decay: 0}]")
    assert rest == PlanGroup(
        name="everything else",
        lr_ratio=1.0,
        peak_lr=0.04,
        weight_decay=None,
        frozen=False,
        unfreeze_at=None,
        num_parameters=140,
        tensors={name: count for name, count in MODEL.items() if not name.startswith("head")},
    )
    assert head == PlanGroup(
        name="head.*",
        lr_ratio=10.0,
        peak_lr=0.4,
        weight_decay=0.0,
        frozen=False,
        unfreeze_at=None,
        num_parameters=50,
        tensors={"head.weight": 40, "head.bias": 10},
    )


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("head.weight", ["head.weight"]),  # a whole name
        ("*bias", ["blocks.0.bias", "blocks.1.bias", "head.bias"]),  # across dots
        ("blocks.?.bias", ["blocks.0.bias", "blocks.1.bias"]),
        ("blocks.[!0].*", ["blocks.1.weight", "blocks.1.bias"]),
        ("*", list(MODEL)),
    ],
)
def test_what_a_pattern_matches(round_job: Digits, match: str, names: list[str]) -> None:
    (found,) = [g for g in groups(round_job, f"groups=[{{match: '{match}', lr_ratio: 2}}]") if g.lr_ratio == 2]
    assert list(found.tensors) == names


def test_entries_that_overlap_combine_and_the_later_wins_on_a_key(round_job: Digits) -> None:
    all_of_it, biases = "{match: '*', lr_ratio: 0.5, weight_decay: 0.1}", "{match: '*.bias', weight_decay: 0}"
    entries = f"groups=[{all_of_it}, {biases}, {{match: 'head.*', lr_ratio: 2}}]"
    found = {group.name: group for group in groups(round_job, entries)}
    assert {name: (group.lr_ratio, group.weight_decay) for name, group in found.items()} == {
        "*": (0.5, 0.1),
        "* + *.bias": (0.5, 0.0),
        "* + head.*": (2.0, 0.1),
        "* + *.bias + head.*": (2.0, 0.0),
    }
    assert list(found["* + *.bias + head.*"].tensors) == ["head.bias"]


def test_a_later_entry_may_free_nothing_but_wins_with_its_own_time(round_job: Digits) -> None:
    entries = "[{match: 'blocks.*', freeze: true}, {match: 'blocks.1.*', freeze: {epochs: 2}}]"
    found = {group.name: (group.frozen, group.unfreeze_at) for group in groups(round_job, f"groups={entries}")}
    assert found == {
        "everything else": (False, None),
        "blocks.*": (True, None),
        "blocks.* + blocks.1.*": (True, 2000),
    }


@pytest.mark.parametrize(
    ("freeze", "frozen", "unfreeze_at"),
    [
        ("true", True, None),  # to the end
        ("{epochs: 2}", True, 2000),
        ("{fraction: 0.25}", True, 2500),
        ("{steps: 12}", True, 1200),
        ("{samples: 7}", True, 7),
        ("null", False, None),
    ],
)
def test_freezing_in_any_form(round_job: Digits, freeze: str, frozen: bool, unfreeze_at: int | None) -> None:
    _, head = groups(round_job, f"groups=[{{match: 'head.*', lr_ratio: 0.1, freeze: {freeze}}}]")
    assert (head.frozen, head.unfreeze_at) == (frozen, unfreeze_at)


def test_layers_further_from_the_output_learn_more_slowly(round_job: Digits) -> None:
    layers = "['embed.*', 'blocks.{n}.*', 'head.*']"
    found = groups(round_job, f"layer_decay={{factor: 0.5, layers: {layers}}}")
    assert [(group.name, group.lr_ratio, group.num_parameters) for group in found] == [
        ("embed.*", 0.125, 100),
        ("blocks.0.*", 0.25, 20),
        ("blocks.1.*", 0.5, 20),
        ("head.*", 1.0, 50),  # the output's own: the peak
    ]
    assert [group.peak_lr for group in found] == [0.005, 0.01, 0.02, 0.04]


def test_layers_and_groups_multiply(round_job: Digits) -> None:
    found = groups(
        round_job,
        "layer_decay={factor: 0.5, layers: ['embed.*', 'blocks.*', 'head.*']}",
        "groups=[{match: '*.bias', weight_decay: 0}, {match: 'blocks.*', lr_ratio: 3}]",
    )
    assert {group.name: (group.lr_ratio, group.weight_decay) for group in found} == {
        "embed.*": (0.25, None),
        "blocks.* + blocks.*": (1.5, None),
        "*.bias + blocks.* + blocks.*": (1.5, 0.0),
        "head.*": (1.0, None),
        "*.bias + head.*": (1.0, 0.0),
    }


@pytest.mark.parametrize(
    ("layers", "names", "depths"),
    [
        (  # numbers are numbers, not words: 2 before 10
            ["b.{n}.w"],
            [f"b.{n}.w" for n in (0, 10, 2)],
            [2, 0, 1],
        ),
        (["layer{n}*", "fc"], ["layer1.w", "layer10.w", "layer2.w", "fc"], [3, 1, 2, 0]),  # 1 is not the start of 10
        (  # stages of blocks
            ["s.{n}.b.{n}.*", "head"],
            ["s.0.b.0.w", "s.0.b.1.w", "s.1.b.0.w", "head"],
            [3, 2, 1, 0],
        ),
        (["b.*", "*"], ["b.w", "rest"], [1, 0]),  # the first pattern that matches has it
        (["*.{n}.*", "head.*"], ["encoder.3.w", "encoder.4.mlp.2.w", "head.w"], [2, 1, 0]),  # the first number
    ],
)
def test_how_layers_are_counted(round_job: Digits, layers: list[str], names: list[str], depths: list[int]) -> None:
    model = dict.fromkeys(names, 1)
    layers = layers if len(layers) > 1 else [*layers, "last"]
    if layers[-1] == "last":
        model["last"], depths = 1, [depth + 1 for depth in depths]
    found = groups(round_job, f"layer_decay={{factor: 0.5, layers: {json.dumps(layers)}}}", model=model)
    ratios = {name: group.lr_ratio for group in found for name in group.tensors}
    assert [ratios[name] for name in names] == [0.5**depth for depth in depths]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["groups=[{match: 'haed.*', lr_ratio: 2}]"],
            "groups: match = haed.* matches none of the model's 7 parameters.\n"
            "  They are named embed.weight, blocks.0.weight, blocks.0.bias, blocks.1.weight, ....",
        ),
        (  # names are matched whole, and cases differ
            ["groups=[{match: Head, lr_ratio: 2}]"],
            "groups: match = Head matches none of the model's 7 parameters.\n"
            "  They are named embed.weight, blocks.0.weight, blocks.0.bias, blocks.1.weight, ....",
        ),
        (
            ["layer_decay={factor: 0.5, layers: ['embed.*', 'layers.{n}.*', 'blocks.*', 'head.*']}"],
            "layer_decay: layers = layers.{n}.* matches none of the model's 7 parameters.\n"
            "  They are named embed.weight, blocks.0.weight, blocks.0.bias, blocks.1.weight, ....",
        ),
        (
            ["layer_decay={factor: 0.5, layers: ['blocks.{n}.*', 'head.*']}"],
            "layer_decay.layers: the parameter embed.weight matches no pattern.\n"
            '  Add a pattern for it, such as "embed.*".',
        ),
        (
            ["layer_decay={factor: 0.5, layers: ['embed.*', 'blocks.*', '*', 'head.*']}"],
            "layer_decay.layers: all parameters that match head.* match an earlier pattern too.\n"
            "  Leave it out, or make the earlier patterns narrower.",
        ),
        (
            ["groups=[{match: '*', freeze: true}]"],
            "groups freeze every parameter at the start, and no parameter is left to train.\n"
            "  Leave freeze out of one of them.",
        ),
        (  # thawed one by one, but none to begin with
            ["groups=[{match: '*', freeze: {epochs: 3}}, {match: 'head.*', freeze: {epochs: 1}}]"],
            "groups freeze every parameter at the start, and no parameter is left to train.\n"
            "  Leave freeze out of one of them.",
        ),
    ],
)
def test_groups_that_cannot_be_made(round_job: Digits, overrides: list[str], text: str) -> None:
    assert refusal(round_job, *overrides) == text


@pytest.mark.parametrize(
    "entries",
    ["[{match: '*', lr_ratio: 0}]", "[{match: '[!h]*', freeze: {epochs: 1}}, {match: 'head.*', lr_ratio: 0}]"],
)
def test_an_lr_ratio_of_0_for_all_parameters_is_refused_like_freezing(round_job: Digits, entries: str) -> None:
    assert refusal(round_job, f"groups={entries}") == (
        "groups freeze every parameter at the start or give it lr_ratio: 0, and no parameter is left to train.\n"
        "  Leave freeze and lr_ratio: 0 out of one of them."
    )


@pytest.mark.parametrize(
    "override", ["groups=[{match: '*', lr_ratio: 2}]", "layer_decay={factor: 0.5, layers: ['a', 'b']}", "groups=recipe"]
)
def test_groups_need_a_model(round_job: Digits, override: str) -> None:
    assert refusal(round_job, override, model=None) == (
        "groups and layer_decay match the model's parameters, and the plan is made without a model.\n"
        "  Pass parameters: {name: parameter.numel() for name, parameter in model.named_parameters()}."
    )


entries = st.lists(
    st.fixed_dictionaries(
        {"match": st.sampled_from(["*", "*.bias", "blocks.*", "blocks.1.*", "head.*", "embed.weight"])},
        optional={
            "lr_ratio": st.sampled_from([0.0, 0.1, 2.0]),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "freeze": st.sampled_from([{"epochs": 1}, True]),
        },
    ).filter(lambda entry: len(entry) > 1),
    min_size=1,
    max_size=4,
)


@given(entries=entries, layered=st.booleans(), workers=st.integers(1, 6))
def test_groups_part_the_model_and_are_the_same_when_planned_again(
    round_job: Digits, entries: list[dict[str, object]], layered: bool, workers: int
) -> None:
    overrides = [f"groups={json.dumps(entries)}"]
    if layered:
        overrides.append("layer_decay={factor: 0.5, layers: ['embed.*', 'blocks.{n}.*', 'head.*']}")
    job = round_job(*overrides)
    still = 0
    for name in MODEL:
        text: dict[str, object] = {}
        for entry in entries:
            text |= entry if fnmatchcase(name, str(entry["match"])) else {}
        still += "freeze" in text or text.get("lr_ratio") == 0.0
    if still == len(MODEL):
        with pytest.raises(PlanError, match="no parameter is left to train"):
            make_plan(job, parameters=MODEL)
        return
    plan = make_plan(job, parameters=MODEL)
    assert sum(len(group.tensors) for group in plan.groups) == len(MODEL)
    assert {name: parameter.size for name, parameter in plan.parameters.items()} == MODEL
    assert all(group.num_parameters == sum(group.tensors.values()) for group in plan.groups)
    assert all(group.peak_lr == pytest.approx(plan.peak_lr * group.lr_ratio) for group in plan.groups)
    # As a worker does after a resize, from nothing but the plan.
    known = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    again = make_plan(job, workers, num_samples=known.num_samples, parameters=known.parameters)

    def without_lr(group: PlanGroup) -> tuple[object, ...]:
        return (group.name, group.lr_ratio, group.weight_decay, group.frozen, group.unfreeze_at, dict(group.tensors))

    assert {without_lr(group)[0]: without_lr(group) for group in again.groups} == {
        without_lr(group)[0]: without_lr(group) for group in plan.groups
    }
    assert [list(group.tensors) for group in again.groups] == [list(group.tensors) for group in plan.groups]
