"""The share of ``peak_lr`` to use, as a function of the samples seen."""

from math import cos, pi

from scaler.errors import PlanError


def warmup_factor(samples_seen: int, *, warmup_samples: int, start: float) -> float:
    """Return the share of ``peak_lr`` to use after ``samples_seen`` samples of a linear warmup.

        factor = start * (1 - t) + t, with t = samples_seen / warmup_samples   before the end, then 1

    Args:
        samples_seen: samples that have contributed to the weights, over all workers; 0 at the first step.
        warmup_samples: length of the climb in samples; 0 means none.
        start: share of ``peak_lr`` at the first step, in [0, 1].

    Raises:
        PlanError: ``start`` outside [0, 1] or ``warmup_samples`` negative.

    Sources:
        Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.2 (there ``start`` is 1 / lr_ratio).

    Example:
        >>> [warmup_factor(s, warmup_samples=400, start=0.2) for s in (0, 200, 400, 600)]
        [0.2, 0.6, 1.0, 1.0]
    """
    if not 0.0 <= start <= 1.0:
        raise PlanError(f"schedule.warmup.start = {start:g} is not in [0, 1].", "It is a share of peak_lr.")
    if warmup_samples < 0:
        raise PlanError(f"warmup_samples = {warmup_samples} is negative.", "0 means no warmup.")
    if samples_seen >= warmup_samples:
        return 1.0
    done = samples_seen / warmup_samples
    return start * (1.0 - done) + done


def cosine_factor(progress: float, *, final_fraction: float) -> float:
    """Return half a cosine from 1 at ``progress`` 0 to ``final_fraction`` at 1.

        factor = final_fraction + (1 - final_fraction) * (1 + cos(pi * progress)) / 2

    Args:
        progress: share of the way from the end of warmup to the end of training; clipped to [0, 1].
        final_fraction: share of ``peak_lr`` at the end, in [0, 1].

    Sources:
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5, one period.

    Example:
        >>> [round(cosine_factor(p, final_fraction=0.1), 12) for p in (0.0, 0.5, 1.0, 2.0)]
        [1.0, 0.55, 0.1, 0.1]
    """
    clipped = min(max(progress, 0.0), 1.0)
    return final_fraction + (1.0 - final_fraction) * (1.0 + cos(pi * clipped)) / 2.0


def schedule_factor(
    samples_seen: int,
    *,
    name: str,
    total_samples: int,
    warmup_samples: int,
    warmup_start: float,
    final_fraction: float,
) -> float:
    """Return the share of ``peak_lr`` for the step that starts after ``samples_seen`` samples.

    Warmup comes first; the schedule proper runs from its end to the end of training.

    Args:
        samples_seen: samples that have contributed to the weights, over all workers.
        name: ``constant`` or ``cosine``.
        total_samples: length of the training.
        warmup_samples: length of the warmup, 0 for none.
        warmup_start: share of ``peak_lr`` at the first step, in [0, 1].
        final_fraction: share of ``peak_lr`` at the end of training (``cosine``), in [0, 1].

    Raises:
        PlanError: an unknown name, or what ``warmup_factor`` refuses.

    Example:
        >>> [schedule_factor(s, name="cosine", total_samples=300, warmup_samples=100, warmup_start=0.5,
        ...                  final_fraction=0.0) for s in (0, 50, 100, 200, 300)]
        [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    if samples_seen < warmup_samples:
        return warmup_factor(samples_seen, warmup_samples=warmup_samples, start=warmup_start)
    match name:
        case "constant":
            return 1.0
        case "cosine":
            length = max(total_samples - warmup_samples, 1)
            return cosine_factor((samples_seen - warmup_samples) / length, final_fraction=final_fraction)
        case _:
            raise PlanError(f"schedule.name = {name} is not a schedule.", "Schedules: constant, cosine.")
