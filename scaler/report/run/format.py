"""Parts of a run's report as text. The terminal, Markdown, the page and notebooks show the same text."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.core.noise_history import FEWEST_MEASURED
from scaler.core.unit import shown
from scaler.report.run.cost_text import cost_text, flops_text, scaling_text
from scaler.report.run.definitions import COST, EFFICIENCY, SPEED, TRAIN_LOSS, TRAIN_S, WALL_S, evaluation
from scaler.report.run.model import AttemptRow, Decision, Gain, LrAudit, Noise, Report
from scaler.report.text.format import amount, count, ended, number, option, percent, plural, printable, seconds

SHOWN_GROUPS = 3
SHOWN_PHASES = 4

ORDERS = {
    "stream": "train_data's own; every worker reads all of it and uses its share",
    "ranges": "train_data's own; every worker reads its share",
    "shards": "train_data's own; every worker reads a part of its own",
    "sampler": "the sampler's",
    "loop": "that of a loop of one's own, which counts its samples",
}
"""The text of ``Report.data_order``."""

Fact = tuple[str, str]
"""A name and its text."""


def results(report: Report) -> list[Fact]:
    """Return what a run trained, how fast, how long, and to which loss and evaluations."""
    return [
        ("trained", trained_text(report)),
        (SPEED.name, f"{speed_text(report)} over {seconds(TRAIN_S.read(report))} of training"),
        *real_tokens(report),
        (WALL_S.name, seconds(WALL_S.read(report))),
        (TRAIN_LOSS.name, f"{number(TRAIN_LOSS.read(report))} ({TRAIN_LOSS.of})"),
        *((f"train {name}", number(value)) for name, value in report.final.train.items()),
        *((value.name, number(value.read(report))) for value in map(evaluation, report.final.eval)),
    ]


def speed_text(report: Report) -> str:
    """Return the speed of all workers, in the unit of the job."""
    return f"{count(SPEED.read(report), report.unit)} {report.unit}/s"


def real_tokens(report: Report) -> list[Fact]:
    """Return the tokens that the losses counted, beside the planned ones; empty where they are not known."""
    totals = report.totals
    if totals.real_tokens is None or not totals.tokens_seen:
        return []
    share = f"{percent(totals.real_tokens / totals.tokens_seen)} of the planned"
    speed = f", {shown(totals.real_tokens_per_s)}/s" if totals.real_tokens_per_s is not None else ""
    return [("real tokens", f"{shown(totals.real_tokens)}, {share}{speed}")]


def trained_text(report: Report) -> str:
    """Return the samples or tokens and the steps that a run trained, and where it began if not at its first sample."""
    totals, origin = report.totals, report.branched_from
    steps = plural(totals.steps, "step")
    if origin is None:
        return f"{amount(totals.samples_seen, report.unit)} in {steps}"
    own = totals.samples_seen - origin["samples_seen"]
    before = count(origin["samples_seen"], report.unit)
    return f"{amount(own, report.unit)} in {steps}, after {before} of run {origin['run_id']}"


def costs(report: Report) -> list[Fact]:
    """Return a run's efficiency, computing speed and cost, where they are known."""
    scaling = scaling_text(report.scaling, report.unit) if report.scaling is not None else None
    return [
        *([(EFFICIENCY.name, scaling)] if scaling is not None else []),
        *([("computing", flops_text(report.flops))] if report.flops is not None else []),
        *([(COST.name, cost_text(report.cost, report.unit))] if report.cost is not None else []),
    ]


def further_facts(report: Report) -> list[Fact]:
    """Return facts of some runs only: a mesh, work trained again, restarts, a growing batch, weight decay, noise."""
    plan, totals = report.plan, report.totals
    facts: list[Fact] = []
    if mesh := plan["reasons"].get("mesh"):
        facts.append(("mesh", mesh))
    if totals.redone_samples:
        again = f"{amount(totals.redone_samples, report.unit)} in {seconds(totals.redone_s)}, after restarts"
        facts.append(("trained again", again))
    if totals.restart_s:
        facts.append(("restarting", f"{seconds(totals.restart_s)} between attempts"))
    if report.data_order is not None:
        facts.append(("data order", ORDERS.get(report.data_order, report.data_order)))
    if len({phase["global_batch_size"] for phase in plan["phases"]}) > 1:
        facts.append(("planned batch", phase_text(plan["phases"], report.unit)))
    if len({phase.get("tokens_per_sample") for phase in plan["phases"]}) > 1:
        facts.append(("tokens a sample", length_text(plan["phases"])))
    if (timescale := plan.get("weight_decay_timescale")) is not None:
        reason = plan["reasons"]["weight_decay_timescale"]
        size = round(timescale * (plan.get("tokens_per_sample") or 1))
        facts.append(("wd timescale", f"{amount(size, report.unit)}, {reason}"))
    if plan["groups"]:
        facts.append(("peak lr", group_text(plan["groups"])))
    if report.gain is not None:
        facts.append(("adascale gain", gain_text(report.gain)))
    if report.noise is not None:
        facts.append(("gradient noise scale", noise_text(report.noise, report.unit)))
    return facts


