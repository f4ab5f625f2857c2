"""Parts of a comparison as text. The terminal, Markdown and the page show the same text."""

import math
from collections.abc import Sequence

from scaler.report.compare.model import Arm, ArmValues, Comparison, Difference, Measure, RunRow, Speedup
from scaler.report.run.definitions import NUMBERS, evaluation
from scaler.report.text.format import amount, count, number, percent, plural, printable, seconds

_NOT_JUDGED = {
    "no_repeats": "no repeats",
    "no_spread": "no spread",
    "too_few_repeats": "too few repeats",
    "different_lengths": "lengths differ",
    "not_known": "not known",
}
FAR = 3.0  # an interval that reaches this factor is written as factors: "8 times", not "+700 %"
FOUND_ARMS = 3  # arms that the finding names
HEADLINE_NUMBERS = 6  # numbers in a headline; the table has all of them
TITLES = {
    "end": "At the end",
    "reached": "To a common loss, from the first step on",
    "at_samples": "After the same number of samples",
    "at_time": "After the same time, from the first step on",
    "speed": "Speed and cost",
}
"""The kinds of measures, in the order in which they are shown."""


def curve_text(name: str) -> str:
    """Return the name of a curve as people read it.

    Example:
        >>> curve_text("train_loss"), curve_text("eval.accuracy")
        ('train loss', 'eval accuracy')
    """
    number = NUMBERS.get(name) or evaluation(name.removeprefix("eval."))
    return printable(number.name)


def measure_text(measure: Measure) -> str:
    """Return the name of a number, with the samples, time or value at which it is compared."""
    what = curve_text(measure.name)
    match measure.kind:
        case "at_samples":
            return f"{what} after {count(round(measure.at or 0), measure.count)} {measure.count}"
        case "at_time":
            return f"{what} after {seconds(measure.at)}"
        case "reached":
            return f"{'time' if measure.unit == 's' else measure.unit} to {what} {number(measure.at)}"
        case _:
            return what


def value_text(value: float | None, unit: str) -> str:
    """Return a value with its unit.

    Example:
        >>> [value_text(value, unit) for value, unit in ((None, "s"), (75.0, "s"), (12.3456, "%"), (0.25, ""))]
        ['–', '1 min 15 s', '12.35 %', '0.25']
    """
    if value is None:
        return "–"
    if unit == "s":
        return seconds(value)
    if unit in ("samples", "tokens"):
        return count(round(value), unit)
    if unit in ("%", "GiB"):
        return f"{number(value)} {unit}"
    return f"{count(value, unit.removesuffix('/s'))}/s" if unit in ("samples/s", "tokens/s") else number(value)


def mean_text(values: ArmValues, unit: str) -> str:
    """Return an arm's mean."""
    return value_text(values.mean, unit)


def spread_text(values: ArmValues, unit: str) -> str:
    """Return the standard deviation of a single repeat; a dash with fewer than two repeats."""
    return value_text(values.spread, unit)


def change_text(difference: Difference, unit: str) -> str:
    """Return an arm's change from the base with its interval, in percent unless the base is 0.

    A margin has two digits, and the change has no smaller digit than the margin. A change on a log scale has both ends
    of its interval; it is written as factors if the interval reaches ``FAR``.

    Example:
        >>> ends = dict.fromkeys(("low", "high", "low_pct", "high_pct"))
        >>> known = {"arm": "B", "is_beyond_noise": True, "not_judged": None, **ends}
        >>> change_text(Difference(change=2.0, change_pct=25.0, margin=0.8, margin_pct=10.0, **known), "s")
        '+25 % ± 10'
        >>> change_text(Difference(change=-2.0, change_pct=None, margin=None, margin_pct=None, **known), "%")
        '-2 points'
        >>> change_text(Difference(change=-1e-8, change_pct=-1.84e-6, margin=0.1, margin_pct=18.0, **known), "s")
        '0 % ± 18'
        >>> known |= {"margin": None, "margin_pct": None}
        >>> change_text(Difference(change=-1.0, change_pct=-20.0, **known | {"low_pct": -24.0, "high_pct": -15.8}), "")
        '-20 % (-24 to -16)'
        >>> change_text(Difference(change=1.0, change_pct=700.0, **known | {"low_pct": 20.0, "high_pct": 5200.0}), "")
        '8 times (1.2 to 53)'
    """
    if difference.change is None:
        return "–"
    if difference.margin is None and difference.low_pct is not None and difference.high_pct is not None:
        return _factor_text(difference.change_pct or 0.0, difference.low_pct, difference.high_pct)
    if difference.change_pct is not None:
        return f"{_signed(difference.change_pct, difference.margin_pct)} %{_margin(difference.margin_pct)}"
    points = " points" if unit == "%" else ""
    return f"{_signed(difference.change, difference.margin)}{points}{_margin(difference.margin)}"


