"""Decide how many workers a group has: the scaling policies that scaler gives to Ray Train.

Ray Train's controller unpickles these policies, so this module imports little.
"""

import logging
import time
from collections import Counter
from typing import Any

import ray

from scaler.cluster.capacity import count_workers, reachable_nodes, usable_nodes
from scaler.cluster.ray_internals import ElasticScalingPolicy, FixedScalingPolicy, NoopDecision
from scaler.cluster.restart_signals import NoCapacityError

CHECK_S = 1.0  # between two counts of the nodes while a group runs
YIELD_S = 60.0  # a group may take this long to save; then Ray resizes it, and it starts from the last checkpoint
PAUSE_S = 0.5  # between two counts of the nodes while no group runs

logger = logging.getLogger(__name__)


class FixedWithoutAutoscaler(FixedScalingPolicy):
    """Keeps the number of workers, and requests no nodes.

    This is for a cluster without an autoscaler. The actor that passes requests to an autoscaler would cost two CPU
    seconds.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request nothing."""

    async def before_controller_shutdown(self) -> None:
        """Withdraw nothing."""

    def before_controller_abort(self) -> None:
        """Withdraw nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Request nothing."""


class ElasticPolicy(ElasticScalingPolicy):
    """Resizes a group between ``min_workers`` and ``max_workers``, in steps of ``step``, without losing a step.

    A group that is to have another size is asked to save and leave; then the failure policy starts it again with the
    new size.

    Args:
        scaling_config: Ray Train's.
        step: the number of workers is a multiple of it, as the job's mesh needs.
        collector: the collector's actor handle.
        steady_s: a group is resized when the new size has been possible, and the group has run, for this many seconds.
        patience_s: how many seconds the cluster may be too small for the job before the run ends.
        asks_for_nodes: whether to request nodes from the cluster's autoscaler.
    """

    def __init__(
        self,
        scaling_config: Any,
        *,
        step: int,
        collector: Any,
        steady_s: float,
        patience_s: float,
        asks_for_nodes: bool,
    ) -> None:
        super().__init__(scaling_config)
        self._step, self._collector = step, collector
        self._steady_s, self._patience_s, self._asks_for_nodes = steady_s, patience_s, asks_for_nodes
        self._held: Counter[str] = Counter()  # workers of the group by node
        self._checked_at = float("-inf")
        self._possible: tuple[int, float] | None = None  # a size, and since when it is possible
        self._asked_at: float | None = None
        self._group_began: float | None = None
        self._too_small_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start a group on the nodes that answer, or wait for more of them."""
        self._maybe_send_resource_request()
        self._asked_at = self._possible = None
        possible, least = self._count(only_reachable=True), self.scaling_config.min_workers
        if possible >= least:
            self._too_small_since = None
            return self._get_resize_decision(possible)
        now = time.monotonic()
        self._too_small_since = self._too_small_since or now
        if now - self._too_small_since > self._patience_s:
            raise NoCapacityError(f"the cluster has had capacity for {possible} workers for {self._patience_s:g} s.")
        time.sleep(PAUSE_S)
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Ask the group to save and leave when another size has been possible for ``steady_s``."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if worker_group_state.start_time != self._group_began:
            self._group_began = worker_group_state.start_time
            self._asked_at = self._possible = None
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        if now - self._checked_at < CHECK_S:
            return NoopDecision()
        self._checked_at = now
        if self._asked_at is not None:
            return self._get_resize_decision(self._wanted()) if now - self._asked_at > YIELD_S else NoopDecision()
        size, possible = worker_group_state.num_workers, self._count(only_reachable=False)
        if possible < self.scaling_config.min_workers or possible == size:
            self._possible = None
        elif self._possible is None or self._possible[0] != possible:
            self._possible = (possible, now)
        elif now - max(self._possible[1], worker_group_state.start_time) >= self._steady_s:
            self._ask_to_leave(f"{size} -> {possible} workers")
        return NoopDecision()

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Count no workers of the last group: they are gone before the next group is counted."""
        self._held = Counter()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request nodes from the autoscaler, if the cluster has an autoscaler."""
        if self._asks_for_nodes:
            super().after_controller_start(train_run_context)

    async def before_controller_shutdown(self) -> None:
        """Withdraw the request for nodes."""
        if self._asks_for_nodes:
            await super().before_controller_shutdown()  # type: ignore[no-untyped-call]

    def before_controller_abort(self) -> None:
        """Withdraw the request for nodes."""
        if self._asks_for_nodes:
            super().before_controller_abort()  # type: ignore[no-untyped-call]

    def _maybe_send_resource_request(self) -> None:
        if self._asks_for_nodes:
            super()._maybe_send_resource_request()  # type: ignore[no-untyped-call]

    def _ask_to_leave(self, detail: str) -> None:
        self._asked_at = time.monotonic()
        try:
            self._collector.request_leave.remote("resize", detail)
        except ray.exceptions.RayError:
            logger.warning("The collector could not be asked to have the workers leave.", exc_info=True)

    def _wanted(self) -> int:
        return max(self._count(only_reachable=True), self.scaling_config.min_workers)

    def _count(self, *, only_reachable: bool) -> int:
        nodes = reachable_nodes(usable_nodes()) if only_reachable else usable_nodes()
        need = self.scaling_config._resources_per_worker_not_none
        return count_workers(nodes, need, held=self._held, most=self.scaling_config.max_workers, step=self._step)
