"""The verdicts of runs that a test trained; those about time and memory depend on the machine and its load."""

from collections.abc import Mapping
from typing import Any

OF_THE_MACHINE = {
    *("input_bound", "sync_bound", "low_efficiency", "slow_startup", "straggler", "slow_node", "slow_steps"),
    *("records_thinned", "memory_near_limit"),
}


def codes(report: Mapping[str, Any]) -> list[str]:
    """Return the codes of a report's verdicts that are the same on every machine, in order."""
    return [verdict["code"] for verdict in report["verdicts"] if verdict["code"] not in OF_THE_MACHINE]