def _factor_text(change_pct: float, low_pct: float, high_pct: float) -> str:
    """A change with the ends of its interval, which have a digit less; as factors if it reaches ``FAR``."""
    change, low, high = (1 + value / 100 for value in (change_pct, low_pct, high_pct))
    if low > 1 / FAR and high < FAR:
        width = (high_pct - low_pct) / 2
        return f"{_signed(change_pct, width)} % ({_signed(low_pct, 10 * width)} to {_signed(high_pct, 10 * width)})"
    return f"{number(change, 2)} times ({number(low, 2)} to {number(high, 2)})"


def _signed(value: float, margin: float | None) -> str:
    if margin:
        value = round(value, 1 - math.floor(math.log10(margin)))
    return "0" if not value else f"{'+' if value > 0 else '-'}{number(abs(value), 3)}"


def _margin(value: float | None) -> str:
    return "" if value is None else f" ± {number(value, 2)}"


def judged_text(difference: Difference) -> str:
    """Return whether a difference is beyond the noise, or why it is not judged."""
    if difference.not_judged is not None:
        return _NOT_JUDGED[difference.not_judged]
    return "beyond noise" if difference.is_beyond_noise else "within noise"


def compared(measure: Measure, arm: str) -> tuple[str, str, str]:
    """Return an arm's mean, its change from the base, and whether the change is beyond the noise."""
    difference = measure.difference(arm)
    return (
        mean_text(measure.of(arm), measure.unit),
        change_text(difference, measure.unit),
        judged_text(difference),
    )


def headline(comparison: Comparison, arm: Arm) -> str:
    """Return as one sentence the numbers in which an arm differs from the base beyond the noise."""
    measures = shown_measures(comparison)
    differences = [(measure, measure.difference(arm.label)) for measure in measures]
    judged = [(measure, difference) for measure, difference in differences if difference.is_beyond_noise is not None]
    if not judged:
        return "Not judged: these runs do not show which differences are more than chance."
    moved = [f"{measure_text(m)} {change_text(d, m.unit)}" for m, d in judged if d.is_beyond_noise]
    if not moved:
        return f"No number differs beyond the noise; {plural(len(judged), 'number')} judged."
    rest = len(moved) - HEADLINE_NUMBERS
    return f"Beyond the noise: {'; '.join(moved[:HEADLINE_NUMBERS])}{f'; and {rest} more' if rest > 0 else ''}."


def finding_text(comparison: Comparison) -> str:
    """Return the result: a sentence for each arm with its loss, its score and its speed against the base."""
    base, *others = comparison.arms
    if not others:
        parts = [
            f"{measure_text(measure)} {mean_text(measure.arms[0], measure.unit)}"
            for measure in _principal(comparison, None)
        ]
        return f"{plural(len(comparison.runs), 'repeat')} of one job: {', '.join(parts)}." if parts else ""
    sentences = []
    for arm in others[:FOUND_ARMS]:
        parts = [_found(measure, measure.difference(arm.label)) for measure in _principal(comparison, arm.label)]
        if parts:
            sentences.append(f"Arm {arm.label} against arm {base.label}: {'; '.join(parts)}.")
    rest = len(others) - FOUND_ARMS
    return " ".join(sentences + ([f"And {plural(rest, 'arm')} more."] if rest > 0 else []))


