"""From the job's schedule to a function of samples."""

from dataclasses import replace

from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.rules import choose_rule
from scaler.core.scale import Scaled
from scaler.core.schedules import Schedule, Warmup
from scaler.core.shape import Shape
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Step
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job import schedule as asked
from scaler.plan.lengths import Lengths, written

AUTO_WARMUP = 5 / 90  # Goyal et al. 2017: 5 of 90 epochs

CLIMBS_ITSELF = (asked.Cyclical, asked.OneCycle)


def make_schedule(
    job: Job, scaled: Scaled, lengths: Lengths, *, last_step: int, rises: bool
) -> tuple[Schedule, str, str]:
    """Return the schedule in samples, the reason for the length of its warmup, and a text about its shape.

    Args:
        job: with the schedule and the reference's warmup.
        scaled: the ratios of the first batch: they give the start of the warmup, and LEGW's longer warmup.
        lengths: of the training.
        last_step: where the last step of the training begins, in samples.
        rises: whether the learning rate is scaled up at any number of workers that the job may get.

    Raises:
        PlanError: lengths that do not fit together, or a momentum that the rule and the shape both change.
    """
    wanted = job.schedule
    _require_one_momentum(wanted, scaled, by="scale.horizon" if job.scale.horizon else "scale.rule = adam_sde")
    tuned, tuned_reason = _reference_warmup(job, scaled, lengths)
    warmup, own_reason = _warmup(wanted, scaled, lengths, rises=rises)
    both = Schedule(shape=Constant(), warmup=warmup, reference_warmup=tuned)
    shape, shape_reason = _shape(wanted, both.warmup_samples, lengths, last_step)
    reason = _whole_warmup(both.warmup_samples, lengths, tuned=tuned_reason, own=own_reason)
    return replace(both, shape=shape), reason, shape_reason


def _whole_warmup(samples: int, lengths: Lengths, *, tuned: str, own: str) -> str:
    """Return the length of the whole warmup, the reference's part, and what scaler adds.

    Both parts begin with the training, and the longer one is the length of the whole.
    """
    if not tuned:
        reason = own
    elif not own:
        reason = f"{tuned}; none added"
    else:
        reason = f"{tuned}; {own.replace('none', 'none added', 1) if own.startswith('none') else f'added: {own}'}"
    size = f"{lengths.units.number(samples)} {lengths.units.many}"
    if not samples or reason.startswith(size):
        return reason
    longer = ", the longer of two" if tuned and own and not own.startswith("none") else ""
    return f"{size}{longer}: {reason}"


def _reference_warmup(job: Job, scaled: Scaled, lengths: Lengths) -> tuple[Warmup, str]:
    """Return the reference's warmup at the length that the rule gives it, and its reason."""
    tuned = job.reference.warmup
    if job.scale.rule == "auto":
        name = job.reference.optimizer.name
        legw = f"scale.rule = auto chose legw for {name}, which multiplies the reference's warmup by batch_ratio"
        other = ", or scale.rule: sqrt."
    else:
        legw, other = "scale.rule = legw multiplies the reference's warmup by batch_ratio", "."
    name = job.reference.optimizer.name
    legw_applies = choose_rule(job.scale.rule, optimizer=name, horizon=job.scale.horizon)[0] == "legw"
    if scaled.warmup_ratio != 1.0 and tuned is None:
        raise PlanError(
            f"{legw}, and reference.warmup is missing.",
            f"Give the warmup that the reference was tuned with: reference.warmup: {{epochs: ...}}{other}",
        )
    follows_workers = job.scale.is_elastic and job.scale.global_batch_size is None
    if legw_applies and follows_workers and job.scale.on_resize == "scale_with_batch":
        raise PlanError(
            f"{legw}, which changes with the number of workers: a resize would move the start of the schedule.",
            "Use scale.on_resize: hold_global_batch, or scale.rule: sqrt.",
        )
    own = job.schedule.warmup
    if (
        scaled.warmup_ratio != 1.0
        and isinstance(own, asked.Warmup)
        and any((own.epochs, own.steps, own.samples, own.tokens))
    ):
        raise PlanError(
            f"{legw}, and schedule.warmup adds a second warmup.",
            "Leave schedule.warmup out, and keep reference.warmup.",
        )
    if tuned is None:
        return Warmup(), ""
    ratio, by = scaled.warmup_ratio, "the rule"
    before = lengths.of_reference_training(job.reference) if job.scale.horizon else None
    if before is not None and tuned.fraction is None:
        assert lengths.total_samples is not None
        ratio, by = lengths.total_samples / before, "the horizon"
    samples = max(1, round(lengths.of_reference(tuned) * ratio))
    times = f" x {ratio:.4g} by {by}" if ratio != 1.0 else ""
    form = "" if tuned.shape == "linear" else f", {tuned.shape}"
    steps = f" of {lengths.units.number(lengths.reference_batch_size)} {lengths.units.many}" if tuned.steps else ""
    begins = f"{tuned.start:g} of the learning rate" if tuned.start else "0"
    text = f"the reference's {written(tuned)}{steps}{times}, from {begins}{form}"
    return Warmup(samples=samples, start=tuned.start, shape=tuned.shape), text


