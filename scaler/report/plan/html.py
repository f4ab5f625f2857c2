"""Plans as one HTML file that needs nothing else: the curves, every number with its reason, the batch and the groups.

No number is computed here. Each curve is told twice: as a curve, and as a sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaler.job import Job
from scaler.plan import Plan, PlanGroup
from scaler.report.page.shell import CURVE_SCRIPTS, PAGE_STYLES, render_page
from scaler.report.plan.format import (
    average_reason,
    built_with,
    can_resize,
    constants,
    kept,
    or_more,
    reactions,
    resizes,
    rewarmup,
    trained_from,
    varying,
    weight_decay,
)
from scaler.report.plan.variants import Refused, among, curve_places, labels
from scaler.report.text.format import number, plural, seconds

STYLES = (*PAGE_STYLES, "plan.css")
SCRIPTS = CURVE_SCRIPTS
MOST_LINES = 6  # of one chart; plan.css has a colour for each
CURVE_POINTS = 800  # shared among the curves of a page

Read = Callable[[Plan, int], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCurve:
    """One plan's curve in a chart."""

    label: str
    style: str  # plan-0 to plan-5: what chart.js and plan.css draw it with
    values: tuple[float | None, ...]  # one for each place of the clock; None after the plan's end
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanChart:
    """Curves over samples_seen that share one axis."""

    id: str
    title: str
    lines: tuple[PlanCurve, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSection:
    """What the page says of one plan."""

    label: str
    plan: Plan
    rows: tuple[tuple[str, str, str], ...]  # name, value, reason
    varying: tuple[str, ...]  # constants that follow the batch
    constants: tuple[Mapping[str, str], ...]  # of each phase
    groups: tuple[tuple[PlanGroup, str, str], ...]  # with its weight decay and the sample that it is trained from


def render_plan_html(outcomes: Sequence[Plan | Refused], *, job: Job | None = None) -> str:
    """Return plans as one HTML document, readable offline, on paper and without its script.

    Args:
        outcomes: plans of one job, at least one, and combinations that were refused.
        job: with it, the page says what is kept to go on from, and what a resize does.
    """
    plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    clock = sorted({at for plan in plans for at in curve_places(plan, CURVE_POINTS // len(plans))})
    charts = _charts(plans, clock)
    return render_page(
        "plan.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        outcomes=[(outcome, outcome if isinstance(outcome, Plan) else None) for outcome in outcomes],
        headline=_headline(outcomes, plans),
        rules={plan.rule: plan.rule_reason for plan in plans},
        sections=[_section(plan, name, job) for plan, name in zip(plans, labels(plans), strict=True)],
        charts=charts,
        data=_data(plans, charts, clock),
        or_more=or_more,
    )


def _headline(outcomes: Sequence[Plan | Refused], plans: Sequence[Plan]) -> str:
    """The plan, or the plans, as one sentence."""
    if len(outcomes) > 1:
        refused = len(outcomes) - len(plans)
        without = f" · {refused} refused" if refused else ""
        return f"{plural(len(plans), 'plan')} · {among((plan.world_size, plan.rule) for plan in plans)}{without}"
    plan = plans[0]
    parts = (
        plural(plan.world_size, "worker"),
        f"{number(plan.batch_ratio)} times the reference's batch",
        f"{number(plan.lr_ratio)} times its rate",
        f"{plural(plan.total_steps, 'step')}{or_more(plan)}",
    )
    return " · ".join(parts)


# One plan


def _section(plan: Plan, label: str, job: Job | None) -> PlanSection:
    return PlanSection(
        label=label,
        plan=plan,
        rows=tuple(_rows(plan, job)),
        varying=tuple(varying(plan.phases)),
        constants=tuple(constants(phase) for phase in plan.phases),
        groups=tuple((group, weight_decay(plan, group), trained_from(group)) for group in plan.groups),
    )


def _rows(plan: Plan, job: Job | None) -> list[tuple[str, str, str]]:
    """Every number, in the words of ``plan --json``, and why; the optimizer, which is long, comes last."""
    reasons = plan.reasons
    average = plan.phases[0].ema_decay
    options = ", ".join(f"{name} {text}" for name, text in built_with(plan.optimizer).items())
    return [
        ("world_size", plural(plan.world_size, "worker"), _sizes(plan, job)),
        ("global_batch_size", plural(plan.global_batch_size, "sample"), reasons["global_batch_size"]),
        ("per_worker_batch_size", plural(plan.per_worker_batch_size, "sample"), "in one forward and backward, at most"),
        ("grad_accum_steps", number(plan.grad_accum_steps), "forwards and backwards in an optimizer step"),
        ("reference_batch_size", plural(plan.reference_batch_size, "sample"), "what the rate was tuned with"),
        ("base_lr", number(plan.base_lr), "the rate that was tuned"),
        ("batch_ratio", f"{number(plan.batch_ratio)}x", reasons["batch_ratio"]),
        ("rule", plan.rule, plan.rule_reason),
        ("lr_ratio", f"{number(plan.lr_ratio)}x", reasons["lr_ratio"]),
        ("peak_lr", number(plan.peak_lr), reasons["peak_lr"]),
        ("schedule", plan.schedule.shape.name, reasons["schedule"]),
        ("warmup_samples", _samples(plan, plan.warmup_samples, plan.warmup_steps), reasons["warmup_samples"]),
        ("num_samples", plural(plan.num_samples, "sample"), "the training set"),
        ("total_samples", _samples(plan, plan.total_samples, plan.total_steps), reasons["total_samples"]),
        ("steps_per_epoch", plural(plan.steps_per_epoch, "step"), reasons["steps_per_epoch"]),
        ("eval_every_samples", plural(plan.eval_every_samples, "sample"), "how often it is evaluated"),
        _cadence(plan, job),
        *_rewarmup(plan, job),
        *([("ema_decay", number(average, 6), average_reason(plan))] if average is not None else []),
        *(("reacts", name, reason) for name, reason in reactions(plan)),
        ("optimizer", f"{plan.optimizer['name']}, {options}", reasons["optimizer"]),
    ]


def _sizes(plan: Plan, job: Job | None) -> str:
    return resizes(job) if job is not None and can_resize(plan, job) else "as asked for"


def _cadence(plan: Plan, job: Job | None) -> tuple[str, str, str]:
    """How often a checkpoint is written, by samples or by time, and which are kept."""
    which = kept(job)[1] if job is not None else "how often it is kept"
    if plan.checkpoint_every_samples is None:
        return "checkpoint_every_s", seconds(plan.checkpoint_every_s), which
    return "checkpoint_every_samples", plural(plan.checkpoint_every_samples, "sample"), which


def _rewarmup(plan: Plan, job: Job | None) -> list[tuple[str, str, str]]:
    """The climb after a resize, where one can raise the rate."""
    climb = rewarmup(plan, job) if job is not None else None
    return [("rewarmup_samples", plural(plan.rewarmup_samples, "sample"), climb[1])] if climb is not None else []


def _samples(plan: Plan, samples: int, steps: int) -> str:
    return f"{plural(samples, 'sample')} ({plural(steps, 'step')}{or_more(plan) if samples else ''})"


# Charts


def _charts(plans: Sequence[Plan], clock: Sequence[int]) -> tuple[PlanChart, ...]:
    """The rate, and the momentum where a schedule moves it; more plans than one chart can take have several."""
    by_rule: dict[str, list[Plan]] = {}
    for plan in plans:
        by_rule.setdefault(plan.rule if len(plans) > MOST_LINES else "", []).append(plan)
    parts = [
        (rule, mine[start : start + MOST_LINES])
        for rule, mine in by_rule.items()
        for start in range(0, len(mine), MOST_LINES)
    ]
    found = []
    for id, title, read in (("lr", "Learning rate", Plan.whole_step_lr_at), ("momentum", "Momentum", Plan.momentum_at)):
        for index, (rule, part) in enumerate(parts):
            names = labels(part) if len(plans) > 1 else [title.lower()]
            values = [_values(plan, read, clock) for plan in part]
            lines = tuple(
                PlanCurve(label=name, style=f"plan-{place}", values=curve, sentence=_sentence(name, clock, curve))
                for place, (name, curve) in enumerate(zip(names, values, strict=True))
                if curve[0] is not None
            )
            found.append(PlanChart(id=f"{id}-{index}", title=f"{title}, {rule}" if rule else title, lines=lines))
    return tuple(chart for chart in found if chart.lines)


def _values(plan: Plan, read: Read, clock: Sequence[int]) -> tuple[float | None, ...]:
    """What a plan says at each place, to six digits."""
    found = (read(plan, at) if at <= plan.total_samples else None for at in clock)
    return tuple(None if value is None else float(f"{value:.6g}") for value in found)


def _sentence(label: str, clock: Sequence[int], values: Sequence[float | None]) -> str:
    """A curve in words."""
    points = [(value, at) for at, value in zip(clock, values, strict=True) if value is not None]
    least, greatest = min(points), max(points, key=lambda point: point[0])
    return (
        f"{label}: from {number(points[0][0])} to {number(points[-1][0])}; least {number(least[0])} at "
        f"{plural(least[1], 'sample')}, greatest {number(greatest[0])} at {plural(greatest[1], 'sample')}."
    )


def _data(plans: Sequence[Plan], charts: Sequence[PlanChart], clock: Sequence[int]) -> dict[str, Any]:
    """What chart.js draws; where the batch of a single plan changes there is a mark."""
    phases = plans[0].phases[1:] if len(plans) == 1 else ()
    return {
        "clocks": {"steps": clock, "evals": []},
        "markers": [
            {"samples_seen": phase.start_samples, "label": f"batch {phase.global_batch_size:,}", "kind": "batch"}
            for phase in phases
        ],
        "charts": [
            {
                "id": chart.id,
                "lines": [
                    {"label": line.label, "clock": "steps", "style": line.style, "values": line.values}
                    for line in chart.lines
                ],
            }
            for chart in charts
        ],
    }
