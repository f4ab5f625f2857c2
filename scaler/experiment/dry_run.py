"""What an experiment would run: every plan, what has run already, and how long the rest takes."""

from collections.abc import Callable, Sequence
from math import floor
from shlex import quote

from scaler.cluster.capacity import local_cpus
from scaler.cluster.running import require_reachable
from scaler.core.intervals import Estimate
from scaler.experiment.estimate import Knowledge, total
from scaler.experiment.known_runs import work_text
from scaler.experiment.matrix import Cell, Matrix
from scaler.experiment.run import find_work
from scaler.job import Job, dump_job
from scaler.job.mesh import workers_step
from scaler.plan import Plan
from scaler.report.experiment.labels import label
from scaler.report.experiment.progress import DryRun, PlannedCell
from scaler.report.plan.estimate import PlanEstimate

ONE_WORKER = ("scale.num_workers", "scale.grad_accum_steps")  # keys that the command for one worker sets

BREAK = " \\\n    --set "  # in a command to paste

Estimator = Callable[[Plan, Job], PlanEstimate | None]


def dry_run(matrix: Matrix, *, address: str | None = None, retry: bool = False) -> DryRun:
    """Return what an experiment would run.

    Args:
        matrix: of the experiment.
        address: of the cluster that it would run on, which must answer; whether the workers fit on it is not
            known before they start. None: this machine.
        retry: whether cells that failed would run again.

    Raises:
        RunError: the storage cannot be read.
        ClusterError: no cluster answers at the address, or it refuses this process.
    """
    if address is not None:
        require_reachable(address)
    work = find_work(matrix, address=address, retry=retry)
    to_run = {cell.number for cell in work.to_run}
    estimator = _estimator(matrix)
    cells = [
        _planned(cell, row.run_id, row.problem, is_to_run=cell.number in to_run, estimator=estimator)
        for cell, row in zip(matrix.cells, work.rows, strict=True)
    ]
    waiting = [cell for cell in cells if cell.is_to_run]
    return DryRun(
        name=matrix.experiment.name,
        cells=cells,
        time_s=_sum([cell.time_s for cell in waiting]),
        cost=_sum([cell.cost for cell in waiting]),
        unknown=sorted({cell.world_size for cell in waiting if cell.time_s is None and cell.world_size is not None}),
        remedies=_remedies(matrix, [cell for cell, row in zip(matrix.cells, work.rows, strict=True) if row.problem])
        if address is None
        else (),
    )


def _remedies(matrix: Matrix, refused: Sequence[Cell]) -> Sequence[str]:
    """Return what to do about cells with more workers than this machine has CPUs for; nothing: there are none.

    A job with a mesh or with GPUs gets no such advice: one worker may not hold its model.
    """
    cpus = local_cpus()
    large = [
        (cell.job, cell.plan)
        for cell in refused
        if cell.job is not None
        and cell.plan is not None
        and cell.job.resources.gpus_per_worker in (0, "auto")
        and workers_step(cell.job) == 1
        and cell.plan.world_size * cell.job.resources.cpus_per_worker > cpus
    ]
    if not large:
        return ()
    tuned = matrix.base.reference.global_batch_size
    batches = [tuned, *sorted({plan.units.size(plan.global_batch_size) for _, plan in large} - {tuned})]
    experiment, compare = matrix.experiment, matrix.experiment.compare
    options = [
        *(text for text in matrix.overrides if text.partition("=")[0] not in ONE_WORKER),
        "scale.num_workers=1",
        *(["scale.grad_accum_steps=null"] if any(job.scale.grad_accum_steps is not None for job, _ in large) else []),
    ]
    alone = [
        f"scaler experiment run {quote(matrix.job_path)} --batches {','.join(map(str, batches))}",
        *(f"--set {quote(text)}" for text in options),
        f"--seeds {len(experiment.seeds)}",
        f"--metric {compare.metric} --margin {compare.margin:g}"
        if compare is not None and compare.margin is not None
        else "--metric NAME --margin X",
    ]
    share = floor(100 * cpus / max(plan.world_size for _, plan in large)) / 100
    shared = f"To run them here, let workers share CPUs: --set resources.cpus_per_worker={share:g}. Their speed then "
    command = " ".join(alone).replace(" --set ", BREAK)
    return (
        f"Their quality needs no workers: one worker with the same global batch gives the same training.\n  {command}",
        *([f"{shared}tells nothing about a larger machine."] if share else []),
        "Their speed needs a machine or a cluster with a CPU for each worker: --address auto, on a node of a cluster.",
    )


def _estimator(matrix: Matrix) -> Estimator:
    """Return the estimate of a cell; cells with the same work for a sample share what is known of it."""
    known: dict[str, Knowledge] = {}
    found: dict[str, PlanEstimate | None] = {}

    def estimate(plan: Plan, job: Job) -> PlanEstimate | None:
        work = work_text(dump_job(job))
        price = job.resources.price_per_worker_hour
        same = f"{work}{plan.world_size} {plan.phases} {plan.end_samples} {plan.eval_every_samples} {price}"
        if same not in found:
            if work not in known:
                known[work] = Knowledge.of(job, storage=matrix.base.storage)
            found[same] = known[work].estimate(plan, job=job, source=matrix.job_path, in_experiment=True)
        return found[same]

    return estimate


def _planned(cell: Cell, run_id: str | None, problem: str, *, is_to_run: bool, estimator: Estimator) -> PlannedCell:
    plan, job = cell.plan, cell.job
    estimate = estimator(plan, job) if plan is not None and job is not None and is_to_run else None
    return PlannedCell(
        cell=cell.number,
        label=label(cell.overrides),
        seed=cell.seed,
        run_id=run_id,
        is_to_run=is_to_run,
        problem=problem,
        world_size=plan.world_size if plan is not None else None,
        global_batch_size=plan.units.size(plan.global_batch_size) if plan is not None else None,
        rule=plan.rule if plan is not None else None,
        peak_lr=plan.peak_lr if plan is not None else None,
        total_steps=plan.total_steps if plan is not None else None,
        time_s=estimate.time_s if estimate is not None else None,
        cost=estimate.cost if estimate is not None else None,
    )


def _sum(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """Return the sum of the cells that run one after another; None: not known for one of them, or there is none."""
    known = [estimate for estimate in estimates if estimate is not None]
    return total(*known) if known and len(known) == len(estimates) else None
