"""Controllers: they react to measurements and change the learning rate or the batch.

Their state is the same on every worker, because workers agree on the measurements before. It consists of plain values
and is saved in the checkpoint. Each decision is an event.
"""

from collections.abc import Mapping, Sequence
from math import floor, inf
from typing import Any, NamedTuple

from scaler.core.divergence import DivergenceGuard, DivergenceState
from scaler.core.noise_history import NoiseHistory
from scaler.core.noise_scale import GradientSquares, NoiseScaleAverage
from scaler.core.plateau import Plateau, PlateauState
from scaler.core.rules import gain_exponent
from scaler.errors import TrainingError
from scaler.job import Job
from scaler.job.model import Divergence
from scaler.job.scale import GrowInsteadOfDecay, GrowWithNoise
from scaler.job.unit import in_samples
from scaler.plan import Plan


class Lowered(NamedTuple):
    """The plateau controller lowered the learning rate."""

    factor: float  # what the planned learning rate is multiplied by from here on
    reason: str


class Controllers:
    """All controllers of one run: plateau, divergence guard, AdaScale's gain, and growth of the batch with the noise.

    Args:
        job: says which controllers there are.
        plan: of this attempt.

    Attributes:
        noise: the history of the gradient noise scale.
        growth: where the batch grew, in samples, and to which multiple of the first batch.
        times_gone_back: how often training went back to a checkpoint in this run.
    """

    def __init__(self, job: Job, plan: Plan) -> None:
        self._job, self._reference_batch_size = job, plan.reference_batch_size
        wanted = job.schedule.plateau
        self._metric = wanted.metric if wanted is not None else ""
        self._plateau = Plateau(**wanted.model_dump(exclude={"metric"})) if wanted is not None else None
        self._plateau_state = PlateauState()
        divergence = job.failures.divergence
        self._guard = _guard_of(divergence) if divergence is not None else None
        self._guard_state = DivergenceState()
        self._guard_factor, self.times_gone_back = 1.0, 0
        self._exponent = gain_exponent(plan.optimizer["name"], rule=plan.rule) if plan.is_measured else 0.0
        self._gain = (1.0, 1.0)  # the last measured gain, and its batch_ratio
        self._average = NoiseScaleAverage.of_adascale(plan.batch_ratio) if plan.is_measured else None
        self.noise = NoiseHistory()
        self.growth: list[tuple[int, float]] = []  # (samples_seen, multiple of the first batch)

    def gain(self, batch_ratio: float) -> float:
        """Return how many steps of the reference one step at a batch is worth; 1 unless ``rule: adascale``.

        While the noise scale is unknown, the last measured gain is used, within the limits of a gain at this ratio. A
        short step gets its share of this gain.

        Args:
            batch_ratio: of the step, which may be shorter than its phase's batch.
        """
        if self._average is None:
            return 1.0
        found = self._average.gain(batch_ratio, self._reference_batch_size)
        if found is not None:
            return found
        last, ratio = self._gain
        return _possible_gain(last * min(1.0, batch_ratio / ratio), batch_ratio)

    def lr_factor(self, batch_ratio: float) -> float:
        """Return the factor for the planned learning rate of a step at a batch."""
        factor = self._plateau_state.factor * self._guard_factor
        return factor * self.gain(batch_ratio) ** self._exponent if self._exponent else factor

    def add_measurement(self, squares: GradientSquares | None, *, batch_ratio: float) -> None:
        """Update the noise history with a step's estimates, at the batch of its phase; with adascale, also the gain."""
        self.noise = self.noise.update(squares)
        if self._average is not None:
            self._average = self._average.update(squares)
            found = self._average.gain(batch_ratio, self._reference_batch_size)
            self._gain = (_possible_gain(self._gain[0], batch_ratio) if found is None else found, batch_ratio)

    def add_evaluation(self, values: Mapping[str, float]) -> Lowered | None:
        """Give an evaluation to the plateau controller; return how it lowered the learning rate, or None."""
        if self._plateau is None:
            return None
        before, value = self._plateau_state, values[self._metric]
        self._plateau_state = self._plateau.step(before, value)
        if self._plateau_state.factor == before.factor:
            return None
        bad = self._plateau.patience + 1
        return Lowered(
            self._plateau_state.factor,
            f"{self._metric} {value:.4g} is not better than {_shown(before.best)}, for "
            f"{bad} evaluation{'' if bad == 1 else 's'}",
        )

    def add_losses(self, losses: Sequence[float]) -> str | None:
        """Give losses of steps, means over all workers, to the divergence guard; return why training diverged."""
        if self._guard is None:
            return None
        for loss in losses:
            self._guard_state, reason = self._guard.observe(self._guard_state, loss)
            if reason is not None:
                return reason
        return None

    @property
    def is_guarded(self) -> bool:
        """Whether the job has a divergence guard."""
        return self._guard is not None

    def may_go_back(self) -> bool:
        """Return whether a diverged training goes back to a checkpoint instead of stopping."""
        divergence = self._job.failures.divergence
        return divergence is not None and divergence.then == "go_back" and self.times_gone_back < divergence.max_times

    def divergence_error(self, reason: str) -> TrainingError:
        """Return the error for a diverged training that does not go back (any more)."""
        gone_back = self.times_gone_back
        again = f" again, after going back {'once' if gone_back == 1 else f'{gone_back} times'}" if gone_back else ""
        or_else = (
            "let it go back more often: failures.divergence.max_times"
            if gone_back
            else "let it go back to a checkpoint with a lower learning rate:\nfailures.divergence: {then: go_back}"
        )
        return TrainingError(
            f"the training diverged{again}: {reason}.",
            f"Lower reference.lr, warm up longer, set train.clip_grad_norm, or {or_else}.",
        )

    def is_suspect(self) -> bool:
        """Return whether the last losses were above the limit: training should not go back to such weights."""
        return self._guard is not None and self._guard.is_suspect(self._guard_state) and self.may_go_back()

    def set_times_gone_back(self, *, times: int) -> None:
        """Set how often training has gone back in this run; each time lowers the learning rate."""
        divergence = self._job.failures.divergence
        assert divergence is not None
        self.times_gone_back = times
        self._guard_factor = divergence.lr_factor**times
        self._guard_state = DivergenceState()

    def next_batch(self, global_batch_size: int, *, instead_of_decay: int) -> int | None:
        """Return the next global batch, if the lower end of the noise scale's 90 % interval allows one; else None.

        ``noise_scale``: twice the present batch, if the noise scale is above it. ``instead_of_decay``: the batch that
        replaces the fall of the learning rate so far, or the noise scale if that is smaller.

        Args:
            global_batch_size: the present batch.
            instead_of_decay: the batch that replaces the fall of the learning rate so far.

        Source: Merrill et al. 2025, https://arxiv.org/abs/2505.23971. They double the batch when the critical batch
        size is twice the batch, and measure it by branching. scaler takes the lower end of the noise scale's 90 %
        interval.
        """
        wanted, present = in_samples(self._job).scale.batch_schedule, self.noise.present()
        if present is None:
            return None
        match wanted:
            case GrowWithNoise(max_global_batch_size=most):
                size = min(2 * global_batch_size, most) if present.lower > 2 * global_batch_size else 0
                least = global_batch_size + 1.0
            case GrowInsteadOfDecay(max_global_batch_size=most, growth=growth):
                size = min(instead_of_decay, floor(present.lower))
                least = min(max(growth * global_batch_size, global_batch_size + 1), most)
            case _:
                return None
        return size if global_batch_size < size and size >= least else None

    def _plateau_of(self) -> list[str] | None:
        """Return the metric and mode of the plateau's values."""
        wanted = self._job.schedule.plateau
        return [wanted.metric, wanted.mode] if wanted is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all controllers as plain values, for a checkpoint."""
        return {
            "plateau": self._plateau_state.to_dict(),
            "plateau_of": self._plateau_of(),
            "guard": self._guard_state.to_dict(),
            "guard_factor": self._guard_factor,
            "times_gone_back": self.times_gone_back,
            "gain": list(self._gain),
            "noise": self._average.to_dict() if self._average is not None else None,
            "noise_history": self.noise.to_dict(),
            "growth": [list(change) for change in self.growth],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. The averages use this plan's decay, not the saved one."""
        self._plateau_state = PlateauState.from_dict(state["plateau"])
        if state["plateau_of"] != self._plateau_of():  # another metric now: the old values cannot be compared
            self._plateau_state = PlateauState(factor=self._plateau_state.factor)
        self._guard_state = DivergenceState.from_dict(state["guard"])
        self._guard_factor, self.times_gone_back = state["guard_factor"], state["times_gone_back"]
        self._gain = (state["gain"][0], state["gain"][1])
        if self._average is not None:  # a job cannot change to adascale during a run
            self._average = NoiseScaleAverage.from_dict(state["noise"], theta=self._average.theta)
        self.noise = NoiseHistory.from_dict(state["noise_history"])
        self.growth = [(int(at), float(factor)) for at, factor in state["growth"]]


def _possible_gain(gain: float, batch_ratio: float) -> float:
    """Return the nearest possible gain at a ratio: between 1 and the ratio."""
    return min(max(gain, min(1.0, batch_ratio)), max(1.0, batch_ratio))


def _shown(value: float | None) -> str:
    return "anything before" if value is None else f"{value:.4g} by more than the threshold"


def _guard_of(divergence: Divergence) -> DivergenceGuard:
    """Return the guard that a job asks for; without a multiple it reacts to NaN and infinity only."""
    if divergence.multiple is None:
        return DivergenceGuard(multiple=inf, lasting=None)
    return DivergenceGuard(multiple=divergence.multiple)
