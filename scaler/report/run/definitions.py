"""The numbers of a run: the name, unit, population and definition of each, and the function that reads it.

The report in all its forms, the comparison, the checks and the notebook use this table; ``docs/numbers.md`` is made
from it. A number with another definition has another name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report

Read = Callable[[Report], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """One number of a run.

    Attributes:
        key: its key in ``scaler compare --json``.
        name: as shown to the user.
        unit: ``s``, ``samples/s``, ``samples``, ``GiB``, ``%``, or nothing.
        of: its population, in a few words that are shown beside it.
        definition: how it is computed, in one or two sentences.
        where: its place in ``report.json``.
        read: returns its value in a run; None: not known.
    """

    key: str
    name: str
    unit: str
    of: str
    definition: str
    where: str
    read: Read


TRAIN_LOSS = Number(
    key="train_loss",
    name="train loss",
    unit="",
    of="mean over ranks, last epoch",
    definition="Sum of weight * loss over the sum of the weights, over all ranks and the steps of the last epoch. The "
    "weight of a loss is its samples, or the weight that it returns.",
    where="final.train_loss_mean",
    read=lambda report: report.final.train_loss_mean,
)
SPEED = Number(
    key="samples_per_s",
    name="speed",
    unit="samples/s",
    of="all workers",
    definition="Samples of all steps that are in the final weights, divided by the time in steps.",
    where="totals.samples_per_s",
    read=lambda report: report.totals.samples_per_s,
)
TRAIN_S = Number(
    key="train_s",
    name="time in steps",
    unit="s",
    of="mean over ranks",
    definition="Step times, summed over the steps that are in the final weights, mean over ranks: without start-up, "
    "evaluations, checkpoints and work that was trained again.",
    where="totals.train_s",
    read=lambda report: report.totals.train_s if report.totals.steps else None,
)
WALL_S = Number(
    key="wall_s",
    name="wall clock",
    unit="s",
    of="from submission to the end",
    definition="Seconds from submission to the end, without the time before a resume in which no driver ran the run.",
    where="totals.wall_s",
    read=lambda report: report.totals.wall_s,
)
WORKER_SPEED = Number(
    key="worker_samples_per_s",
    name="speed of a worker",
    unit="samples/s",
    of="the attempts with the last number of workers",
    definition="Samples divided by the sum of all workers' step times. If the number of workers did not "
    "change, this is the speed divided by the number of workers.",
    where="scaling.worker_samples_per_s",
    read=lambda report: None if report.scaling is None else report.scaling.worker_samples_per_s,
)


def _efficiency(report: Report) -> float | None:
    return None if report.scaling is None or report.scaling.efficiency is None else 100 * report.scaling.efficiency


EFFICIENCY = Number(
    key="efficiency",
    name="efficiency",
    unit="%",
    of="against one worker alone",
    definition="Speed of a worker divided by the speed of one worker alone. `report.json` and `scaler check` have it "
    "as a share.",
    where="scaling.efficiency",
    read=_efficiency,
)
MFU = Number(
    key="mfu",
    name="MFU",
    unit="%",
    of="of a worker's peak",
    definition="Speed of a worker times the recipe's FLOPs of a sample, divided by `resources.peak_tflops_per_worker`. "
    "`report.json` has it as a share.",
    where="flops.mfu",
    read=lambda report: None if report.flops is None or report.flops.mfu is None else 100 * report.flops.mfu,
)
STEP_TIME = Number(
    key="step_time",
    name="time of a step",
    unit="s",
    of="the greatest of the workers' medians",
    definition="Median of the step times of each worker; the greatest of these medians.",
    where="workers[].step_time_s.median",
    read=lambda report: max((row.step_time_s.median for row in report.workers if row.steps), default=None),
)


def _share(part: str) -> Read:
    def read(report: Report) -> float | None:
        times = [(row.compute_s, row.data_wait_s, row.sync_wait_s, row.update_s) for row in report.workers]
        whole = sum(map(sum, times))
        return 100 * sum(getattr(row, part) for row in report.workers) / whole if whole else None

    return read


DATA_WAIT = Number(
    key="data_wait",
    name="data wait",
    unit="%",
    of="of all workers' step times",
    definition="Seconds that workers waited for their samples, divided by the step times, both summed over all "
    "workers.",
    where="workers[].data_wait_s",
    read=_share("data_wait_s"),
)
SYNC_WAIT = Number(
    key="sync_wait",
    name="sync wait",
    unit="%",
    of="of all workers' step times",
    definition="Seconds from a worker's last gradient to the end of the all-reduce, divided by the step times, both "
    "summed over all workers.",
    where="workers[].sync_wait_s",
    read=_share("sync_wait_s"),
)
MEMORY = Number(
    key="peak_memory",
    name="peak memory",
    unit="GiB",
    of="the worker with the most",
    definition="Peak memory of a worker: on a GPU that of the device, on a CPU that of the process.",
    where="workers[].peak_memory_gib",
    read=lambda report: max((row.peak_memory_gib for row in report.workers if row.steps), default=None),
)
STARTUP_S = Number(
    key="startup",
    name="start-up",
    unit="s",
    of="to the first step",
    definition="Seconds from submission to the first attempt's first step.",
    where="attempts[0].elapsed_s",
    read=lambda report: report.attempts[0].elapsed_s if report.attempts else None,
)
COST = Number(
    key="cost",
    name="cost",
    unit="",
    of="of all workers, idle or not",
    definition="Worker hours of all attempts times `resources.price_per_worker_hour`, in its currency.",
    where="cost.total",
    read=lambda report: report.cost.total if report.cost else None,
)
ATTEMPTS = Number(
    key="attempts",
    name="attempts",
    unit="",
    of="of the worker group",
    definition="Number of starts of the worker group and of returns to a checkpoint.",
    where="attempts",
    read=lambda report: float(len(report.attempts)) if report.attempts or not find_missing_data(report) else None,
)

SPEEDS = (
    *(SPEED, WORKER_SPEED, EFFICIENCY, MFU, STEP_TIME, DATA_WAIT, SYNC_WAIT, MEMORY, STARTUP_S, TRAIN_S, WALL_S, COST),
    ATTEMPTS,
)
"""The numbers of speed and cost that a comparison shows, in this order."""

NUMBERS = {number.key: number for number in (TRAIN_LOSS, *SPEEDS)}


def evaluation(name: str) -> Number:
    """Return the definition of one value of the last evaluation."""
    return Number(
        key=f"eval.{name}",
        name=f"eval {name}",
        unit="",
        of="last evaluation",
        definition="Value of the last evaluation, over all of eval_data.",
        where=f"final.eval.{name}",
        read=lambda report: report.final.eval.get(name),
    )
