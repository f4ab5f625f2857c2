"""A batch that grows where the schedule lowers the learning rate: its size at a point, and where it changes next."""

from bisect import bisect_left

from scaler.core.schedules import Schedule


def batch_instead_of_decay(schedule: Schedule, samples_seen: float, *, first: int, most: int) -> int:
    """Return the batch that replaces the fall of the learning rate so far.

        batch = first / factor, rounded and at most ``most``; during the warmup ``first``

    With ``lr = peak_lr(batch) * factor`` this is Seesaw if the rule is the square root: where a schedule divides the
    learning rate by a, the batch is a times as large and the learning rate is divided by sqrt(a). If the rule is
    linear, it is Smith et al.: the learning rate stays, and the batch is a times as large.

    Args:
        schedule: one that never rises after its warmup.
        samples_seen: samples in the weights.
        first: batch at the peak, in samples per step.
        most: largest batch, in samples per step, >= ``first``.

    Sources:
        Meterez et al. 2025 (Seesaw), https://arxiv.org/abs/2510.14717; Smith et al. 2018,
        https://arxiv.org/abs/1711.00489.

    Example:
        >>> from scaler.core.decays import Linear
        >>> line = Schedule(shape=Linear(length=400))
        >>> [batch_instead_of_decay(line, s, first=32, most=256) for s in (0, 200, 300, 390, 400)]
        [32, 64, 128, 256, 256]
    """
    if samples_seen < schedule.warmup_samples:
        return first
    factor = schedule.factor(samples_seen)
    return round(first / factor) if factor * most > first else most


def next_growth(
    schedule: Schedule, *, batch: int, first: int, most: int, growth: float, start: int, stop: int
) -> int | None:
    """Return where the batch should grow next, in samples; None: nowhere before ``stop``.

    It is the first point at which ``batch_instead_of_decay`` is ``growth`` times the present batch, or ``most``.

    Args:
        schedule: one that never rises after its warmup.
        batch: the present batch, in samples per step.
        first: batch at the peak.
        most: largest batch.
        growth: least factor from one batch to the next, > 1.
        start: first point to look at, in samples.
        stop: end of the search, in samples.

    Example:
        >>> from scaler.core.decays import Linear
        >>> line = Schedule(shape=Linear(length=400))
        >>> [next_growth(line, batch=b, first=32, most=100, growth=2.0, start=0, stop=400) for b in (32, 64, 100)]
        [199, 272, None]
    """
    if batch >= most:
        return None
    wanted = min(max(growth * batch, batch + 1), most)

    def is_there(samples: int) -> bool:
        return batch_instead_of_decay(schedule, samples, first=first, most=most) >= wanted

    places = range(start, stop)
    found = bisect_left(places, True, key=is_there)
    return places[found] if found < len(places) else None
