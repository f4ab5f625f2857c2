"""The driver's side of workers that several runs share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic, time
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from scaler.cluster.attempt import Assignment
from scaler.cluster.free_resources import require_free_resources
from scaler.cluster.gpus import SHARE_OF_TYPE, TYPE, with_gpus
from scaler.cluster.kept.host import Host, Node
from scaler.cluster.kept.place import Outcome, Place
from scaler.cluster.restart_signals import WorkersLost, first_line
from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import GroupEnded

LOST_PEER_S = 5.0  # when one worker is gone, the others notice it within this time, or are ended
POLL_S = 0.05
DONE = ("finished", "stopped", "yielded")


class KeptGroup:
    """Workers that train one run after another, each run as if it were alone. A context manager.

    The runs must have the same number of workers, the same resources, and recipes in one folder. A worker that dies is
    started again, as often as the run's ``failures.max_restarts`` allows.

    Args:
        job: gives the number of workers, their resources and their placement.
        is_embedded: whether the cluster ends with this process.

    Raises:
        ClusterError: the cluster has no free resources for the workers.
    """

    def __init__(self, job: Job, *, is_embedded: bool) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self._job, self._is_embedded = with_gpus(job, nodes), is_embedded
        self._hosts: Sequence[Any] = []
        self._placement: Any = None
        self._number = 0  # of the newest attempt of any run
        self._is_abandoned = False

    def __enter__(self) -> "KeptGroup":
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def prepare(self, recipe: str, recipe_folder: str, *, seeds: Sequence[int]) -> None:
        """Import a recipe's module on every worker, once for each seed, so that the first runs start quickly, too.

        Args:
            recipe: as the workers import it.
            recipe_folder: the job file's folder, as the workers see it.
            seeds: in the order in which they are needed; a worker keeps the imports of a few of them.
        """
        recipes = [(recipe, recipe_folder, seed) for seed in dict.fromkeys(seeds)]
        ray.get([host.prepare.remote(recipes) for host in self._hosts])

    def train(self, assignment: Assignment, job: Job) -> bool:
        """Train a run to its end.

        Args:
            assignment: of the run.
            job: the same job; its ``max_restarts`` limits how often lost workers are started again.

        Returns:
            Whether training is complete; False when it was stopped.

        Raises:
            WorkersLost: workers were lost more often than the job allows.
            TrainingError: a worker raised; the collector has the event of its failure.
        """
        self._is_abandoned = False
        restarts = 0
        while True:
            outcomes = self._attempt(assignment)
            ended = [outcome.ended for outcome in outcomes.values()]
            if all(each in DONE for each in ended):
                return "stopped" not in ended
            failed = [outcome for outcome in outcomes.values() if outcome.ended == "failed"]
            if failed or self._is_abandoned:
                raise TrainingError(failed[0].message if failed else "the run was ended.", "")
            if "restart" in ended:
                self._report_end(assignment, "yielded", outcomes, of="restart")
                continue
            self._report_end(assignment, "lost", outcomes, of="died" if "died" in ended else "lost_peer")
            restarts += 1
            if restarts > job.failures.max_restarts:
                raise WorkersLost({rank: RuntimeError(each.message) for rank, each in outcomes.items()})

    def abandon(self) -> None:
        """End the processes of the run that trains now, if there is one."""
        self._is_abandoned = True
        with suppress(ray.exceptions.RayError):
            ray.get([host.end.remote(self._number) for host in self._hosts])

    def _attempt(self, assignment: Assignment) -> Mapping[int, Outcome]:
        """Train one attempt; return how it ended on each rank. When a worker is lost, the others are ended."""
        if not self._hosts:
            self._start()
        self._number += 1
        number, hosts = self._number, self._hosts
        first = hosts[0]
        asked = {
            host.train.remote(number, assignment, None if host is first else first): rank
            for rank, host in enumerate(hosts)
        }
        outcomes: dict[int, Outcome] = {}
        lost_since: float | None = None
        is_gone = has_ended_rest = False
        while asked:
            answered, _ = ray.wait(list(asked), timeout=POLL_S)
            for reference in answered:
                rank = asked.pop(reference)
                try:
                    outcomes[rank] = ray.get(reference)
                except ray.exceptions.RayActorError as error:  # with its node, or killed
                    outcomes[rank], is_gone = Outcome(ended="died", message=first_line(error)), True
                if (
                    has_ended_rest and outcomes[rank].ended == "died"
                ):  # ended below, because it had not noticed the loss
                    outcomes[rank] = replace(outcomes[rank], ended="lost_peer")
                if outcomes[rank].ended not in DONE:
                    lost_since = lost_since or monotonic()
            if lost_since is not None and asked and monotonic() - lost_since > LOST_PEER_S:
                for host in hosts:
                    host.end.remote(number)
                lost_since, has_ended_rest = monotonic(), True
        if is_gone:
            self._close()
        return outcomes

    def _report_end(self, assignment: Assignment, cause: str, outcomes: Mapping[int, Outcome], *, of: str) -> None:
        """Send the event of an attempt that is tried again to the collector."""
        ranks = [rank for rank, outcome in sorted(outcomes.items()) if outcome.ended == of]
        message = "; ".join(dict.fromkeys(outcomes[rank].message for rank in ranks))
        event = GroupEnded(time=time(), attempt=None, cause=cause, ranks=ranks, message=message, twice_at=None)
        with suppress(ray.exceptions.RayError):
            ray.get(assignment.collector.note.remote(event))

    def _start(self) -> None:
        """Place the workers, and let them import torch."""
        job, resources = self._job, self._job.resources
        require_free_resources(job, embedded=self._is_embedded, on_wait=lambda what: None, on_poll=lambda: None)
        bundle = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus}
        if resources.accelerator_type is not None:
            bundle[TYPE + resources.accelerator_type] = SHARE_OF_TYPE
        bundle = {name: amount for name, amount in bundle.items() if amount}
        workers = job.scale.max_workers
        placement = ray.util.placement_group([bundle] * workers, strategy=resources.placement.upper())
        self._placement = placement
        ray.get(placement.ready(), timeout=resources.wait_s)
        hosts: list[Any] = [
            ray.remote(Host)
            .options(
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus,
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=number),
            )
            .remote()
            for number in range(workers)
        ]
        nodes: Sequence[Node] = ray.get([host.node.remote() for host in hosts])
        order, places, visible = placed(nodes)
        self._hosts = [hosts[number] for number in order]
        ray.get([host.start.remote(*each) for host, *each in zip(self._hosts, places, visible, strict=True)])

    def _close(self) -> None:
        for host in self._hosts:
            ray.kill(host)
        self._hosts = []
        if self._placement is not None:
            ray.util.remove_placement_group(self._placement)
            self._placement = None


def placed(nodes: Sequence[Node]) -> tuple[Sequence[int], Sequence[Place], Sequence[str | None]]:
    """Give each worker its rank: those of a node follow each other, in the order of their GPUs.

    Args:
        nodes: where each worker is.

    Returns:
        The worker of each rank; the place of each rank; and the GPUs that each rank must see, those of all workers on
        its node (NCCL copies directly between two GPUs of a node only if each process sees both), None without GPUs.
    """
    names = list(dict.fromkeys(node.name for node in nodes))
    order = sorted(range(len(nodes)), key=lambda number: (names.index(nodes[number].name), nodes[number].gpus))
    counts = Counter(node.name for node in nodes)
    is_one_node = len(names) == 1
    address = "127.0.0.1" if is_one_node else nodes[order[0]].address
    places, visible, seen = [], [], Counter[str]()
    for rank, number in enumerate(order):
        node = nodes[number]
        gpus = sorted({gpu for other in nodes if other.name == node.name for gpu in other.gpus})
        places.append(
            Place(
                rank=rank,
                world_size=len(nodes),
                local_rank=seen[node.name],
                local_world_size=counts[node.name],
                node_rank=names.index(node.name),
                address=address,
                gpu=gpus.index(node.gpus[0]) if node.gpus else None,
            )
        )
        visible.append(",".join(gpus) if gpus else None)
        seen[node.name] += 1
    return order, places, visible
