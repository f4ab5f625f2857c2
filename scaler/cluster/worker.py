"""What runs in each Ray Train worker: find one's place, join the group, train, report what fails."""

import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import ray
import ray.train

from scaler.errors import ClusterError, ScalerError
from scaler.job import Job, parse_job
from scaler.metrics.record import Record
from scaler.plan import Plan, make_plan
from scaler.runs import RunFolder

SETTLE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the driver gives every worker.

    Args:
        job: ``Job.model_dump()``.
        plan: ``Plan.to_dict()`` for the world size that was asked for.
        folder: the run's folder.
        recipe_folder: where the job file lies, as the workers see it.
        collector: the collector's actor handle.
    """

    job: Mapping[str, Any]
    plan: Mapping[str, Any]
    folder: RunFolder
    recipe_folder: str
    collector: Any


class RayWorker:
    """The surroundings of a worker on Ray Train."""

    def __init__(self, assignment: Assignment, *, rank: int, world_size: int, attempt: int, device: Any) -> None:
        self.rank, self.world_size, self.attempt, self.device = rank, world_size, attempt, device
        self.folder = assignment.folder
        self._collector = assignment.collector
        self._under_way: Any = None
        self._stop_requested = False

    def next_attempt(self) -> int:
        """Have the collector count one on."""
        return int(ray.get(self._collector.begin_attempt.remote()))

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Send to the collector without waiting; read the answer to what was sent before, if it is there."""
        self._read_answer(timeout_s=0)
        self._under_way = self._collector.hand_over.remote(records, events)

    def stop_requested(self) -> bool:
        """Whether the collector said so, in its answer to an earlier hand-over."""
        return self._stop_requested

    def settle(self) -> None:
        """Wait until the collector has everything that was handed over."""
        self._read_answer(timeout_s=SETTLE_S)
        if self._under_way is not None:
            raise ClusterError(
                f"the collector has not answered rank {self.rank} for {SETTLE_S:g} s.", "Look at the driver's node."
            )

    def _read_answer(self, *, timeout_s: float) -> None:
        if self._under_way is None:
            return
        ready, _ = ray.wait([self._under_way], timeout=timeout_s)
        if ready:
            self._stop_requested = self._stop_requested or bool(ray.get(ready[0]))
            self._under_way = None


def work(assignment: Assignment) -> bool:
    """Train; the function that Ray Train runs in every worker. Returns whether training is over."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    attempt: int | None = None
    try:
        _require_shared(assignment.folder)
        with _Log(assignment.folder, rank=rank):
            job = parse_job(assignment.job, source="the job")
            plan = _plan_for(assignment, job, world_size)
            worker, start = _join(assignment, job, rank=rank, world_size=world_size)
            attempt = worker.attempt
            return _train(assignment, job, plan, worker, start)
    except (Exception, SystemExit) as error:  # sys.exit() in a recipe is a failure like any other
        ray.get(assignment.collector.hand_over.remote([], [_failure(error, rank, attempt)]))
        if isinstance(error, SystemExit):
            raise RuntimeError(f"the recipe called sys.exit({error.code})") from error
        raise


def _require_shared(folder: RunFolder) -> None:
    """Refuse a run folder that only the submitting machine sees."""
    if not folder.exists():
        raise ClusterError(
            f"the run's folder {folder.uri} is not there on the node {socket.gethostname()}.",
            "Set storage to a folder that every node shares, or to a URI such as s3://bucket/prefix.",
        )


def _plan_for(assignment: Assignment, job: Job, world_size: int) -> Plan:
    """The plan of this attempt: made again from the reference when the group has another size than was asked for."""
    planned = Plan.from_dict(assignment.plan)
    if planned.world_size == world_size:
        return planned
    return make_plan(job, world_size, num_samples=planned.num_samples, parameters=planned.parameters)


def _join(assignment: Assignment, job: Job, *, rank: int, world_size: int) -> tuple[RayWorker, int | None]:
    """Agree with the other workers on attempt, checkpoint and meeting point; return this worker's surroundings."""
    from scaler.training.checkpoint import latest_checkpoint
    from scaler.training.group import MeetingPoint, use_threads

    use_threads(job.resources.cpus_per_worker)
    device = _device(job)
    backend = "nccl" if job.resources.gpus_per_worker >= 1 else "gloo"  # NCCL takes one worker a GPU
    meeting = None
    agreed: tuple[int, int | None, str, int | None] | None = None
    if rank == 0:
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        attempt = ray.get(assignment.collector.begin_attempt.remote())
        meeting = MeetingPoint(host, port=None, world_size=world_size) if world_size > 1 else None
        agreed = (attempt, latest_checkpoint(assignment.folder), host, meeting.port if meeting else None)
    if world_size > 1:
        from ray.train.collective import broadcast_from_rank_zero

        agreed = broadcast_from_rank_zero(agreed)
        assert agreed is not None
        meeting = meeting or MeetingPoint(agreed[2], port=agreed[3], world_size=world_size)
        meeting.join(rank=rank, backend=backend)
    assert agreed is not None
    attempt, start = agreed[:2]
    worker = RayWorker(assignment, rank=rank, world_size=world_size, attempt=attempt, device=device)
    life = {"kind": "worker_started", "time": time(), "attempt": attempt, "rank": rank}
    worker.hand_over([], [{**life, "node": socket.gethostname(), "pid": os.getpid()}])
    return worker, start


