"""Ray Train's policy for a fixed number of workers, for a cluster that has no autoscaler.

It is unpickled in Ray Train's controller, so this module imports nothing else of ours.
"""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy


class FixedWithoutAutoscaler(FixedScalingPolicy):
    """Asks nobody for nodes: the actor that would pass the request on costs an embedded cluster two CPU seconds."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    async def before_controller_shutdown(self) -> None:
        """Nothing was asked for."""

    def before_controller_abort(self) -> None:
        """Nothing was asked for."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""
