"""Judge a run: find its verdicts, each with its evidence and a next step. ``docs/verdicts.md`` lists them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from scaler.metrics.events import Diverged, data_order
from scaler.report.run.missing_data import find_missing_events, find_unreadable
from scaler.report.run.model import Verdict
from scaler.report.run.verdicts.batch import batch_beyond_noise_scale
from scaler.report.run.verdicts.curve import Curve, Jump
from scaler.report.run.verdicts.data import loss_not_checked, uneven_data
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.learning_rate import LrTrouble, lr_differs_from_plan, lr_maybe_too_low, lr_trouble
from scaler.report.run.verdicts.loss import (
    loss_not_finite,
    loss_plateaued,
    loss_spiked,
    loss_still_falling,
    overfitting,
)
from scaler.report.run.verdicts.memory import memory_near_limit
from scaler.report.run.verdicts.recording import records_thinned, tracking_failed
from scaler.report.run.verdicts.restarts import checkpoint_failed, checkpoint_passed_over, restarts
from scaler.report.run.verdicts.run_end import diverged, not_finished, worker_without_records
from scaler.report.run.verdicts.stragglers import (
    StragglerFindings,
    find_stragglers,
    slow_steps,
    straggler_verdicts,
)
from scaler.report.run.verdicts.tokens import tokens_off
from scaler.report.run.verdicts.waiting import input_bound, low_efficiency, slow_startup, sync_bound

Found = Verdict | None | Sequence[Verdict]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The evidence of one run, and what several verdicts read from it; each part is computed once."""

    evidence: Evidence
    _found: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)  # by code

    def of_code(self, code: str) -> tuple[Verdict, ...]:
        """Return the verdicts of one code."""
        if code not in self._found:
            found = FINDERS[code](self)
            verdicts = (found,) if isinstance(found, Verdict) else found or ()
            self._found[code] = tuple(verdict for verdict in verdicts if verdict.code == code)
        return self._found[code]

    def of_codes(self, *codes: str) -> list[Verdict]:
        """Return the verdicts of several codes."""
        return [verdict for code in codes for verdict in self.of_code(code)]

    @cached_property
    def curve(self) -> Curve:
        """The loss of the steps that are in the final weights."""
        return Curve.of(self.evidence.arrays)

    @cached_property
    def jumps(self) -> Sequence[Jump]:
        """Where the loss jumped."""
        return self.curve.jumps()

    @cached_property
    def lr_trouble(self) -> LrTrouble:
        """What the jumps of the loss say about the learning rate."""
        return lr_trouble(self.evidence, self.curve, self.jumps)

    @cached_property
    def stragglers(self) -> StragglerFindings:
        """The stragglers of the newest attempt that has any."""
        return find_stragglers(self.evidence.arrays)

    @cached_property
    def straggler_verdicts(self) -> Sequence[Verdict]:
        """One ``slow_node``, or a ``straggler`` for each slow rank."""
        return straggler_verdicts(self.evidence, self.stragglers)


Finder = Callable[[Judgement], Found]


def _not_in_range_test(find: Finder) -> Finder:
    """Return a finder that finds nothing in a range test, which raises the learning rate until the loss diverges."""
    return lambda run: None if run.evidence.plan.purpose == "find_lr" else find(run)


FINDERS: Mapping[str, Finder] = {
    "events_missing": lambda run: find_missing_events(
        run.evidence.state,
        run.evidence.attempts,
        recorded=run.evidence.arrays.attempts.tolist(),
        unplanned=run.evidence.unplanned,
    ),
    "records_unreadable": lambda run: find_unreadable(run.evidence.unreadable),
    "not_finished": lambda run: not_finished(run.evidence),
    "diverged": lambda run: diverged(run.evidence.of_type(Diverged), run.evidence.plan.units),
    "worker_without_records": lambda run: worker_without_records(run.evidence),
    "lr_differs_from_plan": lambda run: lr_differs_from_plan(
        run.evidence.audit, run.evidence.plan, is_followed=run.evidence.is_followed
    ),
    "loss_not_finite": lambda run: loss_not_finite(run.evidence),
    "uneven_data": _not_in_range_test(lambda run: uneven_data(run.evidence.arrays, data_order(run.evidence.events))),
    "lr_too_high": _not_in_range_test(lambda run: run.lr_trouble.verdict),
    "warmup_too_short": _not_in_range_test(lambda run: run.lr_trouble.verdict),
    "loss_spiked": _not_in_range_test(lambda run: loss_spiked(run.curve, run.lr_trouble.jumps)),
    "loss_plateaued": _not_in_range_test(lambda run: loss_plateaued(run.evidence, run.curve, run.lr_trouble.verdict)),
    "overfitting": _not_in_range_test(lambda run: overfitting(run.evidence, run.curve)),
    "restarts": lambda run: restarts(run.evidence),
    "checkpoint_passed_over": lambda run: checkpoint_passed_over(run.evidence.events),
    "checkpoint_failed": lambda run: checkpoint_failed(run.evidence.events),
    "memory_near_limit": lambda run: memory_near_limit(run.evidence),
    "slow_node": lambda run: run.straggler_verdicts,
    "straggler": lambda run: run.straggler_verdicts,
    "slow_steps": lambda run: slow_steps(run.evidence.arrays),
    "tokens_beyond_plan": lambda run: tokens_off(run.evidence.totals, run.evidence.plan),
    "padded_tokens": lambda run: tokens_off(run.evidence.totals, run.evidence.plan),
    "input_bound": lambda run: input_bound(run.evidence),
    "sync_bound": lambda run: sync_bound(run.evidence, run.stragglers),
    "low_efficiency": lambda run: low_efficiency(run.evidence.scaling, run.evidence.totals, run.evidence.plan.units),
    "slow_startup": lambda run: slow_startup(run.evidence),
    "tracking_failed": lambda run: tracking_failed(run.evidence.events),
    "records_thinned": lambda run: records_thinned(run.evidence.events),
    "loss_not_checked": lambda run: loss_not_checked(run.evidence.events),
    "loss_still_falling": _not_in_range_test(
        lambda run: loss_still_falling(
            run.evidence,
            run.curve,
            run.of_codes("lr_too_high", "warmup_too_short", "loss_plateaued", "overfitting"),
        )
    ),
    "lr_maybe_too_low": _not_in_range_test(
        lambda run: (
            lr_maybe_too_low(run.curve, run.jumps)
            if run.lr_trouble.verdict is None and not run.of_codes("overfitting")  # whose advice is the opposite
            else None
        )
    ),
    "batch_beyond_noise_scale": _not_in_range_test(
        lambda run: batch_beyond_noise_scale(run.evidence.attempts, run.evidence.noise, run.evidence.plan.units)
    ),
}
"""How each verdict is found, by code, the gravest first.

A new verdict needs a function in one of these modules, an entry here, and a section in ``docs/verdicts.md``.
"""

GRAVEST_FIRST = tuple(FINDERS)
"""Every code, in the order in which reports list them."""


def find_verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """Return the verdicts on a run, the gravest first; a healthy run has none."""
    return tuple(Judgement(evidence=evidence).of_codes(*FINDERS))
