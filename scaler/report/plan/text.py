"""Render plans for a terminal of 80 columns: one plan with the reason of each number, several plans as a table."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.core.mesh import sizes_text
from scaler.job import Job
from scaler.plan import Plan
from scaler.plan.reasons import kappa_reason
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.plan.estimate_text import GOOD, estimate_rows, times_of
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
    settings_rows,
    steps_text,
    trains,
    used_text,
    varying,
)
from scaler.report.plan.variants import Case, Refused, among, curve_places, labels
from scaler.report.text.format import amount, number, optimizer_options, option, plural, printable, ratio

CURVE_POINTS = 800  # four in each column of dots
FEWEST_EPOCHS = 2.0  # a shorter training has an axis in the unit of the job


def plan_text(
    plan: Plan, *, job: Job | None = None, estimate: PlanEstimate | None = None, with_curve: bool = False
) -> RenderableType:
    """Return a plan for a terminal: each number with its reason, the phases, the groups and the warnings.

    Args:
        plan: to show.
        job: of the plan; with it, the text shows which checkpoints are kept and what a resize does.
        estimate: of the plan, if anything is known.
        with_curve: draw the learning rate over the training, and the momentum if the schedule changes it.
    """
    parts: list[RenderableType] = [_numbers(plan, job, estimate)]
    if len(plan.phases) > 1:
        parts.append(_titled(f"Batch, in {len(plan.phases):,} phases", _phases(plan)))
        names = varying(plan.phases)
        if names:
            parts.append(_titled("Other numbers that follow the batch", _constants(plan, names)))
    if plan.groups:
        total = sum(group.num_parameters for group in plan.groups)
        parts.append(_titled(f"Groups of {plural(total, 'parameter')}", _groups(plan)))
    if with_curve:
        parts += _curves([plan], [plan.name])
    warnings = [_warning(warning.code, f": {printable(warning.message)}") for warning in plan.warnings]
    title = Text.assemble(("Plan of ", ""), (printable(plan.name), "bold"))
    return Group(title, *_spaced(parts, warnings))


def plans_table(
    outcomes: Sequence[Plan | Refused],
    *,
    estimates: Sequence[PlanEstimate | None] = (),
    with_curve: bool = False,
) -> RenderableType:
    """Return several plans of one job as a table with a row for each.

    Args:
        outcomes: plans, at least one, and refused combinations, whose reasons are below the table.
        estimates: one for each plan, without the refused combinations; empty: nothing is known of any.
        with_curve: draw the learning rates in one chart; more than ``MOST_CURVES`` plans are not drawn.
    """
    from scaler.report.text.curves import MOST_CURVES

    plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    rules = {plan.rule: plan.rule_reason for plan in plans}
    has_rules = len({outcome.rule for outcome in outcomes}) > 1
    table = _table("workers", *(["rule"] if has_rules else []), "global batch", "micro-steps", "batch ratio")
    times = iter(times_of(estimates))
    has_times = bool(times_of(estimates))
    _columns(table, "peak lr", "warmup steps", "steps", *(["time"] if has_times else []))
    for outcome in outcomes:
        rule = [outcome.rule or ""] if has_rules else []
        if isinstance(outcome, Plan):
            table.add_row(number(outcome.world_size), *rule, *_row(outcome), *([next(times)] if has_times else []))
        else:
            workers = "" if outcome.workers is None else number(outcome.workers)
            table.add_row(workers, *rule, Text("refused", style="red"))
    parts: list[RenderableType] = [Padding(table, (0, 0, 0, 2))]
    if len(rules) > 1:
        parts.append(Padding(_grid(list(rules.items())), (0, 0, 0, 2)))
    if with_curve and len(plans) <= MOST_CURVES:
        parts += _curves(plans, labels(plans))
    title = Text.assemble("Plans of ", (printable(plans[0].name), "bold"))
    if len(rules) == 1:
        title.append(f"  {plans[0].rule_reason}")
    refusals = _refusals([outcome for outcome in outcomes if isinstance(outcome, Refused)], has_rules=has_rules)
    risks = [Text.assemble(("Risk ", "yellow"), (source, "bold"), f": {text}") for source, text in _risks(estimates)]
    return Group(title, *_spaced(parts, [*refusals, *_warnings(plans, has_rules=has_rules), *risks]))


# Parts of one plan


def _numbers(plan: Plan, job: Job | None, estimate: PlanEstimate | None) -> RenderableType:
    reasons = plan.reasons
    sizes = resizes(job) if job is not None and can_resize(plan, job) else ""
    rows = [
        ("workers", number(plan.world_size), sizes),
        *([("mesh", sizes_text(plan.mesh), reasons["mesh"])] if "mesh" in reasons else []),
        ("global batch", plan.units.number(plan.global_batch_size), reasons["global_batch_size"]),
        ("batch ratio", ratio(plan.batch_ratio), reasons["batch_ratio"]),
        ("lr ratio", ratio(plan.lr_ratio), plan.rule_reason),
        *_kappa(plan),
        ("peak lr", option(plan.peak_lr), reasons["peak_lr"]),
        ("warmup", plural(plan.warmup_steps, "step"), reasons["warmup_samples"]),
        ("schedule", plan.schedule.shape.name, reasons["schedule"]),
        (
            "training",
            plural(plan.total_steps, "step") + or_more(plan),
            length_reason(plan, amount(plan.units.at(plan.total_samples), plan.unit), used_text(plan)),
        ),
        ("epoch", plural(plan.steps_per_epoch, "step"), reasons["steps_per_epoch"]),
        ("optimizer", printable(_short(str(plan.optimizer["name"]))), printable(_optimizer(plan))),
        *((f"optimizer {own.name}", *of_its_own(plan, own)) for own in plan.optimizers),
    ]
    if plan.weight_decay_timescale is not None:
        timescale = plan.units.number(round(plan.weight_decay_timescale))
        rows.append(("wd timescale", timescale, f"{plan.units.many}, {reasons['weight_decay_timescale']}"))
    average = plan.phases[0].ema_decay
    if average is not None:
        rows.append(("average", option(average), average_reason(plan)))
    rows += [("memory", *memory(plan))] if "memory" in reasons else []
    rows += [("reacts to", name, reason) for name, reason in reactions(plan)]
    if job is not None:
        climb = rewarmup(plan, job)
        rows += settings_rows(job)
        rows += [("rewarmup", *climb)] if climb is not None else []
        often, which = kept(job)
        rows.append(("checkpoint", often, printable(which)))
    rows += [(name, value, printable(reason)) for name, value, reason in estimate_rows(estimate)]
    return Padding(_grid(rows), (0, 0, 0, 2))


def _kappa(plan: Plan) -> list[tuple[str, str, str]]:
    """The row of ``scale.horizon``: the ratio that the rule scales with."""
    reason = kappa_reason(plan)
    return [("kappa", ratio(plan.scaling.rule.kappa(plan.batch_ratio)), reason)] if reason else []


def _optimizer(plan: Plan) -> str:
    """The optimizer's options, and below them the reason."""
    name = str(plan.optimizer["name"])
    parts = [name if name != _short(name) else "", optimizer_options(plan.optimizer), plan.reasons["optimizer"]]
    parts.append(printable(trains(plan.tensors)))
    return "\n".join(filter(None, parts))


