"""Numbers as people read them; every rendering says them the same way."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.core.noise_history import FEWEST_MEASURED
from scaler.report.run.model import AttemptRow, Decision, Gain, LrAudit, Noise, Report

SHOWN_GROUPS = 3
SHOWN_PHASES = 4


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with thousands separators, or with ``digits`` significant ones; a dash for None.

    Example:
        >>> [number(v) for v in (None, 21555, 34911.7, 0.96111, 0.0000123, 16.0)]
        ['–', '21,555', '34,912', '0.9611', '1.23e-05', '16']
    """
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 10**digits - 0.5:  # what rounds to one digit more
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that suits it.

    Example:
        >>> [seconds(v) for v in (None, 0.00142, 1.234, 75.0, 7384.0)]
        ['–', '1.42 ms', '1.23 s', '1 min 15 s', '2 h 3 min']
    """
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"


def plural(count: int, noun: str) -> str:
    """Return ``1 worker`` or ``2 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ended(text: str) -> str:
    """Return text from outside as a sentence's end, with one full stop.

    Example:
        >>> ended("it is torn"), ended("it is torn.")
        ('it is torn.', 'it is torn.')
    """
    return text if text.endswith("...") else f"{text.rstrip(' .')}."


def joined(*parts: str) -> str:
    """Return parts beside each other; none of them keeps a full stop at its end, as those from outside may have.

    Example:
        >>> joined("its checksum is another.", "went on from the start")
        'its checksum is another; went on from the start'
    """
    return "; ".join(part if part.endswith("...") else part.rstrip(" .") for part in parts)


def one_line(text: str, most: int = 160) -> str:
    """Return text from outside as one line of at most ``most`` characters.

    Example:
        >>> one_line("no such\\n  file"), one_line("a b c d e f", most=8)
        ('no such file', 'a b c...')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor or change its colours: control characters are shown.

    Example:
        >>> printable("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text)


def audit_words(audit: LrAudit) -> str:
    """Return whether the rate was the planned one, and how far from it; what is as planned differs by rounding alone.

    Example:
        >>> audit_words(LrAudit(checked_steps=11, max_abs_error=8.7e-19, as_planned=True))
        'as planned in 11 steps'
        >>> audit_words(LrAudit(checked_steps=11, max_abs_error=0.002, as_planned=False))
        'not as planned in 11 steps, largest difference 0.002'
    """
    if not audit.checked_steps:
        return "no step recorded"
    steps = plural(audit.checked_steps, "step")
    if audit.as_planned:
        return f"as planned in {steps}"
    return f"not as planned in {steps}, largest difference {number(audit.max_abs_error)}"


def noise_words(noise: Noise) -> str:
    """Return the noise scale with its interval, what it was estimated from, and that it is an estimate.

    Example:
        >>> noise_words(Noise(noise_scale=1240.3, lower=800.2, upper=None, measured_steps=50, meaning="",
        ...                   last_step=980, first_step=500, fitted_steps=25))
        '1,240 samples (90% 800 or more) at step 980, from the trend of 25 steps measured since step 500, an estimate'
    """
    if noise.lower is None:
        return f"not known: {interval_words(noise)}"
    value = "not known" if noise.noise_scale is None else f"{samples_words(noise.noise_scale)} samples"
    return f"{value} ({interval_words(noise)}){preconditioned_words(noise)} {trend_words(noise)}, an estimate"


def trend_words(noise: Noise) -> str:
    """Return which step a known noise scale is of, and from which steps it was estimated."""
    last, first, fitted = noise.last_step, noise.first_step, noise.fitted_steps
    assert last is not None
    assert first is not None
    assert fitted is not None
    return f"at step {number(last)}, from the trend of {number(fitted)} steps measured since step {number(first)}"


def preconditioned_words(noise: Noise) -> str:
    """Return what a noise scale is of, where it is not of the gradient itself; else nothing."""
    return " of the preconditioned gradient" if noise.is_preconditioned else ""


def interval_words(noise: Noise) -> str:
    """Return the noise scale's 90 % interval, as it is written beside the noise scale, or why there is none."""
    if noise.lower is None and noise.measured_steps < FEWEST_MEASURED:
        return f"measured in {plural(noise.measured_steps, 'step')}, {FEWEST_MEASURED} are needed"
    if noise.lower is None:
        return f"no steady trend within the last {FEWEST_MEASURED} of {number(noise.measured_steps)} measured steps"
    return f"90% {samples_words(noise.lower)}" + (f"-{samples_words(noise.upper)}" if noise.upper else " or more")


