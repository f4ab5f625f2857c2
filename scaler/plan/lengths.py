"""Lengths of training in any unit, as samples."""

from dataclasses import dataclass

from scaler.core.batch import samples_in
from scaler.job.section import Length


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Turns lengths into samples.

    Args:
        global_batch_size: of the start of training; what a step counts as.
        num_samples: size of the training set; what an epoch counts as.
        total_samples: length of the training; what a fraction is of. None where it is not known yet.
    """

    global_batch_size: int
    num_samples: int
    total_samples: int | None = None

    def samples(self, length: Length) -> int:
        """Return a length in samples, 0 for a length of 0; steps are walked, so that short last batches count."""
        if length.samples is not None:
            return length.samples
        if length.steps is not None:
            return samples_in(length.steps, global_batch_size=self.global_batch_size, num_samples=self.num_samples)
        fraction = getattr(length, "fraction", None)
        if fraction is not None:
            assert self.total_samples is not None
            return round(float(fraction) * self.total_samples)
        return max(1, round(length.epochs * self.num_samples)) if length.epochs else 0

    def stretch(self, length: Length) -> int:
        """Return an interval in samples, at least 1; a step counts as a whole global batch, wherever it is taken."""
        steps = length.steps
        return max(1, steps * self.global_batch_size if steps is not None else self.samples(length))


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
