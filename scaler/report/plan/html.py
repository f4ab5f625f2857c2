"""Render plans as one HTML file: curves, every number with its reason, the batch and the groups.

This module computes no number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaler.core.mesh import sizes_text
from scaler.job import Job
from scaler.plan import Phase, Plan
from scaler.report.page.chart import SERIES, Chart, ChartSet, Line, Mark, samples_axis, sentence
from scaler.report.page.parts import Cell, Column, Table, Tile, explained
from scaler.report.page.shell import render_page
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.plan.estimate_text import estimate_rows
from scaler.report.plan.format import (
    average_reason,
    can_resize,
    constants,
    group_heads,
    group_name,
    group_row,
    kept,
    length_reason,
    memory,
    micro_steps,
    of_its_own,
    or_more,
    phase_heads,
    phase_row,
    reactions,
    resizes,
    rewarmup,
    steps_text,
    trains,
    varying,
)
from scaler.report.plan.variants import Refused, among, curve_places, labels
from scaler.report.text.format import amount, number, optimizer_options, option, plural, ratio, seconds

CURVE_POINTS = 800  # shared by the curves of a page

Read = Callable[[Plan, int], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanPart:
    """What the page shows of one plan."""

    label: str
    summary: str
    plan: Plan
    tables: tuple[tuple[str, Table], ...]  # with their headings


def render_plan_html(
    outcomes: Sequence[Plan | Refused], *, job: Job | None = None, estimates: Sequence[PlanEstimate | None] = ()
) -> str:
    """Return plans as one HTML document, readable offline, on paper and without its scripts.

    Args:
        outcomes: plans of one job, at least one, and refused combinations.
        job: with it, the page shows which checkpoints are kept and what a resize does.
        estimates: one for each plan, without the refused combinations; empty: nothing is known of any.
    """
    plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    is_single = len(outcomes) == 1
    return render_page(
        "plan.html.j2",
        kind="plan" if is_single else "plans",
        subject="Plan of a job" if is_single else "Plans of a job",
        title=plans[0].name,
        headline=_headline(outcomes, plans),
        charts=_charts(plans),
        is_single=is_single,
        tiles=_tiles(plans[0]),
        outcomes=_outcomes(outcomes, plans[0]),
        rules={plan.rule: plan.rule_reason for plan in plans},
        plans=[
            _part(plan, label, job, estimate, index)
            for index, (plan, label, estimate) in enumerate(
                zip(plans, labels(plans), estimates or [None] * len(plans), strict=True)
            )
        ],
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
        f"{number(plan.lr_ratio)} times its learning rate",
        f"{plural(plan.total_steps, 'step')}{or_more(plan)}",
    )
    return " · ".join(parts)


def _tiles(plan: Plan) -> list[Tile]:
    reasons = plan.reasons
    training = f"{plural(plan.total_steps, 'step')}{or_more(plan)}"
    return [
        Tile(name="peak lr", value=option(plan.peak_lr), note=reasons["peak_lr"]),
        Tile(name="global batch", value=plan.units.number(plan.global_batch_size), note=reasons["global_batch_size"]),
        Tile(name="warmup", value=plural(plan.warmup_steps, "step"), note=reasons["warmup_samples"]),
        Tile(name="training", value=training, note=length_reason(plan)),
    ]


# Several plans


def _outcomes(outcomes: Sequence[Plan | Refused], first: Plan) -> Table:
    """A row for each plan and each refused combination."""
    heads = ("global batch", "micro-steps", "batch ratio", "lr ratio", "peak lr", "warmup steps", "steps", "warnings")
    reference = f"batch {first.units.number(first.reference_batch_size)}, learning rate {option(first.base_lr)}"
    return Table(
        id="outcomes",
        caption=f"One job, each time planned from the same reference: {reference}.",
        columns=(
            Column(title="workers"),
            Column(title="rule", is_text=True),
            *(Column(title=title) for title in heads),
        ),
        rows=tuple(
            _plan_row(outcome) if isinstance(outcome, Plan) else _refused_row(outcome, span=len(heads))
            for outcome in outcomes
        ),
    )


def _plan_row(plan: Plan) -> tuple[str, ...]:
    return (
        number(plan.world_size),
        plan.rule,
        plan.units.number(plan.global_batch_size),
        micro_steps(plan, plan.units),
        ratio(plan.batch_ratio),
        ratio(plan.lr_ratio),
        option(plan.peak_lr),
        number(plan.warmup_steps),
        steps_text(plan),
        number(len(plan.warnings)) if plan.warnings else "",
    )


def _refused_row(refused: Refused, *, span: int) -> tuple[Cell | str, ...]:
    workers = "" if refused.workers is None else number(refused.workers)
    reason = f"{refused.problem} {refused.remedy}".rstrip()
    return workers, refused.rule or "", Cell(text="Refused", note=reason, style="bad", span=span, is_text=True)


# One plan


def _part(plan: Plan, label: str, job: Job | None, estimate: PlanEstimate | None, index: int) -> PlanPart:
    summary = f"batch {plan.units.number(plan.global_batch_size)}, peak lr {option(plan.peak_lr)}"
    if plan.warnings:
        summary += f", {plural(len(plan.warnings), 'warning')}"
    names = "those of scaler plan --json"
    if plan.units.is_tokens:
        names += f", which counts samples: of {plan.tokens_per_sample:,} tokens at the start"
    caption = f"The plan of the job on {plural(plan.world_size, 'worker')}, each number with its reason. The names are "
    tables = [("Numbers", explained(f"numbers-{index}", f"{caption}{names}.", _rows(plan, job)))]
    known = estimate_rows(estimate)
    if known:
        about = "What finished runs and experiments of this job show."
        tables.insert(0, ("From finished runs", explained(f"estimate-{index}", about, known)))
    if plan.groups:
        tables.insert(0, ("Groups", _group_table(plan, f"groups-{index}")))
    if len(plan.phases) > 1:
        tables.insert(0, ("Batch", _phase_table(plan, f"batch-{index}")))
    return PlanPart(label=label, summary=summary, plan=plan, tables=tuple(tables))


def _rows(plan: Plan, job: Job | None) -> list[tuple[str, str, str]]:
    """Every number, named as in ``plan --json``, with its reason; the optimizer, which is long, is last."""
    reasons = plan.reasons
    average = plan.phases[0].ema_decay
    options, size = optimizer_options(plan.optimizer), plan.units.plural
    return [
        ("world_size", plural(plan.world_size, "worker"), _sizes(plan, job)),
        *([("mesh", sizes_text(plan.mesh), reasons["mesh"])] if "mesh" in reasons else []),
        ("global_batch_size", size(plan.global_batch_size), reasons["global_batch_size"]),
        (
            "per_worker_batch_size",
            size(plan.per_worker_batch_size),
            "at most, in one forward and backward of a worker",
        ),
        ("grad_accum_steps", number(plan.grad_accum_steps), "forwards and backwards in an optimizer step"),
        ("reference_batch_size", size(plan.reference_batch_size), "the batch of the tuned learning rate"),
        ("base_lr", option(plan.base_lr), "the tuned learning rate"),
        ("batch_ratio", ratio(plan.batch_ratio), reasons["batch_ratio"]),
        ("rule", plan.rule, plan.rule_reason),
        ("lr_ratio", ratio(plan.lr_ratio), reasons["lr_ratio"]),
        ("peak_lr", option(plan.peak_lr), reasons["peak_lr"]),
        *_weight_decay(plan),
        ("schedule", plan.schedule.shape.name, reasons["schedule"]),
        ("warmup_samples", _samples(plan, size(plan.warmup_samples), plan.warmup_steps), reasons["warmup_samples"]),
        ("num_samples", size(plan.num_samples), "the training set"),
        (
            "total_samples",
            _samples(plan, amount(plan.units.at(plan.total_samples), plan.unit), plan.total_steps),
            reasons["total_samples"],
        ),
        *([("total_steps", steps_text(plan), reasons["total_steps"])] if "total_steps" in reasons else []),
        ("steps_per_epoch", plural(plan.steps_per_epoch, "step"), reasons["steps_per_epoch"]),
        ("eval_every_samples", size(plan.eval_every_samples), "between two evaluations"),
        _cadence(plan, job),
        *_rewarmup(plan, job),
        *([("ema_decay", option(average), average_reason(plan))] if average is not None else []),
        *([("memory", *memory(plan))] if "memory" in reasons else []),
        *(("reacts", name, reason) for name, reason in reactions(plan)),
        (
            "optimizer",
            f"{plan.optimizer['name']}, {options}",
            "; ".join(filter(None, (reasons["optimizer"], trains(plan.tensors)))),
        ),
        *((f"optimizers.{own.name}", *of_its_own(plan, own)) for own in plan.optimizers),
    ]


def _weight_decay(plan: Plan) -> list[tuple[str, str, str]]:
    timescale = plan.weight_decay_timescale
    if timescale is None:
        return []
    name = "weight_decay_timescale"
    return [(name, plan.units.plural(round(timescale)), plan.reasons[name])]


def _sizes(plan: Plan, job: Job | None) -> str:
    return resizes(job) if job is not None and can_resize(plan, job) else "as requested"


def _cadence(plan: Plan, job: Job | None) -> tuple[str, str, str]:
    """How often a checkpoint is written, in samples or in seconds, and which checkpoints are kept."""
    which = kept(job)[1] if job is not None else "between two checkpoints"
    if plan.checkpoint_every_samples is None:
        return "checkpoint_every_s", seconds(plan.checkpoint_every_s), which
    return "checkpoint_every_samples", plan.units.plural(plan.checkpoint_every_samples), which


def _rewarmup(plan: Plan, job: Job | None) -> list[tuple[str, str, str]]:
    """The warmup after a resize that raises the learning rate."""
    climb = rewarmup(plan, job) if job is not None else None
    return [("rewarmup_samples", plan.units.plural(plan.rewarmup_samples), climb[1])] if climb is not None else []


def _samples(plan: Plan, length: str, steps: int) -> str:
    return f"{length} ({plural(steps, 'step')}{or_more(plan) if steps else ''})"


def _phase_table(plan: Plan, id: str) -> Table:
    """A row for each batch size, with the constants that change with it."""
    names = varying(plan.phases)
    return Table(
        id=id,
        caption=f"{plural(len(plan.phases), 'batch size')}, each from the first step that begins at or after its "
        f"{plan.units.one}. The rule computes the learning rate and the constants, always from the reference.",
        columns=tuple(Column(title=title) for title in (*phase_heads(plan), *names)),
        rows=tuple((*phase_row(plan, phase), *(constants(phase)[name] for name in names)) for phase in plan.phases),
    )


def _group_table(plan: Plan, id: str) -> Table:
    """A row for each group of parameters."""
    total = sum(group.num_parameters for group in plan.groups)
    return Table(
        id=id,
        caption=f"{plural(total, 'parameter')} in groups. The parameters of a group share the learning rate, the "
        f"weight decay and the {plan.units.one} from which they are trained. The peak lr is for the first batch size.",
        columns=(Column(title="name", is_text=True), *(Column(title=title) for title in group_heads(plan))),
        rows=tuple((Cell(text=group_name(group), style="code"), *group_row(plan, group)) for group in plan.groups),
    )


# Charts


def _charts(plans: Sequence[Plan]) -> ChartSet:
    """The learning rate, and the momentum if the schedule changes it; many plans have several charts."""
    clock = sorted({at for plan in plans for at in curve_places(plan, CURVE_POINTS // len(plans))})
    by_rule: dict[str, list[Plan]] = {}
    for plan in plans:
        by_rule.setdefault(plan.rule if len(plans) > SERIES else "", []).append(plan)
    parts = [
        (rule, mine[start : start + SERIES]) for rule, mine in by_rule.items() for start in range(0, len(mine), SERIES)
    ]
    charts = []
    units, unit = plans[0].units, plans[0].unit  # the plans of a page are of one job
    places = [units.at(at) for at in clock]
    for id, title, read in (("lr", "Learning rate", Plan.whole_step_lr_at), ("momentum", "Momentum", _momentum)):
        for index, (rule, part) in enumerate(parts):
            names = labels(part) if len(plans) > 1 else [title.lower()]
            lines = tuple(
                Line(label=name, clock="steps", style=f"series-{place}", values=_values(plan, read, clock))
                for place, (name, plan) in enumerate(zip(names, part, strict=True))
            )
            lines = tuple(line for line in lines if line.values[0] is not None)
            charts.append(_chart(f"{id}-{index}", f"{title}, {rule}" if rule else title, lines, places, unit))
    phases = plans[0].phases[1:] if len(plans) == 1 else ()
    return ChartSet(
        charts=tuple(chart for chart in charts if chart.lines),
        axes=(samples_axis({"steps": places}, unit=unit),),
        marks=tuple(
            Mark(at={"samples": units.at(phase.start_samples)}, label=_mark(plans[0], phase), style="dotted")
            for phase in phases
        ),
    )


def _momentum(plan: Plan, samples_seen: int) -> float | None:
    return plan.momentum_at(plan.progress_at(samples_seen))


def _mark(plan: Plan, phase: Phase) -> str:
    """What changes where a phase begins."""
    if not plan.is_constant_length:
        return f"{number(phase.tokens_per_sample)} tokens a sample"
    return f"batch {plan.units.number(phase.global_batch_size, at=phase.start_samples)}"


def _chart(id: str, title: str, lines: tuple[Line, ...], places: Sequence[int], unit: str) -> Chart:
    sentences = tuple(sentence(line.label, places, line.values, unit=unit) for line in lines)
    return Chart(id=id, title=title, lines=lines, sentences=sentences, is_wide=True)


def _values(plan: Plan, read: Read, clock: Sequence[int]) -> tuple[float | None, ...]:
    """A plan's values at each place, to six digits; None after the plan's end."""
    found = (read(plan, at) if at <= plan.total_samples else None for at in clock)
    return tuple(None if value is None else float(f"{value:.6g}") for value in found)