def _short(name: str) -> str:
    """The class in an optimizer's import path; a name that is no path stays."""
    return name.rpartition(":")[2]


def _phases(plan: Plan) -> RenderableType:
    table = _table(*phase_heads(plan))
    for phase in plan.phases:
        table.add_row(*phase_row(plan, phase))
    return table


def _constants(plan: Plan, names: Sequence[str]) -> RenderableType:
    table = _table(f"from {plan.units.one}", *names)
    for phase in plan.phases:
        values = constants(phase)
        table.add_row(plan.units.place(phase.start_samples), *(values[name] for name in names))
    return table


def _groups(plan: Plan) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # narrow, so that few names are folded
    table.add_column("name", overflow="fold")
    _columns(table, *group_heads(plan))
    for group in plan.groups:
        table.add_row(Text(printable(group_name(group))), *group_row(plan, group))
    return table


# Parts of several plans


def _row(plan: Plan) -> list[str]:
    return [
        plan.units.number(plan.global_batch_size),
        micro_steps(plan, plan.units),
        ratio(plan.batch_ratio),
        option(plan.peak_lr),
        number(plan.warmup_steps),
        steps_text(plan),
    ]


def _refusals(refused: Sequence[Refused], *, has_rules: bool) -> list[Text]:
    """Each reason once, with the combinations that it refuses."""
    reasons: dict[tuple[str, str], list[Case]] = {}
    for case in refused:
        cases = reasons.setdefault((case.problem, case.remedy), [])
        cases.append((case.workers, case.rule if has_rules else None))
    return [
        Text.assemble(("Refused ", "red"), (among(cases), "bold"), f": {printable(f'{problem} {remedy}'.rstrip())}")
        for (problem, remedy), cases in reasons.items()
    ]