def _principal(comparison: Comparison, arm: str | None) -> list[Measure]:
    """The numbers of a finding: a loss, a score of the evaluations and the speed, if they are known."""
    by_name = {(measure.kind, measure.name): measure for measure in comparison.measures}  # the last place wins
    losses = [(kind, name) for kind in ("end", "at_samples") for name in ("eval.loss", "train_loss")]
    scores = [key for key in by_name if key[0] == "end" and key[1].startswith("eval.") and key[1] != "eval.loss"]
    found = []
    for keys in (losses, scores, [("speed", "samples_per_s")]):
        known = [by_name[key] for key in keys if key in by_name and by_name[key].arms[0].mean is not None]
        if arm is not None:
            known = [measure for measure in known if measure.difference(arm).change is not None]
            known.sort(key=lambda measure: measure.difference(arm).not_judged == "different_lengths")
        found += known[:1]
    return found


def _found(measure: Measure, difference: Difference) -> str:
    """The finding for one number, as a part of a sentence."""
    what, change = f"the {measure_text(measure)}", change_text(difference, measure.unit)
    if difference.not_judged == "too_few_repeats":
        return f"too few repeats to tell whether {what} differs, {change}"
    if difference.is_beyond_noise is not None:
        return f"{what} differs {'beyond' if difference.is_beyond_noise else 'within'} the noise, {change}"
    if not difference.change:
        return f"{what} is the same"
    why = {"no_repeats": "there are no repeats", "no_spread": "the repeats of each arm have the same value"}
    reason = why.get(difference.not_judged or "", "the runs have different lengths")
    return f"{what} changed by {change}, which may be chance: {reason}"


def shown_measures(comparison: Comparison) -> list[Measure]:
    """Return the numbers for a small table: of the places that all runs have reached, only the last.

    If all runs have one length, the last place is their end, which has its own numbers.
    """
    is_one_length = len({run.samples_seen for run in comparison.runs}) == 1
    last = {(m.kind, m.name): m.at for m in comparison.measures}
    return [
        measure
        for _, measures in by_kind(comparison.measures)
        for measure in measures
        if not (is_one_length and measure.kind == "at_samples")
        and (measure.kind not in ("at_samples", "at_time") or measure.at == last[measure.kind, measure.name])
    ]


def by_kind(measures: Sequence[Measure]) -> list[tuple[str, list[Measure]]]:
    """Return numbers by kind, with the title of each kind; kinds without numbers are left out."""
    found = [(title, [measure for measure in measures if measure.kind == kind]) for kind, title in TITLES.items()]
    return [(title, mine) for title, mine in found if mine]


def run_text(run: RunRow, unit: str) -> str:
    """Return a run's state, workers, seed, length and verdicts; ``unit`` of the comparison."""
    parts = [run.state, plural(run.world_size, "worker") if run.world_size is not None else "no step"]
    parts += [f"seed {run.seed}", amount(run.samples_seen, unit)]
    return ", ".join([*parts, *run.verdicts])


def arm_text(arm: Arm) -> str:
    """Return how many runs an arm has, and whether it is the base."""
    runs = plural(len(arm.run_ids), "run")
    return f"the base, {runs}" if arm.label == "A" else runs


def speedup_text(speedup: Speedup, base: str, unit: str) -> str:
    """Return an arm's speed-up and efficiency against the base, as sentences; ``unit`` of the comparison."""
    text = (
        f"{plural(speedup.world_size, 'worker')}: {number(speedup.speedup, 3)} times the speed of arm {base}; "
        f"efficiency {percent(speedup.efficiency)} against arm {base}."
    )
    if speedup.time_speedup is None:
        return text
    return (
        f"{text} From the first step on, it reached the common train loss {number(speedup.time_speedup, 3)} times as "
        f"fast, with {number(speedup.samples_ratio, 3)} times the {unit}."
    )
