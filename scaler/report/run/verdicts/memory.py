"""The verdict on memory that was nearly full."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.text.format import number, plural

NEAR_LIMIT = 0.9  # of the limit: a longer sample, a last batch or more fragmentation needs the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Peak memory against its limit: of a GPU by its worker, or of a machine by all of its workers."""

    workers: tuple[WorkerRow, ...]
    peak_gib: float
    limit_gib: float

    @property
    def share(self) -> float:
        """Peak memory over the limit."""
        return self.peak_gib / self.limit_gib


def memory_near_limit(evidence: Evidence) -> Verdict | None:
    """Return a verdict if a GPU, or a machine whose workers train on its CPU, was nearly full.

    For a machine the peaks of its workers are added. The sum is an upper bound: peaks need not coincide, and shared
    pages count in each process. Other processes on the machine are not counted.
    """
    newest = evidence.attempts[-1].world_size if evidence.attempts else 0
    workers = [row for row in evidence.workers if row.rank < newest and row.steps and row.memory_limit_gib]
    uses = [*_devices([row for row in workers if row.device != "cpu"]), *_machines(workers)]
    near = [use for use in uses if use.share >= NEAR_LIMIT]
    if not near:
        return None
    worst = max(near, key=lambda use: use.share)
    used = f"{number(worst.peak_gib)} of {number(worst.limit_gib)} GiB ({worst.share:.0%})"
    rest = f"; {len(near)} of {len(uses)} are above {NEAR_LIMIT:.0%}" if len(uses) > 1 else ""
    if worst.workers[0].device == "cpu":
        (node,) = {row.node for row in worst.workers}
        where = f"The machine {node}" if node is not None else "The machine"
        return Verdict(
            code="memory_near_limit",
            rank=None,
            message=f"{where} was nearly out of memory.",
            evidence=f"its {plural(len(worst.workers), 'worker')} held at most {used}: the sum of their peaks{rest}",
            next="Run fewer workers on a machine, or lower scale.per_worker_batch_size and raise "
            "scale.grad_accum_steps: beyond the limit, the system kills a worker.",
        )
    rank = worst.workers[0].rank
    return Verdict(
        code="memory_near_limit",
        rank=rank,
        message=f"The GPU of rank {rank} was nearly out of memory.",
        evidence=f"{used}{rest}",
        next="Lower scale.per_worker_batch_size and raise scale.grad_accum_steps: the global batch and the "
        "learning rate stay the same.",
    )


def _devices(workers: Sequence[WorkerRow]) -> list[Use]:
    return [
        Use(workers=(row,), peak_gib=row.peak_memory_gib, limit_gib=row.memory_limit_gib)
        for row in workers
        if row.memory_limit_gib is not None
    ]


def _machines(workers: Sequence[WorkerRow]) -> list[Use]:
    """Return the memory use of each machine by its workers that train on CPUs."""
    nodes: dict[str | None, list[WorkerRow]] = {}
    for row in workers:
        if row.device == "cpu":
            nodes.setdefault(row.node, []).append(row)
    return [
        Use(
            workers=tuple(rows),
            peak_gib=sum(row.peak_memory_gib for row in rows),
            limit_gib=max(row.memory_limit_gib for row in rows if row.memory_limit_gib is not None),
        )
        for rows in nodes.values()
    ]
