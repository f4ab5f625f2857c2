"""Lengths of training in any unit, as samples."""

from dataclasses import dataclass

from scaler.core.steps import LastBatch, samples_in
from scaler.job.section import Length


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Turns lengths into samples.

    A length in steps means steps of the planned global batch, unless the job is elastic: there it means steps of the
    reference, so that it is the same number of samples at every number of workers.

    Args:
        global_batch_size: of the start of training.
        reference_batch_size: of the reference.
        is_elastic: whether the number of workers may change.
        num_samples: size of the training set; what an epoch counts as.
        last_batch: what becomes of the rest of an epoch.
        total_samples: length of the training; what a fraction is of. None where it is not known yet.
    """

    global_batch_size: int
    reference_batch_size: int
    is_elastic: bool
    num_samples: int
    last_batch: LastBatch
    total_samples: int | None = None

    def samples(self, length: Length) -> int:
        """Return a length in samples, 0 for a length of 0; steps are walked, so that short last batches count."""
        if length.samples is not None:
            return length.samples
        if length.steps is not None:
            if self.is_elastic:
                return length.steps * self.reference_batch_size
            return samples_in(
                length.steps,
                global_batch_size=self.global_batch_size,
                num_samples=self.num_samples,
                last_batch=self.last_batch,
            )
        fraction = getattr(length, "fraction", None)
        if fraction is not None:
            assert self.total_samples is not None
            return round(float(fraction) * self.total_samples)
        return max(1, round(length.epochs * self.num_samples)) if length.epochs else 0

    def stretch(self, length: Length) -> int:
        """Return an interval in samples, at least 1; a step counts as a whole batch, wherever it is taken."""
        steps = length.steps
        return max(1, steps * self._step_samples() if steps is not None else self.samples(length))

    def of_reference(self, length: Length) -> int:
        """Return a length of the reference in samples, at least 1: its steps have its batch."""
        steps = length.steps
        return max(1, steps * self.reference_batch_size if steps is not None else self.samples(length))

    def cadence(self, length: Length) -> int:
        """Return how often something happens that does not change the training, in samples: steps are those taken."""
        steps = length.steps
        return max(1, steps * self.global_batch_size) if steps is not None else self.stretch(length)

    def shown(self, length: Length, *, is_stretch: bool = False) -> str:
        """Return a length as people say it, and in samples where its steps may be read in two ways.

        Example:
            >>> lengths = Lengths(global_batch_size=256, reference_batch_size=16, is_elastic=False, num_samples=10**6,
            ...                   last_batch="scale")
            >>> lengths.shown(Length(steps=500))
            '500 steps (steps of 256: 128,000 samples; of the reference: 8,000)'
        """
        return f"{written(length)}{self.both_readings(length, is_stretch=is_stretch)}"

    def both_readings(self, length: Length, *, is_stretch: bool = False) -> str:
        """Return both readings of a length in steps, in parentheses; nothing where they are the same.

        Args:
            length: of the job.
            is_stretch: whether it is taken as ``stretch`` takes it.
        """
        steps = length.steps
        if steps is None or self.global_batch_size == self.reference_batch_size:
            return ""
        planned = steps * self.global_batch_size if is_stretch or self.is_elastic else self.samples(length)
        reference = steps * self.reference_batch_size
        if self.is_elastic:
            return f" (steps of the reference: {reference:,} samples; of {self.global_batch_size:,}: {planned:,})"
        return f" (steps of {self.global_batch_size:,}: {planned:,} samples; of the reference: {reference:,})"

    def _step_samples(self) -> int:
        return self.reference_batch_size if self.is_elastic else self.global_batch_size


def written(length: Length) -> str:
    """Return a length as people say it.

    Example:
        >>> from scaler.job.section import Length
        >>> written(Length(epochs=2))
        '2 epochs'
    """
    units = ("epochs", "steps", "samples", "fraction")
    unit, value = next((unit, getattr(length, unit)) for unit in units if getattr(length, unit, None) is not None)
    if unit == "fraction":
        return f"{value:.4g} of the training"
    return f"{value:g} {unit[:-1] if value == 1 else unit}"
