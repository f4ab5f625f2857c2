"""Estimate the time, the cost and the risk of plans from the finished runs and the experiments of a storage."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from shlex import quote
from typing import Any

from scaler.cluster.address import choose_address
from scaler.cluster.capacity import local_cpus
from scaler.core.intervals import Estimate
from scaler.core.scaling_fits import predict_step_time
from scaler.core.scaling_laws import LAWS
from scaler.core.step_time import step_time_at
from scaler.experiment.folder import ExperimentFolder, list_experiments
from scaler.experiment.known_runs import (
    MOST_REPORTS,
    REPEATS,
    KnownRun,
    PlannedRun,
    known_run,
    merged,
    planned_runs,
)
from scaler.experiment.risks import ALTERED, find_risks, is_alike, read_experiments
from scaler.job import Job
from scaler.plan import Plan
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.text.format import plural

LEVEL = 0.9  # of the interval of a law's prediction
BEYOND = 2.0  # a law is not used for more than so many times the workers that were run
LAW_OF = {"strong": LAWS["strong", "amdahl"], "weak": LAWS["weak", "gustafson"]}
LENGTHS = ("train.epochs", "train.steps", "train.samples", "train.tokens")  # keys that a short run replaces
SHOWN_RUNS = 8  # ids that are named
BETWEEN_S = 1.0  # from one cell's last step to the next one's first


class Knowledge:
    """The finished runs and the experiments of a job in a storage; reports are read when a plan needs them.

    Args:
        runs: of the job, the newest first.
        experiments: of the storage.
        job: any of those whose plans are estimated: the work for a sample is the same in all.
    """

    def __init__(self, runs: Sequence[PlannedRun], experiments: Sequence[ExperimentFolder], job: Job) -> None:
        self._runs, self._experiments, self._job = runs, experiments, job
        self._read: dict[str, KnownRun | None] = {}
        self._reports: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, job: Job, *, storage: str | None = None) -> "Knowledge":
        """Return what a storage has about a job.

        Args:
            job: with any number of workers and any batch.
            storage: a folder or URI; None: the job's.

        Raises:
            RunError: the storage cannot be listed.
        """
        storage = job.storage if storage is None else storage
        runs = planned_runs(job, storage=storage)
        return cls(runs, list_experiments(storage) if runs else (), job)

    def estimate(
        self, plan: Plan, *, job: Job, source: str, overrides: Sequence[str] = (), in_experiment: bool = False
    ) -> PlanEstimate | None:
        """Return what is known of a plan; None: nothing.

        Args:
            plan: of the job.
            job: of the plan; gives the price.
            source: the job file, for what to run.
            overrides: ``key.key=value`` texts that a person typed, for what to run.
            in_experiment: whether the plan is that of a cell, whose workers are there already.
        """
        if not self._runs:
            return None
        known = self._known(plan)
        risks = find_risks(plan, self._experiment_reports(), runs=self._runs, known=known)
        same = [run for run in known if run.plan.world_size == plan.world_size and run.step_s is not None]
        others = sorted({run.plan.world_size for run in known if run.step_s is not None} - {plan.world_size})
        if not same and not others and not risks:
            return None
        train, used, basis = _from_runs(plan, same) if same else _from_law(plan, known)
        if train is not None and train.high is not None and plan.is_measured:  # the number of steps is not known
            most = train.high * plan.most_samples / plan.end_samples
            train = Estimate(value=None, low=train.low, high=most)
        other = self._other(plan, used or same, in_experiment=in_experiment) if train is not None else None
        time = total(train, other) if train is not None and other is not None else None
        price = job.resources.price_per_worker_hour
        return PlanEstimate(
            world_size=plan.world_size,
            time_s=time,
            train_s=train,
            other_s=other,
            saved_s=_saved(plan, train, same) if train is not None else None,
            cost=_times(time, plan.world_size * price / 3600) if time is not None and price is not None else None,
            basis=basis,
            runs=tuple(run.plan.folder.run_id for run in used[:SHOWN_RUNS]),
            next="" if train is not None else _short_run(plan, job, source, overrides),
            risks=tuple(risks),
        )

    def _known(self, plan: Plan) -> list[KnownRun]:
        """Return the runs that tell most of a plan: the newest of each batch, the nearest workers and batches first."""
        groups: dict[tuple[int, int], list[PlannedRun]] = {}
        for run in self._runs:
            groups.setdefault((run.world_size, run.global_batch_size), []).append(run)

        def distance(group: tuple[int, int]) -> tuple[float, float]:
            workers, batch = group
            return abs(math.log(workers / plan.world_size)), abs(math.log(batch / plan.global_batch_size))

        chosen: list[PlannedRun] = []
        for group in sorted(groups, key=distance):
            chosen += groups[group][:REPEATS]
        alike = [
            run for run in self._runs if is_alike(plan, batch=run.global_batch_size, rule=run.rule, peak_lr=run.peak_lr)
        ][:REPEATS]
        found = [self._report(run) for run in dict.fromkeys([*alike, *chosen[:MOST_REPORTS]])]
        kept = [run for run in found if run is not None]
        device = next((run.device for run in kept if run.step_s is not None), None)
        return [run for run in kept if run.device == device or run.is_diverged]

    def _report(self, run: PlannedRun) -> KnownRun | None:
        name = run.folder.run_id
        if name not in self._read:
            self._read[name] = known_run(run)
        return self._read[name]

    def _other(self, plan: Plan, runs: Sequence[KnownRun], *, in_experiment: bool) -> Estimate:
        """Return the seconds outside the steps: start-up, evaluations, checkpoints and the end."""
        evaluations = math.ceil(plan.end_samples / plan.eval_every_samples)
        between = [run.evaluation_s * evaluations + run.checkpoint_s * plan.end_samples for run in runs]
        cells = self._run_ids_of_cells()
        alike = [run for run in runs if (run.plan.folder.run_id in cells) == in_experiment]
        if in_experiment and not alike:  # a run alone starts its workers, which a cell finds
            return total(_range(between), Estimate(value=BETWEEN_S, low=BETWEEN_S, high=BETWEEN_S))
        around = [run.around_s for run in alike or runs if run.around_s is not None] or [0.0]
        return total(_range(between), _range(around))

    def _run_ids_of_cells(self) -> set[str]:
        """Return the runs that an experiment has run, whose workers were there when they started."""
        found: set[str] = set()
        for report in self._experiment_reports().values():
            with suppress(*ALTERED):
                found |= {cell["run_id"] for cell in report["cells"] if cell["order"] is not None}
        return found

    def _experiment_reports(self) -> Mapping[str, Mapping[str, Any]]:
        if self._reports is None:
            self._reports = read_experiments(self._experiments)
        return self._reports


def _from_runs(plan: Plan, runs: Sequence[KnownRun]) -> tuple[Estimate | None, Sequence[KnownRun], str]:
    """Return the seconds in steps from runs with as many workers, these runs, and what they are."""
    by_size = _by_batch(runs)
    measured = {batch: merged(same) for batch, same in by_size.items()}
    needed: set[int] = set()
    parts = []
    for batch, samples in _phases(plan):
        found = step_time_at(measured, batch)
        assert found is not None
        parts.append(_times(found, samples / batch))
        needed |= {batch} if batch in measured else set(_around(sorted(measured), batch))
    used = [run for run in runs if run.plan.global_batch_size in needed]
    sizes = ", ".join(plan.units.number(batch) for batch in sorted(needed))
    workers = plural(plan.world_size, "worker")
    return total(*parts), used, f"from {plural(len(used), 'run')} with {workers} at batch {sizes}"


def _saved(plan: Plan, train: Estimate, runs: Sequence[KnownRun]) -> Estimate | None:
    """Return how much less time the steps take than at the constant batch of the start; None: it is not known."""
    if len(plan.phases) == 1 or train.value is None:
        return None
    constant, _, _ = _from_runs(replace(plan, phases=plan.phases[:1]), runs)
    return None if constant is None or constant.value is None else total(constant, _minus(train))


def _from_law(plan: Plan, runs: Sequence[KnownRun]) -> tuple[Estimate | None, Sequence[KnownRun], str]:
    """Return the seconds in steps by a law of scaling from runs with other numbers of workers; None: no law holds."""
    known = [run for run in runs if run.step_s is not None]
    by_workers: dict[int, list[KnownRun]] = {}
    for run in known:
        by_workers.setdefault(run.plan.world_size, []).append(run)
    counts = sorted(by_workers)
    shown = ", ".join(f"{count:,}" for count in counts)
    unknown = f"not known with {plural(plan.world_size, 'worker')}: finished runs have {shown or 'none'}"
    if len(plan.phases) > 1:
        return None, (), unknown
    for kind, law in LAW_OF.items():
        times: dict[int, list[float]] = {}
        for workers, mine in by_workers.items():
            batch = plan.global_batch_size * (workers / plan.world_size if kind == "weak" else 1)
            found = step_time_at({size: merged(same) for size, same in _by_batch(mine).items()}, batch)
            if found is not None and found.value is not None and _is_inside(batch, mine):
                times[workers] = [found.value]
        if len(times) <= len(law.parameters) or plan.world_size > BEYOND * max(times):
            continue
        step = predict_step_time(law, times, plan.world_size, level=LEVEL)
        if step.low is not None and step.high is not None:
            used = [run for run in known if run.plan.world_size in times]
            ran = ", ".join(f"{count:,}" for count in sorted(times))
            text = f"by the law of {law.name.title()} from {plural(len(used), 'run')} with {ran} workers"
            return _times(step, plan.end_samples / plan.global_batch_size), used, text
    return None, (), unknown


def _by_batch(runs: Sequence[KnownRun]) -> Mapping[int, Sequence[KnownRun]]:
    found: dict[int, list[KnownRun]] = {}
    for run in runs:
        found.setdefault(run.plan.global_batch_size, []).append(run)
    return found


def _is_inside(batch: float, runs: Sequence[KnownRun]) -> bool:
    batches = [run.plan.global_batch_size for run in runs]
    return min(batches) <= batch <= max(batches)


def _phases(plan: Plan) -> Sequence[tuple[int, int]]:
    """Return the batch and the number of samples of each phase."""
    starts = [min(phase.start_samples, plan.end_samples) for phase in plan.phases]
    lengths = [end - start for start, end in pairwise([*starts, plan.end_samples])]
    return [(phase.global_batch_size, length) for phase, length in zip(plan.phases, lengths, strict=True)]


def _around(batches: Sequence[int], batch: int) -> Sequence[int]:
    """Return the measured batches that the time of another batch is taken from."""
    below = [each for each in batches if each < batch]
    above = [each for each in batches if each > batch]
    return [below[-1], above[0]] if below and above else (below[-2:] or above[:2])


def _short_run(plan: Plan, job: Job, source: str, overrides: Sequence[str]) -> str:
    """Return the command of a run of one epoch; empty: this machine has too few CPUs, and no cluster is named."""
    is_local = choose_address(None).value is None
    if is_local and plan.world_size * job.resources.cpus_per_worker > local_cpus():
        return ""
    kept = [text for text in overrides if text.partition("=")[0] not in LENGTHS]
    settings = "".join(f" --set {quote(text)}" for text in (*kept, "train.epochs=1"))
    return f"scaler submit {quote(source)} --workers {plan.world_size}{settings}"


def _range(values: Sequence[float]) -> Estimate:
    return Estimate(value=math.fsum(values) / len(values), low=min(values), high=max(values))


def _times(estimate: Estimate, factor: float) -> Estimate:
    ends = [None if end is None else end * factor for end in (estimate.value, estimate.low, estimate.high)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2])


def _minus(estimate: Estimate) -> Estimate:
    ends = [None if end is None else -end for end in (estimate.value, estimate.high, estimate.low)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2])


def total(*estimates: Estimate) -> Estimate:
    """Return the sum of times; ends add up to ends, so the range is never too short."""
    columns = zip(*((each.value, each.low, each.high) for each in estimates), strict=True)
    value, low, high = (
        None if any(end is None for end in column) else math.fsum(end for end in column if end is not None)
        for column in columns
    )
    return Estimate(value=value, low=low, high=high)
