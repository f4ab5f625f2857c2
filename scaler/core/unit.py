"""What a job counts: samples, or the tokens of samples that are sequences."""

from dataclasses import dataclass
from typing import TypeVar

from scaler.errors import PlanError

EXACT = 10_000  # from here on, three digits and a letter
FOUR_DIGITS = 999.95  # from here on, four digits give 1,000
N = TypeVar("N", int, float)
LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """The unit of a plan, for texts: samples are counted inside, and shown as tokens where the job counts tokens.

    Args:
        lengths: (samples seen, tokens of a sample from there on), ascending, the first at 0; empty: the unit is
            samples.
    """

    lengths: tuple[tuple[int, int], ...] = ()

    @property
    def is_tokens(self) -> bool:
        """Whether the job counts tokens."""
        return bool(self.lengths)

    @property
    def many(self) -> str:
        """``tokens`` or ``samples``."""
        return "tokens" if self.lengths else "samples"

    @property
    def one(self) -> str:
        """``token`` or ``sample``."""
        return self.many[:-1]

    def tokens_per_sample(self, samples_seen: float = 0) -> int:
        """Return the tokens of a sample of the step that starts at ``samples_seen``; 1 if the unit is samples."""
        return next((length for start, length in reversed(self.lengths) if start <= samples_seen), 1)

    def at(self, samples_seen: N) -> N:
        """Return the place in training that ``samples_seen`` is, in this unit.

        Example:
            >>> unit = Unit(lengths=((0, 256), (100, 1024)))
            >>> [unit.at(samples) for samples in (0, 50, 100, 101)], Unit().at(50)
            ([0, 12800, 25600, 26624], 50)
        """
        if len(self.lengths) < 2:
            return samples_seen * self.tokens_per_sample()
        ends = [*(start for start, _ in self.lengths[1:]), samples_seen]
        parts = zip(self.lengths, ends, strict=True)
        return sum(max(0, min(end, samples_seen) - start) * length for (start, length), end in parts)

    def samples_at(self, place: float) -> float:
        """Return the samples seen at a place in training in this unit: the inverse of ``at``.

        Example:
            >>> unit = Unit(lengths=((0, 256), (100, 1024)))
            >>> [unit.samples_at(place) for place in (12800, 25600, 26624)]
            [50.0, 100.0, 101.0]
        """
        found = place / self.tokens_per_sample()
        for start, length in self.lengths[1:]:
            if place >= (before := self.at(start)):
                found = start + (place - before) / length
        return found

    def number(self, samples: float, *, at: float = 0, form: str = ",") -> str:
        """Return some samples of the step that starts at ``at``, in this unit, as text without the unit's name.

        Args:
            samples: how many.
            at: samples seen.
            form: of a number of samples, as for ``format``.
        """
        return shown(self.size(samples, at=at)) if self.lengths else format(samples, form)

    def place(self, samples_seen: float, *, form: str = ",") -> str:
        """Return a place in training in this unit, as text without the unit's name; ``form`` as for ``number``."""
        return shown(self.at(samples_seen)) if self.lengths else format(samples_seen, form)

    def plural(self, samples: int, *, at: float = 0) -> str:
        """Return some samples of the step that starts at ``at``, as text with the unit's name.

        Example:
            >>> Unit().plural(1), Unit(lengths=((0, 1024),)).plural(4096)
            ('1 sample', '4.19M tokens')
        """
        return f"{self.number(samples, at=at)} {self.one if self.size(samples, at=at) == 1 else self.many}"

    def size(self, samples: N, *, at: float = 0) -> N:
        """Return some samples, all of the step that starts at ``at``, in this unit."""
        return samples * self.tokens_per_sample(at)


def unit_with(tokens_per_sample: int | None) -> Unit:
    """Return the unit whose samples have a constant number of tokens; None: samples."""
    return Unit(lengths=() if tokens_per_sample is None else ((0, tokens_per_sample),))


def shown(value: float) -> str:
    """Return a number of tokens as engineers write it: three digits and a letter from 10,000 on.

    Example:
        >>> [shown(value) for value in (0, 640, 9999, 16384, 524288, 4194304, 375e6, 2e9, 999999)]
        ['0', '640', '9,999', '16.4k', '524k', '4.19M', '375M', '2B', '1M']
    """
    if abs(value) < EXACT - 0.5:
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= FOUR_DIGITS else f"{value:.4g}"
    rounded = float(f"{value:.3g}")
    size, letter = next(pair for pair in LETTERS if abs(rounded) >= pair[0])
    return f"{rounded / size:.4g}{letter}"


def require_whole(tokens: int, tokens_per_sample: int, *, key: str, why: str = "") -> int:
    """Return a batch in tokens as a number of samples.

    Args:
        tokens: the batch.
        tokens_per_sample: tokens of one sample.
        key: of the batch, for errors.
        why: a sample has so many tokens, for errors.

    Raises:
        PlanError: it is not a whole number of samples; names the nearest that are.

    Example:
        >>> require_whole(4096, 64, key="scale.global_batch_size")
        64
    """
    samples, rest = divmod(tokens, tokens_per_sample)
    if not samples:
        raise PlanError(
            f"{key} = {tokens} is below the {tokens_per_sample} tokens of one sample{why}: with train.unit = tokens, "
            "batch sizes are in tokens.",
            f"For {tokens} samples, write {tokens * tokens_per_sample}.",
        )
    if rest:
        below = samples * tokens_per_sample
        raise PlanError(
            f"{key} = {tokens} tokens is not a whole number of samples of {tokens_per_sample} tokens{why}.",
            f"The nearest are {below} and {below + tokens_per_sample}.",
        )
    return samples