def audit_text(audit: LrAudit) -> str:
    """Return whether the learning rate was as planned, and the largest difference if it was not.

    Differences by rounding count as planned.

    Example:
        >>> audit_text(LrAudit(checked_steps=11, max_abs_error=8.7e-19, as_planned=True))
        'as planned in 11 steps'
        >>> audit_text(LrAudit(checked_steps=11, max_abs_error=0.002, as_planned=False))
        'not as planned in 11 steps, largest difference 0.002'
    """
    if not audit.checked_steps:
        return "no step recorded"
    steps = plural(audit.checked_steps, "step")
    if audit.as_planned:
        return f"as planned in {steps}"
    return f"not as planned in {steps}, largest difference {number(audit.max_abs_error)}"


# The gradient noise scale


def noise_text(noise: Noise, unit: str = "samples") -> str:
    """Return the noise scale with its interval and the steps from which it was estimated.

    Example:
        >>> noise_text(Noise(noise_scale=1240.3, lower=800.2, upper=None, measured_steps=50, meaning="",
        ...                  last_step=980, first_step=500, fitted_steps=25))
        '1,240 samples (90% 800 or more) at step 980, from the trend of 25 steps measured since step 500, an estimate'
    """
    if noise.lower is None:
        return f"not known: {interval_text(noise, unit)}"
    value = "not known" if noise.noise_scale is None else f"{samples_text(noise.noise_scale, unit)} {unit}"
    return f"{value} ({interval_text(noise, unit)}){preconditioned_text(noise)} {trend_text(noise)}, an estimate"


def trend_text(noise: Noise) -> str:
    """Return the step of a known noise scale, and the steps from which it was estimated."""
    last, first, fitted = noise.last_step, noise.first_step, noise.fitted_steps
    assert last is not None
    assert first is not None
    assert fitted is not None
    return f"at step {number(last)}, from the trend of {number(fitted)} steps measured since step {number(first)}"


def preconditioned_text(noise: Noise) -> str:
    """Return that the noise scale is of the preconditioned gradient; empty if it is of the gradient itself."""
    return " of the preconditioned gradient" if noise.is_preconditioned else ""


def interval_text(noise: Noise, unit: str = "samples") -> str:
    """Return the noise scale's 90 % interval, or why it has none."""
    if noise.lower is None and noise.measured_steps < FEWEST_MEASURED:
        return f"measured in {plural(noise.measured_steps, 'step')}, {FEWEST_MEASURED} are needed"
    if noise.lower is None:
        return f"no steady trend within the last {FEWEST_MEASURED} of {number(noise.measured_steps)} measured steps"
    lower, upper = samples_text(noise.lower, unit), samples_text(noise.upper, unit) if noise.upper else ""
    return f"90% {lower}" + (f"-{upper}" if upper else " or more")


def samples_text(value: float, unit: str = "samples") -> str:
    """Return an estimated number of samples, or of tokens: whole from 100 on, else with 3 significant digits."""
    if unit == "tokens":
        return shown(round(value) if value >= 100 else value)
    return number(round(value)) if value >= 100 else number(value, 3)


def gain_text(gain: Gain) -> str:
    """Return the mean gain of adaptive steps, and how many steps they saved.

    Example:
        >>> gain_text(Gain(mean=5.25, steps_saved=850.0))
        'a step is worth 5.25 steps of the reference, mean over steps; 850 steps saved'
    """
    saved = number(round(gain.steps_saved))
    return f"a step is worth {number(gain.mean)} steps of the reference, mean over steps; {saved} steps saved"


# Attempts and decisions


ATTEMPT_NUMBERS = ("attempt", "workers", "global batch", "peak lr", "from {one}", "to {one}")
ATTEMPT_TEXTS = ("ended by", "why")
ATTEMPT_COSTS = ("trained again", "restart")


def heads(names: Sequence[str], unit: str) -> tuple[str, ...]:
    """Return the heads of columns in the unit of the job.

    Example:
        >>> heads(("attempt", "from {one}"), "tokens")
        ('attempt', 'from token')
    """
    return tuple(name.format(one=unit[:-1], many=unit) for name in names)


