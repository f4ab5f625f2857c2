"""Ray Train's policy for an elastic group: no resize loses a step.

A group that is to have another size is asked to save and to make room; then the failure policy starts it again, of the
new size. It is unpickled in Ray Train's controller, so this module imports little.
"""

import logging
import time
from collections import Counter
from typing import Any

import ray
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision

from scaler.cluster.capacity import count_workers, that_answer, usable_nodes
from scaler.cluster.restart_signals import NoRoomError

LOOK_S = 1.0
YIELD_S = 60.0  # how long a group may take to save; then it is resized as Ray would, from its last checkpoint
PAUSE_S = 0.5  # between looks while no group is up

logger = logging.getLogger(__name__)


class ElasticPolicy(ElasticScalingPolicy):
    """Resizes between ``min_workers`` and ``max_workers`` by what the cluster holds.

    Args:
        scaling_config: Ray Train's.
        collector: the collector's actor handle.
        steady_s: how long a size must have been possible, and the group up, before the group is resized to it.
        patience_s: how long the cluster may be too small for the job before the run ends.
        asks_for_nodes: whether a cluster's autoscaler is told what the job could use.
    """

    def __init__(
        self, scaling_config: Any, *, collector: Any, steady_s: float, patience_s: float, asks_for_nodes: bool
    ) -> None:
        super().__init__(scaling_config)
        self._collector = collector
        self._steady_s, self._patience_s, self._asks_for_nodes = steady_s, patience_s, asks_for_nodes
        self._held: Counter[str] = Counter()  # workers by node
        self._looked_at = float("-inf")
        self._possible: tuple[int, float] | None = None  # a size, and since when it is possible
        self._asked_at: float | None = None
        self._group_began: float | None = None
        self._too_small_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start with what there is; a node of the last group's that does not answer is not counted."""
        self._maybe_send_resource_request()
        self._asked_at = self._possible = None
        possible, least = self._count(among_answering=True), self.scaling_config.min_workers
        if possible >= least:
            self._too_small_since = None
            return self._get_resize_decision(possible)
        now = time.monotonic()
        self._too_small_since = self._too_small_since or now
        if now - self._too_small_since > self._patience_s:
            raise NoRoomError(f"the cluster has had room for {possible} workers for {self._patience_s:g} s.")
        time.sleep(PAUSE_S)
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Have the group yield when another size has been possible for a while."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if worker_group_state.start_time != self._group_began:
            self._group_began = worker_group_state.start_time
            self._asked_at = self._possible = None
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        if now - self._looked_at < LOOK_S:
            return NoopDecision()
        self._looked_at = now
        if self._asked_at is not None:
            return self._get_resize_decision(self._wanted()) if now - self._asked_at > YIELD_S else NoopDecision()
        size, possible = worker_group_state.num_workers, self._count(among_answering=False)
        if possible < self.scaling_config.min_workers or possible == size:
            self._possible = None
        elif self._possible is None or self._possible[0] != possible:
            self._possible = (possible, now)
        elif now - max(self._possible[1], worker_group_state.start_time) >= self._steady_s:
            self._ask(f"{size} -> {possible} workers")
        return NoopDecision()

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """The last group's workers are gone by the time the next one is counted."""
        self._held = Counter()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Tell the autoscaler, where there is one."""
        if self._asks_for_nodes:
            super().after_controller_start(train_run_context)

    async def before_controller_shutdown(self) -> None:
        """Tell the autoscaler that nothing is needed any more."""
        if self._asks_for_nodes:
            await super().before_controller_shutdown()  # type: ignore[no-untyped-call]

    def before_controller_abort(self) -> None:
        """Tell the autoscaler that nothing is needed any more."""
        if self._asks_for_nodes:
            super().before_controller_abort()  # type: ignore[no-untyped-call]

    def _maybe_send_resource_request(self) -> None:
        if self._asks_for_nodes:
            super()._maybe_send_resource_request()  # type: ignore[no-untyped-call]

    def _ask(self, detail: str) -> None:
        self._asked_at = time.monotonic()
        try:
            self._collector.request_leave.remote("resize", detail)
        except ray.exceptions.RayError:
            logger.warning("The collector cannot be asked to have the workers yield.", exc_info=True)

    def _wanted(self) -> int:
        return max(self._count(among_answering=True), self.scaling_config.min_workers)

    def _count(self, *, among_answering: bool) -> int:
        nodes = that_answer(usable_nodes()) if among_answering else usable_nodes()
        need = self.scaling_config._resources_per_worker_not_none
        return count_workers(nodes, need, held=self._held, most=self.scaling_config.max_workers)
