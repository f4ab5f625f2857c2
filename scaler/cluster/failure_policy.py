"""Ray Train's policy for a worker group that ended: what costs a restart, and what does not.

It is unpickled in Ray Train's controller, so this module imports little.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from scaler.cluster.endings import Restart, first_line

_DEATHS = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)

logger = logging.getLogger(__name__)


class FailurePolicy(DefaultFailurePolicy):
    """As Ray Train's, except that a group that made room costs nothing, and that starting is bounded by time.

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

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Decide on the end of a group's life, or on a group that did not start."""
        error = training_failed_error
        if isinstance(error, ControllerError):
            return self._decide_on_start(error)
        self._not_starting_since = None
        if isinstance(error, WorkerGroupError):
            causes = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, Restart)}
            if causes:
                self._tell_ended("yielded", causes)
                logger.info("The worker group made room and is started again: %s", error)
                return FailureDecision.RETRY
            self._tell_hung(error.worker_failures)
            died = {rank: cause for rank, cause in error.worker_failures.items() if isinstance(cause, _DEATHS)}
            self._tell_ended("lost", died, witnesses=sorted(set(error.worker_failures) - set(died)))
        elif isinstance(error, PreemptionError):
            self._tell_ended("lost", dict.fromkeys(error.preemption_info.preempted_ranks, error))
        return super().make_decision(error)

    def _decide_on_start(self, error: ControllerError) -> FailureDecision:
        """Go on trying until there has been no group for ``patience_s``."""
        now = monotonic()
        self._not_starting_since = self._not_starting_since or now
        is_over = now - self._not_starting_since > self._patience_s
        return FailureDecision.RAISE if is_over else super().make_decision(error)

    def _tell_hung(self, failures: Mapping[int, Exception]) -> None:
        for rank, failure in failures.items():
            if isinstance(failure, WorkerHealthCheckTimeoutError):
                doing, where = "not answering Ray Train", "a frozen process, or code that holds Python's lock"
                seconds = self._hang_timeout_s
                self._tell({"kind": "worker_hung", "rank": rank, "seconds": seconds, "doing": doing, "where": where})

    def _tell_ended(self, cause: str, failures: Mapping[int, Exception], *, witnesses: Sequence[int] = ()) -> None:
        """Tell an end; where only ``witnesses`` are known, who lost a peer, the collector works out who is missing."""
        message = "; ".join(dict.fromkeys(told_death(failure) for failure in failures.values()))
        ended = {"kind": "group_ended", "cause": cause, "ranks": sorted(failures), "message": message or "is gone"}
        self._tell({**ended, "witnesses": [] if failures else list(witnesses)})

    def _tell(self, event: dict[str, Any]) -> None:
        """Pass an event on without waiting; the run goes on without it when the collector is gone."""
        with suppress(Exception):
            self._collector.note.remote({**event, "time": time()})


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
            return "its process was killed, or crashed"
        return first_line(death)
    return first_line(failure)