def _train(assignment: Assignment, job: Job, plan: Plan, worker: RayWorker, start: int | None) -> bool:
    from scaler.training.group import leave_group
    from scaler.training.loop import Training, seed_everything
    from scaler.training.recipe import load_recipe

    seed_everything(job.train.seed)
    recipe = load_recipe(job.recipe, folder=Path(assignment.recipe_folder).absolute(), arguments=job.recipe_args)
    training = Training(recipe, job, plan, worker)
    if start is not None:
        training.restore(start)
    finished = training.run()
    worker.settle()
    leave_group()
    return finished


def _device(job: Job) -> Any:
    """The worker's device: the GPU that Ray gave it, or the CPU."""
    from scaler.training.group import cpu, use_gpu

    if job.resources.gpus_per_worker <= 0:
        return cpu()
    import ray.train.torch

    device = ray.train.torch.get_device()
    use_gpu(device)
    return device


def _failure(error: BaseException, rank: int, attempt: int | None) -> dict[str, Any]:
    """An exception as an event that crosses processes without being unpickled."""
    from scaler.training.group import is_lost_peer

    told = isinstance(error, ScalerError)
    return {
        "kind": "worker_failed",
        "time": time(),
        "rank": rank,
        "attempt": attempt,
        "error": type(error).__name__,
        "problem": error.problem if isinstance(error, ScalerError) else f"{type(error).__name__}: {error}",
        "remedy": error.remedy if isinstance(error, ScalerError) else "",
        "traceback": "" if told else "".join(traceback.format_exception(error)),
        "by_peer": is_lost_peer(error),
    }


class _Log:
    """Sends this process's stdout and stderr to ``logs/rank-N.log`` in the run's folder.

    A folder on this machine is written as it goes; one elsewhere gets the log when the worker ends.
    """

    def __init__(self, folder: RunFolder, *, rank: int) -> None:
        self._folder, self._name = folder, f"logs/rank-{rank}.log"
        self._saved: list[tuple[int, int]] = []
        self._path = Path()

    def __enter__(self) -> None:
        local = self._folder.local_path
        self._path = (local or Path(tempfile.mkdtemp())) / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            self._saved.append((number, os.dup(number)))
            os.dup2(file, number)
        os.close(file)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, saved in self._saved:
            os.dup2(saved, number)
            os.close(saved)
        if self._folder.local_path is None:
            self._folder.write(self._name, self._path.read_bytes())
            shutil.rmtree(self._path.parent.parent)
