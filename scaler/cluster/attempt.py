"""One worker's part in one attempt of a run: it joins its group, builds the recipe, trains, and reports failures.

How the worker reaches the others of its group and the collector is behind ``Group``. This module imports no Ray, so
that a process without Ray can train, too.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from scaler.cluster.group import Group, GroupWorker
from scaler.cluster.mailbox import Mailbox
from scaler.cluster.messages import AttemptStart
from scaler.cluster.preflight import begin_storage_check, missing_module, require_shared
from scaler.cluster.restart_signals import LostDataProcess, OutOfMemory, Restart, first_line
from scaler.cluster.versions import (
    Versions,
    differences,
    installed_versions,
    require_one_torch,
    require_same_as_driver,
)
from scaler.cluster.watchdog import REPORT_S, Watchdog
from scaler.cluster.worker_log import WorkerLog
from scaler.errors import ClusterError, ScalerError, TrainingError
from scaler.job import Job, parse_job
from scaler.metrics.events import (
    WAITING,
    Event,
    RanOutOfMemory,
    WorkerFailed,
    WorkerHung,
    WorkerStarted,
)
from scaler.plan import Plan, limit_micro_batches, make_plan
from scaler.runs import RunFolder
from scaler.runs.filesystems import STORAGE_PATIENCE_S

SETTLE_S = 30.0  # the collector may take this long to receive what a failed worker handed over


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every worker gets from the driver.

    Args:
        job: ``Job.model_dump()``.
        plan: ``Plan.to_dict()`` for the number of workers that the job asks for.
        folder: the run's folder.
        recipe_folder: the job file's folder, as the workers see it.
        collector: the collector's actor handle; None in a process that reaches it through another one.
        driver: the versions of the process that runs the run.
        embedded: whether the cluster ends with the driver; then its nodes are this machine.
        places: where the run waits for a decision, as ``review.py`` has it.
    """

    job: Mapping[str, Any]
    plan: Mapping[str, Any]
    folder: RunFolder
    recipe_folder: str
    collector: Any
    driver: Versions
    embedded: bool
    places: Sequence[int] = ()


def work(assignment: Assignment, group: Group) -> str:
    """Train: what every process of a group does with an assignment.

    Returns:
        How it ended: ``finished``, ``stopped`` or ``yielded``.

    Raises:
        Restart: the group is to be started again, from the newest checkpoint.
        Exception: the failure of this worker; the collector has its event.
    """
    rank = group.rank
    mailbox = Mailbox(group.deliver, rank=rank)
    attempt = _Attempt(assignment, group, mailbox)
    try:
        require_shared(assignment.folder)
        attempt.check_node()
        with WorkerLog(assignment.folder, rank=rank):
            reason = attempt.train()
            _require_written(mailbox, rank)
        return reason
    except (Exception, SystemExit) as error:  # sys.exit() in a recipe is a failure, too
        if not isinstance(error, Restart | LostDataProcess):  # the failure policy reports these
            node = None if assignment.embedded else socket.gethostname()
            mailbox.put([], [_failure(error, rank, attempt.number, node)], attempt=None)
        mailbox.wait_taken(within_s=SETTLE_S)
        if isinstance(error, SystemExit):
            raise RuntimeError(f"the recipe called sys.exit({error.code})") from error
        raise
    finally:
        attempt.watchdog.stop()
        mailbox.close()


