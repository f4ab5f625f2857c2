"""Where each optimizer step begins, in samples, and how many samples it takes.

The samples of an epoch are divided into steps of ``global_batch_size``. The last ones may be fewer than a batch (the
rest). ``last_batch`` decides how they are used:

    scale   the rest is a step of its own, with the learning rate and constants for its size
    drop    the rest is skipped; ``samples_seen`` counts it, so that an epoch has the same length at every batch size
    carry   the rest and the first samples of the next epoch are one step

With ``scale`` and ``carry`` each sample is used exactly once per epoch.
"""

from math import ceil
from typing import Literal

LastBatch = Literal["scale", "drop", "carry"]


def step_size(
    samples_seen: int, *, global_batch_size: int, num_samples: int, total_samples: int, last_batch: LastBatch
) -> int:
    """Return how many samples the step that starts after ``samples_seen`` samples takes, over all workers.

    0: training has ended. With ``drop``, ``samples_seen`` must be the beginning of a step (``next_step``).

    Example:
        >>> [step_size(s, global_batch_size=4, num_samples=10, total_samples=13, last_batch="scale")
        ...  for s in (0, 4, 8, 10, 13)]
        [4, 4, 2, 3, 0]
        >>> [step_size(s, global_batch_size=4, num_samples=10, total_samples=13, last_batch="carry")
        ...  for s in (0, 4, 8, 12, 13)]
        [4, 4, 4, 1, 0]
    """
    left = total_samples - samples_seen
    if last_batch != "carry":
        left = min(left, num_samples - samples_seen % num_samples)
    return max(0, min(global_batch_size, left))


def next_step(
    samples_seen: int, *, global_batch_size: int, num_samples: int, total_samples: int, last_batch: LastBatch
) -> int:
    """Return where the next step begins: ``samples_seen``, or with ``drop`` the end of a rest that is skipped.

    Example:
        >>> [next_step(s, global_batch_size=4, num_samples=10, total_samples=13, last_batch="drop") for s in (4, 8)]
        [4, 13]
    """
    if last_batch != "drop":
        return samples_seen
    while samples_seen < total_samples:
        end = min(total_samples, (samples_seen // num_samples + 1) * num_samples)
        if end - samples_seen >= global_batch_size:
            break
        samples_seen = end
    return samples_seen


def steps_between(start: int, stop: int, *, global_batch_size: int, num_samples: int, last_batch: LastBatch) -> int:
    """Return how many optimizer steps begin in [``start``, ``stop``), the first at ``start``.

    Example:
        >>> [steps_between(6, s, global_batch_size=3, num_samples=10, last_batch="scale") for s in (6, 7, 10, 13)]
        [0, 1, 2, 3]
        >>> [steps_between(0, s, global_batch_size=3, num_samples=10, last_batch="drop") for s in (9, 10, 11)]
        [3, 3, 4]
    """
    if last_batch == "carry":
        return ceil((stop - start) / global_batch_size)
    epoch_end = (start // num_samples + 1) * num_samples
    first = _fitting(start, global_batch_size, num_samples, last_batch)
    if stop < epoch_end:
        return min(ceil((stop - start) / global_batch_size), first)
    epochs, rest = divmod(stop - epoch_end, num_samples)
    in_epoch = _fitting(0, global_batch_size, num_samples, last_batch)
    return first + epochs * in_epoch + min(ceil(rest / global_batch_size), in_epoch)


def next_step_start(at: int, *, start: int, global_batch_size: int, num_samples: int, last_batch: LastBatch) -> int:
    """Return where the first step at or after ``at`` samples begins, when steps are taken from ``start`` on.

    Example:
        >>> [next_step_start(s, start=0, global_batch_size=4, num_samples=10, last_batch="scale")
        ...  for s in (0, 1, 8, 9, 13)]
        [0, 4, 8, 10, 14]
        >>> [next_step_start(s, start=0, global_batch_size=4, num_samples=10, last_batch="drop") for s in (4, 5, 9)]
        [4, 10, 10]
    """
    if at <= start:
        return start
    if last_batch == "carry":
        return start + ceil((at - start) / global_batch_size) * global_batch_size
    epoch = at // num_samples * num_samples
    origin = max(start, epoch)  # steps of this epoch are counted from here
    steps = ceil((at - origin) / global_batch_size)
    fits = steps < _fitting(origin, global_batch_size, num_samples, last_batch)
    return origin + steps * global_batch_size if fits else epoch + num_samples


def last_step_start(total: int, *, start: int, global_batch_size: int, num_samples: int, last_batch: LastBatch) -> int:
    """Return where the last step of a training of ``total`` samples begins, when steps are taken from ``start`` on.

    Example:
        >>> [last_step_start(20, start=0, global_batch_size=6, num_samples=10, last_batch=name)
        ...  for name in ("scale", "drop", "carry")]
        [16, 10, 18]
    """
    if last_batch == "carry":
        return start + (ceil((total - start) / global_batch_size) - 1) * global_batch_size
    epoch = (total - 1) // num_samples * num_samples
    origin = max(epoch, start)
    if last_batch == "scale":
        return origin + (ceil((total - origin) / global_batch_size) - 1) * global_batch_size
    steps = (total - origin) // global_batch_size
    if steps:
        return origin + (steps - 1) * global_batch_size
    before = origin - num_samples  # the last epoch has no step
    return max(start, before + (num_samples // global_batch_size - 1) * global_batch_size)


def samples_in(steps: int, *, global_batch_size: int, num_samples: int, last_batch: LastBatch) -> int:
    """Return ``samples_seen`` after the first ``steps`` optimizer steps; the inverse of ``steps_between`` from 0.

    Example:
        >>> [samples_in(s, global_batch_size=4, num_samples=10, last_batch="scale") for s in (0, 1, 3, 4)]
        [0, 4, 10, 14]
        >>> [samples_in(s, global_batch_size=4, num_samples=10, last_batch="drop") for s in (0, 1, 2, 3)]
        [0, 4, 10, 14]
    """
    if last_batch == "carry":
        return steps * global_batch_size
    epochs, rest = divmod(steps, _fitting(0, global_batch_size, num_samples, last_batch))
    return epochs * num_samples + rest * global_batch_size


def _fitting(start: int, global_batch_size: int, num_samples: int, last_batch: LastBatch) -> int:
    """Return how many steps begin between ``start`` and the end of its epoch; not for ``carry``."""
    left = num_samples - start % num_samples
    if last_batch == "drop":
        return left // global_batch_size
    return ceil(left / global_batch_size)