def _require_one_momentum(wanted: asked.Schedule, scaled: Scaled, *, by: str) -> None:
    cycles = isinstance(wanted, CLIMBS_ITSELF) and wanted.low_momentum is not None
    for name, who in (("eps", by), ("momentum", "scale.co_scale.momentum")):
        if cycles and name in scaled.constants:  # adam_sde scales eps and the first beta
            raise PlanError(
                f"schedule.low_momentum cycles the momentum, and {who} scales it.",
                f"Leave out low_momentum and high_momentum, or {who}.",
            )


def _warmup(wanted: asked.Schedule, scaled: Scaled, lengths: Lengths, *, rises: bool) -> tuple[Warmup, str]:
    """Return the climb from the reference's learning rate to the peak, and its reason."""
    assert lengths.total_samples is not None
    from_base = min(1.0, 1.0 / scaled.lr_ratio)
    if not isinstance(wanted.warmup, asked.Warmup):
        if scaled.warmup_ratio != 1.0:
            return Warmup(start=1.0), ""  # the reference's warmup is the only one
        if isinstance(wanted, CLIMBS_ITSELF):
            return Warmup(start=1.0), f"none (auto), because {wanted.name} has its own climb"
        if not rises:
            return Warmup(start=1.0), "none (auto), because the learning rate is not scaled up"
        samples = round(AUTO_WARMUP * lengths.total_samples)
        auto = "5/90 of the training (auto; Goyal et al. 2017), from reference.lr"
        return Warmup(samples=samples, start=from_base), auto
    warmup = wanted.warmup
    start = from_base if warmup.start == "base" else float(warmup.start)
    if start == 1.0:
        where = "no effect: it starts at reference.lr, which is the peak (the reference's warmup is reference.warmup)"
    elif isinstance(wanted, CLIMBS_ITSELF):
        where = f"from {start:g} of the learning rate at which {wanted.name} starts"
    else:
        where = "from reference.lr" if warmup.start == "base" else f"from {start:g} of the peak"
    samples = lengths.samples(warmup)
    if not samples:
        return Warmup(start=start, shape=warmup.shape), f"none, as schedule.warmup = {{{_setting(warmup)}}} says"
    form = "" if warmup.shape == "linear" else f", {warmup.shape}"
    is_counted = warmup.samples is not None or warmup.tokens is not None
    length = f"{lengths.units.number(samples)} {lengths.units.many}" if is_counted else written(warmup)
    reason = f"{length}{lengths.steps_of(warmup)}, {where}{form}"
    return Warmup(samples=samples, start=start, shape=warmup.shape), reason


def _setting(warmup: asked.Warmup) -> str:
    """Return a warmup of length 0 as the job file has it."""
    units = ("epochs", "steps", "samples", "tokens", "fraction")
    return next(f"{name}: {getattr(warmup, name):g}" for name in units if getattr(warmup, name) is not None)