class _Attempt:
    """One worker's part in one attempt: it joins its group, builds the recipe and trains."""

    def __init__(self, assignment: Assignment, group: Group, mailbox: Mailbox) -> None:
        self._assignment, self._group, self._mailbox = assignment, group, mailbox
        self._rank, self._world_size = group.rank, group.world_size
        self._job = parse_job(assignment.job, source="the job")
        self._versions, self._node = installed_versions(), socket.gethostname()
        self._storage_check: Future[None] | None = None
        self.number: int | None = None
        self.watchdog = Watchdog(self._job.failures.hang_timeout_s, on_hang=self._report_hang)

    def check_node(self) -> None:
        """Refuse a node whose versions do not fit; begin to check the storage, once on each node.

        Raises:
            ClusterError: names the node.
        """
        require_same_as_driver(self._versions, self._assignment.driver, node=self._node)
        if not self._assignment.embedded and self._group.local_rank == 0:
            self._storage_check = begin_storage_check(self._assignment.folder, rank=self._rank)
            if self._assignment.folder.local_path is not None:  # takes milliseconds, and the log is written there next
                self._storage_check.result()

    def train(self) -> str:
        """Train until the end, or until the worker has to leave; return why it ended."""
        from scaler.training.data.batches import is_lost_data_process
        from scaler.training.device import is_out_of_memory
        from scaler.training.process_group import leave_group
        from scaler.training.randomness import seed_everything
        from scaler.training.work import Work

        worker, start, limit = self._join()
        job, plan = self._job, _plan_for(self._assignment, self._job, self._world_size)
        if limit is not None and job.scale.per_worker_batch_size == "auto":
            plan = limit_micro_batches(plan, limit)
        self.watchdog.now("building the recipe")
        seed_everything(job.train.seed)
        folder = Path(self._assignment.recipe_folder).absolute()
        training = Work(job, plan, worker, recipe_folder=folder, on_start=self.watchdog.follow)
        try:
            reason = training.run(start)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and not self._assignment.embedded:
                raise missing_module(error, job.recipe_function) from error
            if is_lost_data_process(error):
                raise LostDataProcess(f"a process that loads its data is gone: {first_line(error)}") from error
            seen = training.samples_seen
            if seen is not None and job.scale.per_worker_batch_size == "auto" and is_out_of_memory(error):
                self._run_out_of_memory(error, plan.phase_at(seen).per_worker_batch_size)
            raise
        self.watchdog.now("leaving its group")
        leave_group()
        return str(reason)

    def _join(self) -> tuple[GroupWorker, int | None, int | None]:
        """Agree with the other workers on the attempt, the checkpoint and the meeting point.

        Returns:
            This worker's context, the samples seen of the checkpoint to start from, and the most samples in one
            forward/backward.
        """
        from scaler.training.checkpoints.files import find_checkpoint, passed_over_events
        from scaler.training.device import describe_device, prepare_device, use_threads
        from scaler.training.process_group import MeetingPoint, collective_backend, set_meeting_variables

        assignment, group, watchdog = self._assignment, self._group, self.watchdog
        rank, world_size = group.rank, group.world_size
        use_threads(self._job.resources.cpus_per_worker)
        set_rank_variables(group)
        gpus = self._job.resources.gpus
        device = group.device(gpus)
        prepare_device(device, self._job.train)
        meeting = None
        agreed: tuple[AttemptStart, int | None, str, int | None, Versions, str] | None = None
        events: list[Event] = []
        link: tuple[float | None, float | None] = (None, None)
        if rank == 0:
            host = group.host()
            watchdog.now("asking the collector for its attempt")
            begun = group.begin_attempt()
            watchdog.now("looking for a checkpoint")
            start, passed_over = find_checkpoint(assignment.folder)
            events += passed_over_events(passed_over, attempt=begun.attempt)
            meeting = MeetingPoint(host, port=None, world_size=world_size) if world_size > 1 else None
            agreed = (begun, start, host, meeting.port if meeting else None, self._versions, self._node)
        if world_size > 1:
            watchdog.now(WAITING)
            agreed = group.broadcast(agreed)
            assert agreed is not None
            require_one_torch(self._versions, agreed[4], node=self._node, first_node=agreed[5])
            meeting = meeting or MeetingPoint(agreed[2], port=agreed[3], world_size=world_size)
            meeting.join(rank=rank, backend=collective_backend(gpus))
            set_meeting_variables(agreed[2], meeting.port)
            if group.node_rank > 0 and group.local_rank == 0:  # one worker of each node but that of rank 0
                link = meeting.measure_link(rank=rank)
        else:
            set_meeting_variables("127.0.0.1")
        assert agreed is not None
        begun, start, _, _, first, first_node = agreed
        self.number = begun.attempt
        found = differences(self._versions, first, assignment.driver, node=self._node, first_node=first_node)
        if self._storage_check is not None:
            self._storage_check.result()
        worker = GroupWorker(
            group, assignment.folder, self._mailbox, attempt=self.number, device=device, places=assignment.places
        )
        started = WorkerStarted(
            time=time(),
            attempt=self.number,
            rank=rank,
            node=self._node,
            pid=os.getpid(),
            world_size=world_size,
            start_samples=start or 0,
            versions=self._versions.to_dict(),
            differences=found or None,
            round_trip_s=link[0],
            link_mib_per_s=link[1],
            **describe_device(device),
        )
        worker.hand_over([], [started, *events], samples_seen=0)
        return worker, start, begun.micro_batch_limit

    def _run_out_of_memory(self, error: Exception, size: int) -> None:
        """Make the group start again with half the micro-batch; a micro-batch of one sample cannot be halved."""
        if size == 1:
            raise TrainingError(
                f"rank {self._rank} has no memory for a micro-batch of 1 sample: {first_line(error).rstrip('.')}.",
                "Use a smaller model, smaller samples, precision bf16, or workers with more memory.",
            ) from error
        event = RanOutOfMemory(time=time(), attempt=self.number, rank=self._rank, per_worker_batch_size=size)
        self._mailbox.put([], [event], attempt=None)
        raise OutOfMemory(f"rank {self._rank} has no memory for a micro-batch of {size} samples") from error

    def _report_hang(self, seconds: float, doing: str, where: str) -> None:
        """Upload the event of a hang before the process ends."""
        event = WorkerHung(time=time(), attempt=self.number, rank=self._rank, seconds=seconds, doing=doing, where=where)
        self._mailbox.put([], [event], attempt=None)
        self._mailbox.wait_taken(within_s=REPORT_S)


