"""A cluster on this machine whose nodes join and leave, and a run on it.

All nodes have one CPU, and health checks are faster than on a real cluster. A process has one Ray, so this needs a
process of its own. It ends only processes that it started.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaler.metrics.events import AttemptStarted, Event, of_type, to_dict

HEALTH_CHECKS = {  # in milliseconds; Ray's own defaults: 5000, 3000, 10000, 5 times
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    "SCALER_RESIZE_CHECK_S": "2",
}

Act = Callable[["Nodes"], None]
Step = tuple[Callable[[Sequence[Event], Any], bool], Act]
"""A condition on the run's events and progress, and what to do then."""


class Nodes:
    """The nodes of one cluster on this machine: a head without CPUs for the driver, and workers of one CPU."""

    def __init__(self, number: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH_CHECKS},
        )
        self._workers: list[Any] = []
        self.join(number)
        self.address: str = self._cluster.address

    def join(self, number: int, **options: Any) -> None:
        """Start more nodes; ``options`` are those of Ray's ``Cluster.add_node``."""
        self._workers += [self._cluster.add_node(**{"num_cpus": 1, **options}) for _ in range(number)]

    @property
    def number(self) -> int:
        """How many workers of one CPU there are."""
        return len(self._workers)

    def have(self, number: int) -> None:
        """Start or kill nodes until there are so many."""
        self.join(number - self.number)
        while self.number > number:
            self.kill()

    def kill(self) -> None:
        """Kill the newest node and everything on it, without notice."""
        self._cluster.remove_node(self._workers.pop(), allow_graceful=False)

    def announce_preemption(self, *, seconds: float) -> None:
        """Let the cluster announce that the newest node will be removed."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(
            self._workers[-1].node_id, reason, "the machine is needed elsewhere", deadline_ms
        )
        assert accepted, why

    def shut_down(self) -> None:
        """End every node."""
        self._cluster.shutdown()


@contextmanager
def cluster_of(number: int) -> Iterator[Nodes]:
    """Yield a cluster of one-CPU nodes with this process as its driver."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    import ray

    nodes = Nodes(number)
    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield nodes
    finally:
        with suppress(Exception):
            ray.shutdown()
        nodes.shut_down()


def run_through(
    nodes: Nodes,
    storage: Path,
    overrides: Sequence[str],
    steps: Sequence[Step],
    *,
    job_folder: Path,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> Any:
    """Run a job, do each step when its condition holds, and return the run's folder."""
    from scaler.cluster.connection import Connection
    from scaler.cluster.ray_run import run_on_ray
    from scaler.job import load_job
    from scaler.metrics.reader import read_events
    from scaler.plan import make_plan
    from scaler.runs import RunFolder, RunState

    job = load_job(job_folder / "job.yaml", overrides=[*overrides, f"storage={storage}"])
    plan = make_plan(job)
    folder = RunFolder.create(str(storage), name=job.name, now=datetime.now(UTC))
    folder.write("job.yaml", json.dumps(job.model_dump(mode="json", exclude_none=True)))
    folder.write_json("plan.json", plan.to_dict())
    folder.set_state(RunState.RUNNING, started_at=time.time())
    waiting = list(steps)

    def watch(progress: Any) -> None:  # on the main thread, which Ray requires for starting nodes; training continues
        if waiting and waiting[0][0](read_events(folder), progress):
            waiting.pop(0)[1](nodes)

    finished = run_on_ray(
        job,
        plan,
        folder,
        Connection(recipe=job.recipe, recipe_folder=str(job_folder), is_embedded=False),
        on_progress=watch,
        on_notice=on_notice,
        on_wait=lambda what: on_notice(f"Waiting: {what}") if what is not None else None,
    )
    assert not waiting, f"{len(waiting)} steps were not reached"
    folder.set_state(RunState.SUCCEEDED if finished else RunState.STOPPED, ended_at=time.time())
    return folder


def runs_with(workers: int) -> Callable[[Sequence[Event], Any], bool]:
    """Return the condition that a group of this size has trained for some steps."""

    def is_so(events: Sequence[Event], progress: Any) -> bool:
        starts = of_type(events, AttemptStarted)
        return (
            bool(starts) and starts[-1].world_size == workers and progress.samples_seen > starts[-1].start_samples + 50
        )

    return is_so


def outcome_of(folder: Any) -> dict[str, Any]:
    """Return the result of a run: its attempts, the steps that each repeated, and whether each sample counts once."""
    from scaler.metrics.reader import read_events, read_records
    from scaler.report.run.write import write_report

    events, report = read_events(folder), write_report(folder)
    rows = report.to_dict()["attempts"]
    ends = {row["attempt"]: row["end_samples"] for row in rows}
    table = read_records(folder).to_pylist()
    reached = {
        attempt: max(row["samples_seen"] for row in table if row["attempt"] == attempt)
        for attempt in {row["attempt"] for row in table}
    }
    kept = [row for row in table if row["samples_seen"] < ends[row["attempt"]]]
    by_step: dict[int, int] = {}
    for row in kept:
        by_step[row["samples_seen"]] = by_step.get(row["samples_seen"], 0) + row["samples"]
    at, is_whole = 0, True
    for samples_seen, samples in sorted(by_step.items()):
        is_whole = is_whole and samples_seen == at
        at = samples_seen + samples
    starts = of_type(events, AttemptStarted)
    return {
        "sizes": [start.world_size for start in starts],
        "global_batch_sizes": [start.global_batch_size for start in starts],
        "starts": [start.start_samples for start in starts],
        "attempts": rows,
        "lost_samples": [max(0, reached.get(row["attempt"], 0) - row["end_samples"]) for row in rows],
        "samples": at,
        "every_sample_once": is_whole,
        "lr_audit": report.to_dict()["lr_audit"],
        "totals": report.to_dict()["totals"],
        "final": report.to_dict()["final"],
        "events": [to_dict(event) for event in events if event.kind not in ("checkpointed", "evaluated")],
    }
