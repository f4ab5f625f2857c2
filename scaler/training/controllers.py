"""What adapts in training: each controller reads measurements and says what to multiply the rate by.

All of it is the same on every worker, because what is measured is agreed before it gets here. The state is plain
values, saved in the checkpoint; each decision is an event.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from scaler.core.divergence import DivergenceGuard, DivergenceState
from scaler.core.noise_history import NoiseHistory
from scaler.core.noise_scale import GradientSquares, NoiseScaleAverage
from scaler.core.plateau import Plateau, PlateauState
from scaler.core.rules import gain_exponent
from scaler.errors import TrainingError
from scaler.job import Job
from scaler.job.model import Divergence
from scaler.job.scale import GrowWithNoise
from scaler.plan import Plan


class Lowered(NamedTuple):
    """The plateau controller lowered the learning rate."""

    factor: float  # what the planned learning rate is multiplied by from here on
    reason: str


class Controllers:
    """Everything in one run that reacts to what is measured.

    Args:
        job: says which controllers there are.
        plan: of this attempt.
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
        self._gain = (1.0, 1.0)  # measured last, and at which batch_ratio
        self._average = NoiseScaleAverage.of_adascale(plan.batch_ratio) if plan.is_measured else None
        self.noise = NoiseHistory()
        self.growth: list[tuple[int, float]] = []  # where the batch grew, and to how many times the start's

    def gain(self, batch_ratio: float) -> float:
        """Return how many steps of the reference a step at a batch is worth; 1 unless ``rule: adascale``.

        While the noise scale is unknown, the gain measured last stays, within what a gain can be at this ratio; a short
        step has its share of it.

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
        """Return what the planned learning rate of a step at a batch is multiplied by."""
        factor = self._plateau_state.factor * self._guard_factor
        return factor * self.gain(batch_ratio) ** self._exponent if self._exponent else factor

    def measured(self, squares: GradientSquares | None, *, batch_ratio: float) -> None:
        """Take a step's estimates, at the batch of its phase; with adascale the gain follows."""
        self.noise = self.noise.update(squares)
        if self._average is not None:
            self._average = self._average.update(squares)
            found = self._average.gain(batch_ratio, self._reference_batch_size)
            self._gain = (_possible_gain(self._gain[0], batch_ratio) if found is None else found, batch_ratio)

    def evaluated(self, values: Mapping[str, float]) -> Lowered | None:
        """Take an evaluation, which has the metric that the plateau watches; return how the plateau lowered the lr."""
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

    def observed(self, losses: Sequence[float]) -> str | None:
        """Take the losses of steps, mean over all workers; return why the training has gone astray, if it has."""
        if self._guard is None:
            return None
        for loss in losses:
            self._guard_state, reason = self._guard.observe(self._guard_state, loss)
            if reason is not None:
                return reason
        return None

    @property
    def is_guarded(self) -> bool:
        """Whether a training that has gone astray is stopped."""
        return self._guard is not None

    def may_go_back(self) -> bool:
        """Return whether a diverged training goes back and on, rather than stop."""
        divergence = self._job.failures.divergence
        return divergence is not None and divergence.then == "go_back" and self.times_gone_back < divergence.max_times

    def stopped_by(self, reason: str) -> TrainingError:
        """Return the error of a training that diverged and does not go back, or not again; says what to try."""
        gone_back = self.times_gone_back
        again = f" again, after going back {'once' if gone_back == 1 else f'{gone_back} times'}" if gone_back else ""
        other = (
            "let it go back more often: failures.divergence.max_times"
            if gone_back
            else "let it go back to a checkpoint with a lower rate:\nfailures.divergence: {then: go_back}"
        )
        return TrainingError(
            f"the training diverged{again}: {reason}.",
            f"Lower reference.lr, warm up longer, set train.clip_grad_norm, or {other}.",
        )

    def waits_for_a_better_loss(self) -> bool:
        """Return whether the last losses were above a limit: a checkpoint of them is none that one would go back to."""
        return self._guard is not None and self._guard.is_suspect(self._guard_state) and self.may_go_back()

    def went_back(self, *, times: int) -> None:
        """Lower the rate, after a checkpoint was loaded, for the ``times``-th time in this run."""
        divergence = self._job.failures.divergence
        assert divergence is not None
        self.times_gone_back = times
        self._guard_factor = divergence.lr_factor**times
        self._guard_state = DivergenceState()

    def next_batch(self, global_batch_size: int) -> int | None:
        """Return the batch to go on with, where the noise scale is surely above twice the present one; else None.

        Source: Merrill et al. 2025, https://arxiv.org/abs/2505.23971, who double the batch when the critical batch size
        is twice the batch; they measure that by branching, we take the lower end of the noise scale's 90 % interval.
        """
        wanted, present = self._job.scale.batch_schedule, self.noise.present()
        if not isinstance(wanted, GrowWithNoise) or present is None or present.lower <= 2 * global_batch_size:
            return None
        size = min(2 * global_batch_size, wanted.max_global_batch_size)
        return size if size > global_batch_size else None

    def _plateau_of(self) -> list[str] | None:
        """What the plateau's memory is of."""
        wanted = self._job.schedule.plateau
        return [wanted.metric, wanted.mode] if wanted is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
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
        """Go on from a saved state. How fast averages forget is this plan's, not the saved one's."""
        self._plateau_state = PlateauState.from_dict(state["plateau"])
        if state["plateau_of"] != self._plateau_of():  # another metric now: its values do not compare
            self._plateau_state = PlateauState(factor=self._plateau_state.factor)
        self._guard_state = DivergenceState.from_dict(state["guard"])
        self._guard_factor, self.times_gone_back = state["guard_factor"], state["times_gone_back"]
        self._gain = (state["gain"][0], state["gain"][1])
        if self._average is not None:  # a job does not change to adascale in mid-run
            self._average = NoiseScaleAverage.from_dict(state["noise"], theta=self._average.theta)
        history = state.get("noise_history")  # checkpoints of before have none
        self.noise = NoiseHistory.from_dict(history) if history is not None else NoiseHistory()
        self.growth = [(int(at), float(factor)) for at, factor in state["growth"]]


def _possible_gain(gain: float, batch_ratio: float) -> float:
    """The nearest value that a gain can have at a ratio: between 1 and the ratio."""
    return min(max(gain, min(1.0, batch_ratio)), max(1.0, batch_ratio))


def _shown(value: float | None) -> str:
    return "anything before" if value is None else f"{value:.4g} by more than the threshold"


def _guard_of(divergence: Divergence) -> DivergenceGuard:
    """The guard that a job asks for; without a multiple it knows NaN and infinity only."""
    if divergence.multiple is None:
        return DivergenceGuard(multiple=inf, lasting=None)
    return DivergenceGuard(multiple=divergence.multiple)