def set_rank_variables(group: Group) -> None:
    """Set torchrun's variables in this process, for recipes and libraries that read their rank from them."""
    os.environ |= {
        "RANK": str(group.rank),
        "WORLD_SIZE": str(group.world_size),
        "LOCAL_RANK": str(group.local_rank),
        "LOCAL_WORLD_SIZE": str(group.local_world_size),
        "NODE_RANK": str(group.node_rank),
    }


def _require_written(mailbox: Mailbox, rank: int) -> None:
    """Refuse to end before everything that was handed over is in the run's folder."""
    if not mailbox.wait_written(within_s=STORAGE_PATIENCE_S):
        raise ClusterError(
            f"the newest records of rank {rank} are not in the run's folder after {STORAGE_PATIENCE_S:g} s.",
            "Check the driver's node and the storage.",
        )


def _plan_for(assignment: Assignment, job: Job, world_size: int) -> Plan:
    """Return the plan of this attempt: a new one if the group has another size than the plan from the driver."""
    planned = Plan.from_dict(assignment.plan)
    if planned.world_size == world_size:
        return planned
    return make_plan(job, world_size, num_samples=planned.num_samples, parameters=planned.parameters)


def _failure(error: BaseException, rank: int, attempt: int | None, node: str | None) -> WorkerFailed:
    """Return an exception as an event, which other processes can read without unpickling it."""
    about: dict[str, Any] = {"time": time(), "attempt": attempt, "rank": rank, "node": node}
    about["error"] = type(error).__name__
    if isinstance(error, ScalerError):  # also where torch, which the imports below load, is not installed
        return WorkerFailed(problem=error.problem, remedy=error.remedy, traceback="", by_peer=False, **about)
    from scaler.training.process_group import is_lost_peer
    from scaler.training.recipe.failures import error_text, recipe_traceback

    return WorkerFailed(
        problem=error_text(error),
        remedy="",
        traceback=recipe_traceback(error),
        by_peer=is_lost_peer(error),
        **about,
    )
