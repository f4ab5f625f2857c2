"""Memory near its limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.text.format import number, plural

NEAR_LIMIT = 0.9  # of the limit: a longer sample, a last batch or another fragmentation takes up the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What of a limit was used: of a GPU by its worker, of a machine by all of its workers."""

    workers: tuple[WorkerRow, ...]
    peak_gib: float
    limit_gib: float

    @property
    def share(self) -> float:
        """The used share of the limit."""
        return self.peak_gib / self.limit_gib


def memory_near_limit(evidence: Evidence) -> Verdict | None:
    """A device, or a machine whose workers train on its CPU, was nearly full.

    Of a machine it is the sum of its workers' peaks, which need not have come at the same time and count what
    processes share in each of them: at most that much, and said so. What else runs there is not counted.
    """
    newest = evidence.attempts[-1].world_size if evidence.attempts else 0
    workers = [row for row in evidence.workers if row.rank < newest and row.steps and row.memory_limit_gib]
    uses = [*_devices([row for row in workers if row.device != "cpu"]), *_machines(workers)]
    near = [use for use in uses if use.share >= NEAR_LIMIT]
    if not near:
        return None
    worst = max(near, key=lambda use: use.share)
    numbers = f"{number(worst.peak_gib)} of {number(worst.limit_gib)} GiB ({worst.share:.0%})"
    rest = f"; {len(near)} of {len(uses)} are above {NEAR_LIMIT:.0%}" if len(uses) > 1 else ""
    if worst.workers[0].device == "cpu":
        (node,) = {row.node for row in worst.workers}
        where = f"The machine {node}" if node is not None else "The machine"
        return Verdict(
            code="memory_near_limit",
            rank=None,
            message=f"{where} was near the end of its memory.",
            evidence=f"its {plural(len(worst.workers), 'worker')} held at most {numbers}, the sum of their peaks{rest}",
            next="Put fewer workers on a machine, or lower scale.per_worker_batch_size with more "
            "scale.grad_accum_steps: beyond the limit, the system kills a worker.",
        )
    rank = worst.workers[0].rank
    return Verdict(
        code="memory_near_limit",
        rank=rank,
        message=f"The GPU of rank {rank} was near the end of its memory.",
        evidence=f"{numbers}{rest}",
        next="Lower scale.per_worker_batch_size and raise scale.grad_accum_steps: the global batch and the rate stay.",
    )


def _devices(workers: Sequence[WorkerRow]) -> list[Use]:
    return [
        Use(workers=(row,), peak_gib=row.peak_memory_gib, limit_gib=row.memory_limit_gib)
        for row in workers
        if row.memory_limit_gib is not None
    ]


def _machines(workers: Sequence[WorkerRow]) -> list[Use]:
    """The workers on CPUs, by the machine that they share."""
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