def _shape(wanted: asked.Schedule, warmup_samples: int, lengths: Lengths, last_step: int) -> tuple[Shape, str]:
    """Return the shape and a text about it, which names differences from torch."""
    assert lengths.total_samples is not None
    length = max(lengths.total_samples - warmup_samples, 1)
    match wanted:
        case asked.Constant():
            return Constant(), "the peak learning rate to the end"
        case asked.Step(every=every, decay=decay):
            text = f"x {decay:g} every {lengths.shown(every, is_stretch=True)}, counted from the start of training"
            return Step(every=lengths.stretch(every), decay=decay), text
        case asked.MultiStep(at=at, decay=decay):
            text = f"x {decay:g} at {', '.join(map(lengths.shown, at))}, counted from the start of training"
            return MultiStep(at=tuple(lengths.samples(point) for point in at), decay=decay), text
        case asked.Exponential(every=every, decay=decay):
            interval = lengths.shown(every, is_stretch=True)
            text = f"x {decay:g} in {interval}, smoothly (torch's falls in steps, once per scheduler step)"
            return Exponential(every=lengths.stretch(every), decay=decay), text
        case asked.Linear(final_fraction=final):
            return Linear(length=length, final_fraction=final), f"a line from the end of the warmup to {_share(final)}"
        case asked.Polynomial(power=power, final_fraction=final):
            text = f"(1 - progress) to the power of {power:g}, to {_share(final)}"
            return Polynomial(length=length, power=power, final_fraction=final), text
        case asked.Cosine(final_fraction=final):
            text = f"half a cosine from the end of the warmup to {_share(final)}"
            return Cosine(length=length, final_fraction=final), text
        case asked.CosineRestarts(first=first, growth=growth, final_fraction=final):
            period = lengths.shown(first, is_stretch=True)
            longer = f", each {growth:g} times as long" if growth != 1.0 else ""
            text = f"half cosines to {final:g} of the peak after the warmup, the first {period}{longer}"
            return CosineRestarts(first=lengths.stretch(first), growth=growth, final_fraction=final), text
        case asked.Cyclical():
            return _cyclical(wanted, lengths)
        case asked.OneCycle():
            return _one_cycle(wanted, warmup_samples, lengths, last_step)
        case asked.Wsd(tail_length=tail_length, tail=tail, final_fraction=final):
            start = length - max(1, lengths.samples(tail_length))
            if start < 0:
                raise PlanError(
                    f"schedule.tail_length = {written(tail_length)} is {lengths.units.number(length - start, form='')} "
                    f"{lengths.units.many}, and the warmup leaves {lengths.units.number(length, form='')} of the "
                    "training.",
                    f"The most is {{{lengths.units.many}: {lengths.units.size(length)}}}.",
                )
            text = f"the peak, then a fall in the last {lengths.shown(tail_length)} to {_share(final)} ({tail})"
            return Wsd(decay_start=start, length=length, tail=tail, final_fraction=final), text
        case asked.InverseSqrt(timescale=timescale):
            samples = warmup_samples if timescale is None else lengths.stretch(timescale)
            if not samples:
                raise PlanError(
                    "schedule.timescale is missing, and there is no warmup whose length it could be.",
                    "Give schedule.timescale or schedule.warmup, such as {steps: 4000}.",
                )
            after = (
                f"{lengths.units.number(samples, form='')} {lengths.units.many}"
                if timescale is None
                else lengths.shown(timescale, is_stretch=True)
            )
            text = f"one over the root of the {lengths.units.many} after the warmup; 0.71 of the peak {after} after it"
            return InverseSqrt(timescale=samples), text


def _cyclical(wanted: asked.Cyclical, lengths: Lengths) -> tuple[Shape, str]:
    climb = lengths.stretch(wanted.climb)
    descent = climb if wanted.descent is None else lengths.stretch(wanted.descent)
    shape = Cyclical(
        climb=climb,
        descent=descent,
        low=wanted.low,
        mode=wanted.mode,
        decay=wanted.decay,
        low_momentum=wanted.low_momentum,
        high_momentum=wanted.high_momentum,
    )
    climbs = lengths.shown(wanted.climb, is_stretch=True)
    fading = f", x {wanted.decay:g} in a cycle (torch's gamma is of a step)" if wanted.mode == "exp_range" else ""
    text = f"{wanted.mode} between {wanted.low:g} of the peak and the peak, up in {climbs}{fading}"
    return shape, text


def _one_cycle(wanted: asked.OneCycle, warmup_samples: int, lengths: Lengths, last_step: int) -> tuple[Shape, str]:
    """Return the shape as torch counts: the climb's last step is at the peak, the training's last step at the end."""
    assert lengths.total_samples is not None
    fraction = wanted.climb.fraction
    whole = lengths.total_samples - warmup_samples
    climb = (
        round(fraction * whole) if fraction is not None else replace(lengths, total_samples=None).samples(wanted.climb)
    )
    if lengths.is_elastic:  # the last step begins elsewhere at each number of workers; the schedule must not move
        length = whole
    else:
        climb, length = max(climb - lengths.global_batch_size, 0), max(last_step - warmup_samples, 1)
    if climb >= length:
        raise PlanError(
            f"schedule.climb = {written(wanted.climb)} leaves no step for the descent.",
            "The peak must come before the last step. Usual is climb: {fraction: 0.3}.",
        )
    shape = OneCycle(
        climb=climb,
        length=length,
        start_fraction=wanted.start_fraction,
        final_fraction=wanted.final_fraction,
        anneal=wanted.anneal,
        low_momentum=wanted.low_momentum,
        high_momentum=wanted.high_momentum,
    )
    ends = f"from {wanted.start_fraction:.3g} to the peak in {lengths.shown(wanted.climb)}"
    return (
        shape,
        f"{ends}, then to {wanted.final_fraction:.3g} in the last step ({wanted.anneal}), counted as in torch",
    )


def _share(final: float) -> str:
    return f"{final:g} of the peak at the end" if final else "0 at the end"