def samples_words(value: float) -> str:
    """Return a measured number of samples, without digits that nothing stands behind."""
    return number(round(value)) if value >= 100 else number(value, 3)


def gain_words(gain: Gain) -> str:
    """Return what adaptive steps were worth.

    Example:
        >>> gain_words(Gain(mean=5.25, steps_saved=850.0))
        '5.25 steps of the reference a step, mean over steps; 850 steps saved'
    """
    return (
        f"{number(gain.mean)} steps of the reference a step, mean over steps; {number(round(gain.steps_saved))} "
        f"steps saved"
    )


def more_facts(report: Report) -> list[tuple[str, str]]:
    """Return name and words of what not every run has: lost work, a growing batch, groups, a gain, a noise scale."""
    plan, totals, facts = report.plan, report.totals, []
    if totals.redone_samples:
        again = f"{plural(totals.redone_samples, 'sample')} in {seconds(totals.redone_s)}, after restarts"
        facts.append(("done again", again))
    if totals.restart_s:
        facts.append(("restarting", f"{seconds(totals.restart_s)} between attempts"))
    if len(plan["phases"]) > 1:
        facts.append(("planned batch", phase_words(plan["phases"])))
    if plan["groups"]:
        facts.append(("peak rates", group_words(plan["groups"])))
    if report.gain is not None:
        facts.append(("adascale gain", gain_words(report.gain)))
    if report.noise is not None:
        facts.append(("gradient noise scale", noise_words(report.noise)))
    return facts


def decision_words(decision: Decision) -> str:
    """Return what was decided, and whether it still holds."""
    return printable(decision.message) + (" (undone: a later attempt began before it)" if decision.undone else "")


def ended_words(attempt: AttemptRow) -> str:
    """Return what ended an attempt, as people write it."""
    return attempt.ended_by.replace("_", " ")


def reached_words(attempt: AttemptRow) -> str:
    """Return where an attempt's work in the weights ends; where nothing of it is there, how much was done again."""
    end = number(attempt.end_samples)
    return f"{end}, redone {number(attempt.redone_samples)}" if attempt.is_undone else end


def loss_words(attempt: AttemptRow) -> str:
    """Return why an attempt ended and what that cost, as sentences; nothing where nothing is to say."""
    said = []
    if attempt.cause is not None:
        said.append(f"{attempt.cause[:1].upper()}{ended(attempt.cause[1:])}")
    cost = []
    if attempt.redone_samples:
        cost.append(f"{plural(attempt.redone_samples, 'sample')} done again ({seconds(attempt.redone_s)})")
    if attempt.restart_s:
        cost.append(f"{seconds(attempt.restart_s)} to restart")
    if cost:
        said.append(f"{', '.join(cost)}.")
    return printable(" ".join(said))


def batch_words(attempt: AttemptRow) -> str:
    """Return an attempt's global batch, from and to where it grew."""
    first, last = attempt.global_batch_size, attempt.end_global_batch_size
    return number(first) if first == last else f"{number(first)} -> {number(last)}"


def group_words(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the peak rates of a plan's groups of parameters, the first few by name.

    Example:
        >>> group_words([{"name": f"block{i}.*", "peak_lr": 0.1 / 2**i, "frozen": False} for i in range(5)])
        'block0.* 0.1, block1.* 0.05, block2.* 0.025, and 2 more groups'
    """
    shown = [
        f"{printable(str(group['name']))} {'frozen' if _stays_frozen(group) else number(group['peak_lr'])}"
        for group in groups[:SHOWN_GROUPS]
    ]
    return _with_rest(shown, len(groups) - len(shown), "group")


def _stays_frozen(group: Mapping[str, Any]) -> bool:
    return bool(group["frozen"]) and group["unfreeze_at"] is None


def phase_words(phases: Sequence[Mapping[str, Any]]) -> str:
    """Return how a plan's batch grows, the first few changes of it.

    Example:
        >>> phase_words([{"start_samples": 1000 * i, "global_batch_size": 64 * 2**i} for i in range(3)])
        '64 samples, 128 from sample 1,000, 256 from sample 2,000'
    """
    shown = [
        f"{number(phase['global_batch_size'])} from sample {number(phase['start_samples'])}"
        for phase in phases[1:SHOWN_PHASES]
    ]
    first = f"{number(phases[0]['global_batch_size'])} samples"
    return _with_rest([first, *shown], len(phases) - 1 - len(shown), "change")


def _with_rest(shown: Sequence[str], left: int, noun: str) -> str:
    return ", ".join([*shown, *([f"and {left} more {noun}{'s' if left > 1 else ''}"] if left else [])])
