"""Ray Train's policy for a worker group that ended: what costs a restart, and what does not.

It is unpickled in Ray Train's controller, so this module imports little.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic, sleep, time
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from scaler.cluster.restart_signals import LostDataProcess, Restart, first_line
from scaler.metrics.events import GroupEnded, WorkerHung

SURVIVORS_S = 2.0  # within which workers that lost a peer have handed over what they have
POLL_S = 0.05
KILLED = "its process was killed, or crashed"
_DEATHS = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, LostDataProcess)

logger = logging.getLogger(__name__)


class FailurePolicy(DefaultFailurePolicy):
    """As Ray Train's, except that a group that made room costs nothing, and that starting is bounded by time.

    Two groups one after the other that lose a worker at the same step are the end: the step kills it, not the machine.

    Args:
        failure_config: Ray Train's; ``max_failures`` counts groups that were lost.
        collector: the collector's actor handle; it is told of each end.
        patience_s: how long groups may fail to start, because nodes went and others have not come, before the run ends.
        hang_timeout_s: after which Ray Train gives a worker up that does not answer it.
    """

    def __init__(self, failure_config: Any, *, collector: Any, patience_s: float, hang_timeout_s: float | None) -> None:
        super().__init__(failure_config)
        self._collector, self._patience_s, self._hang_timeout_s = collector, patience_s, hang_timeout_s
        self._not_starting_since: float | None = None
        self._died_at: int | None = None  # where the last group was when it lost a worker, in samples

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Decide on the end of a group's life, or on a group that did not start."""
        error = training_failed_error
        if isinstance(error, ControllerError):
            return self._decide_on_start(error)
        self._not_starting_since = None
        if isinstance(error, WorkerGroupError):
            causes = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, Restart)}
            if causes:
                self._died_at = None
                self._tell_ended("yielded", causes)
                logger.info("The worker group made room and is started again: %s", error)
                return FailureDecision.RETRY
            self._tell_hung(error.worker_failures)
            died = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, _DEATHS)}
            witnesses = sorted(set(error.worker_failures) - set(died))
            twice_at = self._died_again_at(died)
            self._tell_ended("lost", died, witnesses=witnesses, twice_at=twice_at)
            if twice_at is not None:
                logger.info("Workers died twice at sample %d; the run ends.", twice_at)
                return FailureDecision.RAISE
        elif isinstance(error, PreemptionError):
            self._tell_ended("lost", dict.fromkeys(error.preemption_info.preempted_ranks, error))
        return super().make_decision(error)

    def _decide_on_start(self, error: ControllerError) -> FailureDecision:
        """Go on trying until there has been no group for ``patience_s``."""
        now = monotonic()
        self._not_starting_since = self._not_starting_since or now
        is_over = now - self._not_starting_since > self._patience_s
        return FailureDecision.RAISE if is_over else super().make_decision(error)

    def _died_again_at(self, died: Mapping[int, Exception]) -> int | None:
        """Return where this group lost a worker, if the one before lost one at the same step: a third would, too.

        Nodes that went away are not the step's fault, and end the comparison.
        """
        before, self._died_at = self._died_at, None
        if any(told_death(failure) != KILLED for failure in died.values()):
            return None
        deadline, more = monotonic() + SURVIVORS_S, True
        with suppress(Exception):  # without a collector nothing is known, and the group is started again
            while more and monotonic() < deadline:
                asked = self._collector.survivors_stood_at.remote(sorted(died))
                more, self._died_at = ray.get(asked, timeout=SURVIVORS_S)
                sleep(POLL_S if more else 0.0)
        return self._died_at if self._died_at is not None and self._died_at == before else None

    def _tell_hung(self, failures: Mapping[int, Exception]) -> None:
        for rank, failure in failures.items():
            if isinstance(failure, WorkerHealthCheckTimeoutError):
                doing, where = "not answering Ray Train", "a frozen process, or code that holds Python's lock"
                seconds = self._hang_timeout_s
                self._tell(WorkerHung(time=time(), attempt=None, rank=rank, seconds=seconds, doing=doing, where=where))

    def _tell_ended(
        self,
        cause: str,
        failures: Mapping[int, Exception],
        *,
        witnesses: Sequence[int] = (),
        twice_at: int | None = None,
    ) -> None:
        """Tell an end; where only ``witnesses`` are known, who lost a peer, the collector works out who is missing."""
        message = "; ".join(dict.fromkeys(told_death(failure) for failure in failures.values()))
        ended = GroupEnded(
            time=time(),
            attempt=None,
            cause=cause,
            ranks=sorted(failures),
            message=message or "is gone",
            twice_at=twice_at,
        )
        self._tell(ended, witnesses=[] if failures else witnesses)

    def _tell(self, event: WorkerHung | GroupEnded, *, witnesses: Sequence[int] = ()) -> None:
        """Pass an event on without waiting; the run goes on without it when the collector is gone."""
        with suppress(Exception):
            self._collector.note.remote(event, witnesses=list(witnesses))


def told_death(failure: Exception) -> str:
    """Say in a few words what became of a worker."""
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