def _risks(estimates: Sequence[PlanEstimate | None]) -> Sequence[tuple[str, str]]:
    """What speaks against plans, each once, with its source."""
    risks = [risk for estimate in estimates if estimate is not None for risk in estimate.risks]
    found = [(printable(risk.source), printable(risk.message)) for risk in risks if risk.verdict not in GOOD]
    return list(dict.fromkeys(found))


def _warnings(plans: Sequence[Plan], *, has_rules: bool) -> list[Text]:
    """Each code once, with the plans that have it."""
    codes: dict[str, list[Case]] = {}
    for plan in plans:
        for warning in plan.warnings:
            codes.setdefault(warning.code, []).append((plan.world_size, plan.rule if has_rules else None))
    return [_warning(code, f" with {among(cases)}") for code, cases in codes.items()]


def _warning(code: str, rest: str) -> Text:
    return Text.assemble(("Warning ", "yellow"), (code, "bold"), rest)


def _curves(plans: Sequence[Plan], names: Sequence[str]) -> list[RenderableType]:
    """The learning rates in one chart, and the momentum in another if a schedule changes it."""
    from scaler.report.text.curves import Curve, CurveChart

    in_epochs = all(plan.total_samples >= FEWEST_EPOCHS * plan.num_samples for plan in plans)
    over = "epochs" if in_epochs else plans[0].unit
    lrs, momenta = [], []
    for plan, name in zip(plans, names, strict=True):
        samples = curve_places(plan, CURVE_POINTS)
        places = [(at / plan.num_samples if in_epochs else plan.units.at(at), at) for at in samples]
        lrs.append(Curve(label=name, points=[(place, plan.whole_step_lr_at(at)) for place, at in places]))
        momentum = [(place, plan.momentum_at(plan.progress_at(at))) for place, at in places]
        momenta.append(Curve(label=name, points=[(at, value) for at, value in momentum if value is not None]))
    charts: list[RenderableType] = [CurveChart(title=f"Learning rate, over {over}", curves=lrs, low=0.0)]
    if all(curve.points for curve in momenta):
        charts.append(CurveChart(title=f"Momentum, over {over}", curves=momenta, rows=6))
    return charts


# Tables


def _grid(rows: Iterable[Sequence[str]]) -> Table:
    """Names, values and reasons, without a head row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    for index, row in enumerate(rows):
        if index == 0:
            for place in range(1, len(row)):
                last = place == len(row) - 1
                table.add_column(style="dim" if last else None, no_wrap=not last, overflow="fold")
        table.add_row(*(Text(cell) for cell in row))
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    _columns(table, *heads)
    return table


def _columns(table: Table, *heads: str) -> None:
    """Add columns of numbers. A head of two words takes two lines, so that the column is narrow."""
    for head in heads:
        table.add_column(head.replace(" ", "\n"), justify="left" if head == "rule" else "right", no_wrap=True)


def _titled(title: str, table: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), Padding(table, (0, 0, 0, 2)))


def _spaced(parts: Sequence[RenderableType], lines: Sequence[RenderableType]) -> list[RenderableType]:
    """Parts with a blank line between them, then lines without one."""
    blocks = [*parts, Group(*lines)] if lines else list(parts)
    return [Padding(block, (0, 0, 1, 0)) for block in blocks[:-1]] + blocks[-1:]
