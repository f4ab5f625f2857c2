"""Decide whether a worker group that ended is started again: the failure policy that scaler gives to Ray Train.

Ray Train's controller unpickles this policy, so this module imports little.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic, sleep, time
from typing import Any

import ray
from ray.exceptions import RayActorError

from scaler.cluster.ray_internals import (
    ControllerError,
    DefaultFailurePolicy,
    FailureDecision,
    PreemptionError,
    WorkerGroupError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from scaler.cluster.restart_signals import LostDataProcess, Restart, first_line
from scaler.metrics.events import GroupEnded, WorkerHung

SURVIVORS_S = 2.0  # workers that lost a peer have uploaded what they have within this time
NOTED_S = 5.0  # the collector has an event within this time, unless it is being started again
POLL_S = 0.05
KILLED = "its process was killed, or crashed"
_DEATHS = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, LostDataProcess)

logger = logging.getLogger(__name__)


class FailurePolicy(DefaultFailurePolicy):
    """Starts a lost group again, up to ``max_failures`` times, as Ray Train does, with three differences.

    A group whose workers saved and left is started again without being counted. A group that cannot start is tried
    again for ``patience_s``. When two groups in a row lose a worker at the same step, the run ends: the step itself
    kills the worker, and a third group would lose it, too.

    Args:
        failure_config: Ray Train's; ``max_failures`` counts lost groups.
        collector: the collector's actor handle; it gets an event for each group that ended.
        patience_s: the run ends if no group could start for this many seconds, for lack of nodes.
        hang_timeout_s: Ray Train gives a worker up if it does not answer for this many seconds.
    """

    def __init__(self, failure_config: Any, *, collector: Any, patience_s: float, hang_timeout_s: float | None) -> None:
        super().__init__(failure_config)
        self._collector, self._patience_s, self._hang_timeout_s = collector, patience_s, hang_timeout_s
        self._not_starting_since: float | None = None
        self._died_at: int | None = None  # samples seen by the last group when it lost a worker

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Decide on a group that ended, or on one that did not start."""
        error = training_failed_error
        if isinstance(error, ControllerError):
            return self._decide_on_start(error)
        self._not_starting_since = None
        if isinstance(error, WorkerGroupError):
            causes = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, Restart)}
            if causes:
                self._died_at = None
                self._report_end("yielded", causes)
                logger.info("The workers saved and left; the group is started again: %s", error)
                return FailureDecision.RETRY
            self._report_hung(error.worker_failures)
            died = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, _DEATHS)}
            witnesses = sorted(set(error.worker_failures) - set(died))
            twice_at = self._died_again_at(died)
            self._report_end("lost", died, witnesses=witnesses, twice_at=twice_at)
            if twice_at is not None:
                logger.info("Workers died twice at sample %d; the run ends.", twice_at)
                return FailureDecision.RAISE
        elif isinstance(error, PreemptionError):
            self._report_end("lost", dict.fromkeys(error.preemption_info.preempted_ranks, error))
        return super().make_decision(error)

    def _decide_on_start(self, error: ControllerError) -> FailureDecision:
        """Try again until no group has started for ``patience_s``."""
        now = monotonic()
        self._not_starting_since = self._not_starting_since or now
        is_over = now - self._not_starting_since > self._patience_s
        return FailureDecision.RAISE if is_over else super().make_decision(error)

    def _died_again_at(self, died: Mapping[int, Exception]) -> int | None:
        """Return the samples seen at which this group and the last one both lost a worker; None: they did not.

        If a node was lost, the step is not the cause, and the next group is not compared with this one.
        """
        before, self._died_at = self._died_at, None
        if any(describe_death(failure) != KILLED for failure in died.values()):
            return None
        deadline, more = monotonic() + SURVIVORS_S, True
        with suppress(Exception):  # without the collector the step is not known, and the group is started again
            while more and monotonic() < deadline:
                asked = self._collector.samples_at_loss.remote(sorted(died))
                more, self._died_at = ray.get(asked, timeout=SURVIVORS_S)
                sleep(POLL_S if more else 0.0)
        return self._died_at if self._died_at is not None and self._died_at == before else None

    def _report_hung(self, failures: Mapping[int, Exception]) -> None:
        for rank, failure in failures.items():
            if isinstance(failure, WorkerHealthCheckTimeoutError):
                doing, where = "not answering Ray Train", "a frozen process, or code that holds Python's lock"
                seconds = self._hang_timeout_s
                self._note(WorkerHung(time=time(), attempt=None, rank=rank, seconds=seconds, doing=doing, where=where))

    def _report_end(
        self,
        cause: str,
        failures: Mapping[int, Exception],
        *,
        witnesses: Sequence[int] = (),
        twice_at: int | None = None,
    ) -> None:
        """Report the end of a group; if only ``witnesses`` are known, the collector finds out which ranks are missing.

        Args:
            cause: ``yielded`` or ``lost``.
            failures: by rank.
            witnesses: the ranks that reported the loss of a peer.
            twice_at: samples seen at which the group before ended, too; None: it did not.
        """
        message = "; ".join(dict.fromkeys(describe_death(failure) for failure in failures.values()))
        ended = GroupEnded(
            time=time(),
            attempt=None,
            cause=cause,
            ranks=sorted(failures),
            message=message or "is gone",
            twice_at=twice_at,
        )
        self._note(ended, witnesses=[] if failures else witnesses)

    def _note(self, event: WorkerHung | GroupEnded, *, witnesses: Sequence[int] = ()) -> None:
        """Give the collector an event; without the collector, the run continues without the event.

        The decision waits for it: when a run ends, the driver asks the collector why.
        """
        with suppress(Exception):
            ray.get(self._collector.note.remote(event, witnesses=list(witnesses)), timeout=NOTED_S)


def describe_death(failure: Exception) -> str:
    """Return a short text that says what happened to a worker."""
    if isinstance(failure, WorkerHealthCheckTimeoutError):
        return "did not answer Ray Train"
    if isinstance(failure, WorkerHealthCheckFailedError):
        death = failure.health_check_failure
        if isinstance(death, RayActorError):
            if death.preempted:
                return "its node was taken away"
            if "node" in str(death) and "died" in str(death).split("node", 1)[1][:40]:
                return "its node died"
            return KILLED
        return first_line(death)
    return first_line(failure)
