"""Lengths of training: from any unit to samples."""

from dataclasses import dataclass

from scaler.core.steps import LastBatch, samples_in
from scaler.core.unit import Unit, shown
from scaler.job.reference import Reference
from scaler.job.section import Length


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Converts lengths to samples.

    A step has the planned global batch. In an elastic job a step has the reference's batch, so that a length in steps
    is the same number of samples at every number of workers.

    Args:
        global_batch_size: the global batch at the start of training.
        reference_batch_size: the global batch of the reference.
        is_elastic: whether the number of workers may change.
        num_samples: size of the training set, which is the length of an epoch.
        last_batch: how the last samples of an epoch are used when they are fewer than a batch.
        total_samples: length of the training, for fractions of it; None if it is not known yet.
        units: of the job; they convert lengths in tokens, and this is the only place where those become samples.
    """

    global_batch_size: int
    reference_batch_size: int
    is_elastic: bool
    num_samples: int
    last_batch: LastBatch
    total_samples: int | None = None
    units: Unit = Unit()  # noqa: RUF009 (frozen)

    def samples(self, length: Length) -> int:
        """Return a length in samples, 0 for a length of 0; steps are counted with their short last batches."""
        if length.samples is not None:
            return length.samples
        if length.tokens is not None:
            return max(1, round(self.units.samples_at(length.tokens))) if length.tokens else 0
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
        """Return an interval in samples, at least 1; every step counts as a whole batch."""
        steps = length.steps
        return max(1, steps * self._step_samples() if steps is not None else self.samples(length))

    def of_reference(self, length: Length) -> int:
        """Return a length of the reference in samples, at least 1; a step has the reference's batch."""
        steps = length.steps
        return max(1, steps * self.reference_batch_size if steps is not None else self.samples(length))

    def of_reference_training(self, reference: Reference) -> int | None:
        """Return the length of the training that the reference was tuned in, in samples; None if it is not known."""
        if reference.epochs is not None:
            return max(1, round(reference.epochs * self.num_samples))
        return reference.total_samples

    def cadence(self, length: Length) -> int:
        """Return the interval of an evaluation or a checkpoint in samples; a step has the planned batch."""
        steps = length.steps
        return max(1, steps * self.global_batch_size) if steps is not None else self.stretch(length)

    def shown(self, length: Length, *, is_stretch: bool = False) -> str:
        """Return a length as text, with its samples if its steps have two possible meanings.

        Example:
            >>> lengths = Lengths(global_batch_size=256, reference_batch_size=16, is_elastic=False, num_samples=10**6,
            ...                   last_batch="scale")
            >>> lengths.shown(Length(steps=500))
            '500 steps (steps of 256: 128,000 samples; of the reference: 8,000)'
        """
        return f"{written(length)}{self.both_readings(length, is_stretch=is_stretch)}"

    def both_readings(self, length: Length, *, is_stretch: bool = False) -> str:
        """Return both meanings of a length in steps, in parentheses; empty if they are the same.

        Args:
            length: a length of the job.
            is_stretch: whether ``stretch`` converts it.
        """
        steps = length.steps
        if steps is None or self.global_batch_size == self.reference_batch_size:
            return ""
        text, many = self.units.number, self.units.many
        planned = text(steps * self.global_batch_size if is_stretch or self.is_elastic else self.samples(length))
        reference, batch = text(steps * self.reference_batch_size), text(self.global_batch_size)
        if self.is_elastic:
            return f" (steps of the reference: {reference} {many}; of {batch}: {planned})"
        return f" (steps of {batch}: {planned} {many}; of the reference: {reference})"

    def steps_of(self, length: Length) -> str:
        """Return the batch that a length in steps is counted in, and its other meaning; else an empty text."""
        if length.steps is None:
            return ""
        text, many = self.units.number, self.units.many
        planned, reference = self.global_batch_size, self.reference_batch_size
        if planned == reference:
            return f" of {text(planned)} {many}"
        if self.is_elastic:
            return f" of the reference's {text(reference)} (of {text(planned)}: {text(length.steps * planned)} {many})"
        return f" of {text(planned)} (of the reference's {text(reference)}: {text(length.steps * reference)} {many})"

    def _step_samples(self) -> int:
        return self.reference_batch_size if self.is_elastic else self.global_batch_size


def written(length: Length) -> str:
    """Return a length as text.

    Example:
        >>> from scaler.job.section import Length
        >>> written(Length(epochs=2))
        '2 epochs'
    """
    units = ("epochs", "steps", "samples", "tokens", "fraction")
    unit, value = next((unit, getattr(length, unit)) for unit in units if getattr(length, unit, None) is not None)
    if unit == "fraction":
        return f"{value:.4g} of the training"
    if unit == "tokens":
        return f"{shown(value)} tokens"
    return f"{value:g} {unit[:-1] if value == 1 else unit}"