def attempt_row(row: AttemptRow, unit: str = "samples") -> tuple[str, ...]:
    """Return the row of an attempt; its heads are ``ATTEMPT_NUMBERS``, ``ATTEMPT_TEXTS`` and ``ATTEMPT_COSTS``."""
    return (
        str(row.attempt),
        number(row.world_size),
        batch_text(row, unit),
        option(row.peak_lr),
        count(row.start_samples, unit),
        count(row.end_samples, unit),
        ended_text(row),
        row.cause or "",
        count(row.redone_samples, unit),
        seconds(row.restart_s),
    )


def decision_text(decision: Decision) -> str:
    """Return what was decided, and whether a later attempt undid it."""
    return printable(decision.message) + (" (undone: a later attempt started before it)" if decision.undone else "")


def ended_text(attempt: AttemptRow) -> str:
    """Return what ended an attempt."""
    return attempt.ended_by.replace("_", " ")


def reached_text(attempt: AttemptRow, unit: str = "samples") -> str:
    """Return the sample at which an attempt's work in the weights ends; if none is left, what was trained again."""
    end = count(attempt.end_samples, unit)
    return f"{end} ({count(attempt.redone_samples, unit)} lost)" if attempt.is_undone else end


def loss_text(attempt: AttemptRow, unit: str = "samples") -> str:
    """Return why an attempt ended, what was trained again, and how long the restart took; empty if none is known."""
    parts = []
    if attempt.cause is not None:
        parts.append(f"{attempt.cause[:1].upper()}{ended(attempt.cause[1:])}")
    cost = []
    if attempt.redone_samples:
        cost.append(f"{amount(attempt.redone_samples, unit)} trained again ({seconds(attempt.redone_s)})")
    if attempt.restart_s:
        cost.append(f"{seconds(attempt.restart_s)} to restart")
    if cost:
        parts.append(f"{', '.join(cost)}.")
    return printable(" ".join(parts))


def batch_text(attempt: AttemptRow, unit: str = "samples") -> str:
    """Return an attempt's global batch; if it grew, its first and its last value."""
    first, last = attempt.global_batch_size, attempt.end_global_batch_size
    return count(first, unit) if first == last else f"{count(first, unit)} -> {count(last, unit)}"


# Parts of the plan in the report


def group_text(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the peak learning rates of the first few parameter groups.

    Example:
        >>> group_text([{"name": f"block{i}.*", "peak_lr": 0.1 / 2**i, "frozen": False} for i in range(5)])
        'block0.* 0.1, block1.* 0.05, block2.* 0.025, and 2 more groups'
    """
    shown = [
        f"{printable(str(group['name']))} {'frozen' if _stays_frozen(group) else option(group['peak_lr'])}"
        for group in groups[:SHOWN_GROUPS]
    ]
    return _with_rest(shown, len(groups) - len(shown), "group")


def _stays_frozen(group: Mapping[str, Any]) -> bool:
    return bool(group["frozen"]) and group["unfreeze_at"] is None


def phase_text(phases: Sequence[Mapping[str, Any]], unit: str = "samples") -> str:
    """Return the planned global batch and its first few changes.

    Example:
        >>> phase_text([{"start_samples": 1000 * i, "global_batch_size": 64 * 2**i} for i in range(3)])
        '64 samples, 128 from sample 1,000, 256 from sample 2,000'
    """
    shown = [
        f"{count(phase['global_batch_size'], unit)} from {unit[:-1]} {count(phase['start_samples'], unit)}"
        for phase in phases[1:SHOWN_PHASES]
    ]
    first = f"{count(phases[0]['global_batch_size'], unit)} {unit}"
    return _with_rest([first, *shown], len(phases) - 1 - len(shown), "change")


def length_text(phases: Sequence[Mapping[str, Any]]) -> str:
    """Return the planned tokens of a sample and their first few changes.

    Example:
        >>> length_text([{"start_samples": 9 * 10**8 * i, "tokens_per_sample": 256 * 4**i} for i in range(2)])
        '256, 1,024 from token 900M'
    """
    shown_phases = [
        f"{number(phase['tokens_per_sample'])} from token {shown(phase['start_samples'])}"
        for phase in phases[1:SHOWN_PHASES]
    ]
    first = number(phases[0]["tokens_per_sample"])
    return _with_rest([first, *shown_phases], len(phases) - 1 - len(shown_phases), "change")


def _with_rest(shown: Sequence[str], left: int, noun: str) -> str:
    return ", ".join([*shown, *([f"and {left} more {noun}{'s' if left > 1 else ''}"] if left else [])])
