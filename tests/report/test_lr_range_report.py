"""A range test: its result from records, its text and its page."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from math import exp, nan
from pathlib import Path

import pytest
import yaml
from pages import Page
from rich.console import Console

from scaler.errors import RunError, TrainingError
from scaler.job import Job, load_job
from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.plan import Plan
from scaler.plan.range_test import carried_by, make_plan, range_job, range_plan
from scaler.report.find_lr.html import render_range_html
from scaler.report.find_lr.summary import NAMES, FoundLrs, lr_text, paste, read_range
from scaler.report.find_lr.text import range_text
from scaler.report.page.shell import SCRIPTS
from scaler.runs import RunFolder

Golden = Callable[[str, str], None]
Digits = Callable[..., Job]
Find = Callable[..., FoundLrs]

REASON = "sgd: linear rule (Goyal et al. 2017), as requested"


def falls(lr: float) -> float:
    """A loss that is halfway down its fall at 0.16 and explodes at 2."""
    return 400.0 if lr > 2.0 else 0.3 + 2.0 / (1.0 + lr / 0.16)


def flat(lr: float) -> float:
    return 2.0 + 0.01 * (int(1e6 * lr) % 2)


def rises(lr: float) -> float:
    return 2.0 * exp(min(lr, 20.0))


@pytest.fixture
def find(digits: Digits, tmp_path: Path) -> Find:
    """Return the result of a test of 100 steps on two workers whose loss is a function of the learning rate."""

    def found(
        loss: Callable[[float], float] = falls,
        *overrides: str,
        steps: int = 100,
        recorded: int | None = None,
        lowest: float = 1e-5,
        highest: float = 10.0,
    ) -> FoundLrs:
        job = digits(*overrides)
        tested = range_job(job, steps=steps)
        plan = range_plan(
            tested, lowest=lowest, highest=highest, spacing="exponential", num_samples=1437, parameters=None
        )
        folder = RunFolder(str(tmp_path / "digits-find-lr-20260101-120000-7f3a"))
        writer = MetricsWriter(folder)
        writer.add(records(plan, loss)[: None if recorded is None else 2 * recorded])
        writer.flush()
        ratio, reason = carried_by(make_plan(job))
        return read_range(folder, plan, name=job.name, base_lr=job.reference.lr, lr_ratio=ratio, rule_reason=reason)

    return found


def records(plan: Plan, loss: Callable[[float], float]) -> list[Record]:
    """Two workers whose losses differ by 0.2, one with three times the samples of the other."""
    rows, seen = [], 0
    while size := plan.step_size(seen):
        lr = plan.lr_at(seen)
        for rank, (samples, more) in enumerate([(3 * size, -0.05), (size, 0.15)]):
            rows.append(
                Record(
                    attempt=0, rank=rank, step=plan.steps(seen), samples_seen=seen, progress=float(seen), lr=lr,
                    lr_planned=lr, samples=samples, loss=loss(lr) + more, step_time_s=0.1, data_wait_s=0.0,
                    compute_s=0.1, sync_wait_s=0.0, grad_norm=1.0, peak_memory_gib=0.1, grad_signal=None,
                    grad_variance=None, noise_scale=None,
                )
            )  # fmt: skip
        seen += size
    return rows


def rendered(found: FoundLrs, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, markup=False, color_system=None)
    with console.capture() as captured:
        console.print(range_text(found))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n"))


# Numbers


def test_the_loss_is_the_mean_over_all_workers_samples(find: Find) -> None:
    found = find()
    assert found.losses == pytest.approx([falls(lr) for lr in found.lrs])
    assert len(found.lrs) == 100
    assert (found.lrs[0], found.lrs[-1]) == (pytest.approx(1e-5), pytest.approx(10.0))


def test_a_suggestion_is_carried_back_by_the_rule(find: Find) -> None:
    found = find()
    assert found.lr_ratio == 16.0
    assert found.suggestions["valley"] == pytest.approx(0.16, rel=0.4)
    for key, here in found.suggestions.items():
        assert here is not None
        assert found.reference_suggestions[key] == pytest.approx(here / 16.0)
    assert found.reference_suggestions["tenth_of_divergence"] == pytest.approx(2.0 / 160.0, rel=0.3)
    assert found.chosen == "valley"
    assert found.reference_lr == found.reference_suggestions["valley"]
    assert found.hints == ()


def test_json_has_every_field_and_no_nan(find: Find) -> None:
    found = find(lambda lr: nan if lr > 5.0 else falls(lr))
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["losses"][-1] is None
    assert len(values["smoothed"]) < len(values["losses"]) == 100
    assert values["reference_lr"] == found.reference_lr
    assert list(values["suggestions"]) == list(NAMES)


@pytest.mark.parametrize(
    ("loss", "options", "chosen", "hints"),
    [
        (flat, {}, None, ("The loss does not fall by more than its noise: raise --max, or take more --steps.",)),
        (
            falls,
            {"highest": 0.1},
            "valley",
            ("The loss still falls at 0.1, so the suggestions may be too low: raise --max.",),
        ),
        (
            lambda lr: min(falls(lr), 0.9),
            {},
            "valley",
            ("The loss rises again, but not to 4 times its least value: it did not diverge up to 10.",),
        ),
        (rises, {}, "tenth_of_divergence", ("The loss does not fall by more than its noise: take more --steps.",)),
        (rises, {"lowest": 5.0, "highest": 1e3}, None, ("The loss diverged after 7 steps: lower --min.",)),
    ],
)
def test_what_the_test_did_not_show_is_a_hint(
    find: Find, loss: Callable[[float], float], options: dict[str, float], chosen: str | None, hints: tuple[str, ...]
) -> None:
    found = find(loss, **options)
    assert (found.chosen, found.hints) == (chosen, hints)
    text = " ".join(rendered(found).split())
    assert all(hint in text for hint in hints)
    assert ("reference: lr:" in text) == (chosen is not None)
    assert all(hint in render_range_html(found) for hint in hints)


def test_the_learning_rates_of_other_optimizers_are_to_be_multiplied_too(find: Find) -> None:
    """Only those of their own: e has reference.lr."""
    found = find(falls, "reference.optimizers={d: {lr: 0.1}, e: {optimizer: {name: sgd, momentum: 0.5}}}")
    assert found.hints == (
        "The test multiplied the learning rates of d in reference by the same number as reference.lr. "
        "Multiply them in the job file, too.",
    )


def test_a_run_without_records_is_refused(find: Find) -> None:
    with pytest.raises(RunError) as refused:
        find(recorded=4)
    assert str(refused.value) == "the range test has 4 steps.\n  It takes at least 10."


def test_a_first_loss_that_is_nan_is_an_error_of_the_recipe(find: Find) -> None:
    with pytest.raises(TrainingError, match="the loss of the first step is nan"):
        find(lambda lr: nan)


# Lines for the job file


@pytest.mark.parametrize("value", [1.234e-9, 4.96e-5, 0.00099, 0.0132, 0.96, 1.0, 12.6, 3.2e5, 1e-5])
def test_a_learning_rate_is_read_back_by_every_yaml_reader(find: Find, tmp_path: Path, value: float) -> None:
    found = replace(find(), reference_suggestions={"valley": value}, chosen="valley")
    text = paste(found)
    assert text is not None
    read = yaml.safe_load(text)["reference"]["lr"]  # YAML 1.1, to which 1e-05 is text
    assert read == pytest.approx(value, rel=0.05)
    assert read == float(lr_text(value))


def test_the_lines_for_the_job_file_load(find: Find, digits_path: Path, tmp_path: Path) -> None:
    text = paste(find())
    assert text is not None
    line = text.splitlines()[1]
    job = re.sub(r"\n  lr: 0.01\n", f"\n{line}\n", digits_path.read_text())
    (tmp_path / "job.yaml").write_text(job)
    assert load_job(tmp_path / "job.yaml").reference.lr == float(line.split()[1])
    assert line.endswith("# valley of a range test; was 0.01")


# In the terminal


def test_a_range_test_in_the_terminal(find: Find, golden: Golden) -> None:
    golden("range.txt", rendered(find()))


def test_a_range_test_that_did_not_diverge(find: Find, golden: Golden) -> None:
    golden("range-short.txt", rendered(find(falls, "scale.rule=adascale", lowest=0.01, highest=1.0)))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
@pytest.mark.parametrize("loss", [falls, flat, rises, lambda lr: 0.0])
def test_it_is_never_wider_than_the_terminal(find: Find, loss: Callable[[float], float], width: int) -> None:
    lines = rendered(find(loss), width=width).splitlines()
    assert max(map(len, lines)) <= max(width, 48)  # the suggestions take 48


# The page


def test_the_page_is_one_file_that_loads_nothing(find: Find) -> None:
    source = render_range_html(find())
    page = Page(source)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "").split(":")[0] in ("", "data"), f"<{tag} {name}={attributes[name]}>"
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert policy.count("'sha256-") == len(page.all("script")) - 1 == len(SCRIPTS)
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in source
    assert len(source.encode()) < 200_000


def test_the_page_has_the_numbers_of_the_terminal(find: Find) -> None:
    found = find()
    text = Page(render_range_html(found)).text
    for key, name in NAMES.items():
        assert f"{name} {lr_text(found.suggestions[key])} {lr_text(found.reference_suggestions[key])}" in text
    assert " ".join((paste(found) or "").split()) in text
    assert f"A learning rate at batch 256 is 16 times reference.lr, which is for batch 16 ({REASON})." in text
    assert "a heuristic from one short and noisy training" in text


def test_the_curve_is_a_sentence_too(find: Find) -> None:
    page = Page(render_range_html(find()))
    label = next(each for each in page.all("div") if each.get("role") == "group")["aria-label"] or ""
    (sentence,) = re.findall(r"smoothed loss: .* at learning rate 1e-05, least .*?\.(?= )", label)
    assert sentence in page.text
    assert re.search(r"steepest at 0.\d+, valley at 0.\d+, divergence / 10 at 0.\d+, diverged at \d.\d\.", label)


def test_the_curve_is_the_tests(find: Find) -> None:
    found = find(lambda lr: nan if lr > 5.0 else falls(lr))
    data = Page(render_range_html(found)).data
    (axis,), (chart,) = data["axes"], data["charts"]
    smoothed, losses = (line["values"] for line in chart["lines"])
    assert axis["places"]["steps"] == pytest.approx(found.lrs, rel=1e-5)
    assert losses[:50] == pytest.approx(found.losses[:50], rel=1e-5)
    assert losses[-1] is None
    assert smoothed[: len(found.smoothed)] == pytest.approx(found.smoothed, rel=1e-5)
    assert set(smoothed[len(found.smoothed) :]) == {None}
    assert [mark["label"] for mark in data["marks"]] == [*NAMES.values(), "diverged"]
    assert min(found.smoothed) < chart["ceiling"] < max(found.smoothed)


def test_text_from_outside_stays_text(find: Find) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>&\"{{ 7 * 7 }}"
    page = Page(render_range_html(replace(find(), name=hostile, run_id=hostile, rule_reason=hostile, hints=(hostile,))))
    assert len(page.all("script")) == 1 + len(SCRIPTS)
    assert not page.all("img")
    assert page.text.count("{{ 7 * 7 }}") >= 4
    assert page.data is not None
