"""Run the search of an experiment: its trials are ordinary runs, which are found again by their jobs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from scaler.cluster.connection import connect
from scaler.cluster.run_driver import require_runnable
from scaler.cluster.search.spec import (
    Between,
    Member,
    Prepared,
    SearchSpec,
    TrialContext,
    TrialNews,
    Values,
    values_key,
)
from scaler.errors import JobFileError, RunError, ScalerError
from scaler.experiment.cell_runs import JobRuns
from scaler.experiment.folder import About, CellRow, ExperimentFolder
from scaler.experiment.matrix import Matrix, make_cell
from scaler.experiment.search_section import Extent, Range
from scaler.job.changes import job_changes, require_resumable
from scaler.report.run.read import read_report
from scaler.runs import RunState
from scaler.runs.find import run_with_id
from scaler.runs.lease import present_state
from scaler.training.plan_job import RecipeFacts

GRACE_TIMES = 2  # the grace is the training divided by the reduction factor so often
SAVES = 10  # in an interval, where checkpoints are written by time
KEPT_INTERVALS = 2  # of population based training: members may be so far apart
INTERVALS = 10  # of population based training in a training


@dataclass(frozen=True, kw_only=True)
class TrialJobs:
    """Says what a setting is to train; each process that runs trials has a copy.

    Args:
        values: of the job without the setting, as ``Job.model_dump()`` has them.
        seed: ``train.seed``.
        source: names the job in errors.
        recipe_folder: of the job file.
        storage: of the runs.
        stopped_at: by the text of a setting, where the search stopped its run before, in samples seen.
        retry: whether runs that failed are resumed.
        address: of a running cluster; None: an embedded one.
        finds_runs: whether runs with the same job are used; members of a population have runs of their own.
        keep: checkpoints that a run keeps, so that other members can begin from those of the last interval; None: as
            the job says.
        facts: of the recipes.
    """

    values: Mapping[str, Any]
    seed: int
    source: str
    recipe_folder: Path
    storage: str
    stopped_at: Mapping[str, int]
    retry: bool
    address: str | None
    finds_runs: bool
    keep: int | None
    facts: dict[str, RecipeFacts] = field(default_factory=dict)
    runs: list[JobRuns] = field(default_factory=list)  # of this process; empty: the storage was not read yet

    def __call__(self, setting: Values) -> Prepared:
        """Return what a setting is to train, with the run that it has already."""
        if self.keep is not None:
            setting = {**setting, "checkpoint.keep": self.keep}
        cell = make_cell(0, setting, self.seed, self.values, self.source, self.recipe_folder, self.facts)
        if cell.job is None or cell.plan is None:
            return Prepared(problem=cell.problem)
        if not self.finds_runs:
            return Prepared(job=cell.job, plan=cell.plan)
        if not self.runs:
            self.runs.append(JobRuns(self.storage))
        run = self.runs[0].find(cell.job)
        if run is None:
            try:
                require_runnable(cell.job, cell.plan, recipe_folder=self.recipe_folder, address=self.address)
            except ScalerError as error:
                return Prepared(problem=str(error))
            return Prepared(job=cell.job, plan=cell.plan)
        state, _ = present_state(run)
        if state in (RunState.STARTING, RunState.RUNNING):
            return Prepared(problem=f"run {run.run_id} has this setting, and is running")
        return Prepared(
            job=cell.job,
            plan=cell.plan,
            run=run,
            stopped_at=self.stopped_at.get(values_key(setting)),
            may_resume=state is not RunState.FAILED or self.retry,
        )


def search_spec(matrix: Matrix) -> SearchSpec:
    """Return what the search of an experiment is, in samples.

    Raises:
        JobFileError: a package is missing, the job is elastic, is not evaluated during the training, or has no price
            where the budget needs one.
    """
    experiment, job = matrix.experiment, matrix.base
    search, compare = experiment.search, experiment.compare
    assert search is not None
    assert compare is not None
    plan = next(cell.plan for cell in matrix.cells if cell.plan is not None)
    if search.searcher == "optuna" and find_spec("optuna") is None:
        raise JobFileError(
            "search.searcher = optuna, and optuna is not installed.", "Install it: pip install 'scaler[search]'"
        )
    if job.scale.is_elastic:
        raise JobFileError("a search needs a fixed number of workers.", "Give scale.num_workers a number.")
    if compare.metric == "train_loss":
        raise JobFileError(
            "compare.metric = train_loss, and a search compares evaluations.", "Name a value of the evaluation."
        )
    if plan.eval_every_samples >= plan.total_samples and search.scheduler != "none":
        raise JobFileError(
            f"search.scheduler = {search.scheduler} compares evaluations during the training, and the first one is at "
            "its end.",
            "Evaluate more often, such as --set 'train.eval_every={epochs: 1}', or use scheduler: none.",
        )
    require_price(matrix)
    if search.scheduler == "pbt":
        _require_changeable(matrix)
    total = plan.total_samples

    def samples(extent: Extent | None, otherwise: float) -> int:
        return max(1, round(otherwise)) if extent is None else extent.in_samples(plan.num_samples)

    grace = samples(search.grace, total / search.reduction_factor**GRACE_TIMES)
    interval = samples(search.interval, total / INTERVALS)
    for name, extent in (("grace", grace), ("interval", interval)):
        if extent > total:
            raise JobFileError(
                f"search.{name} is {extent:,} samples, and the training has {total:,}.", "Give a shorter one."
            )
    spec = SearchSpec(
        space={key: _values(values) for key, values in search.space.items()},
        searcher=search.searcher,
        scheduler=search.scheduler,
        trials=search.trials or 0,
        seed=search.seed,
        metric=compare.metric,
        mode=compare.mode,
        total_samples=total,
        grace=grace,
        reduction_factor=search.reduction_factor,
        interval=interval,
        side_by_side=experiment.max_concurrent,
    )
    settings = spec.number_of_settings()
    most = search.trials if settings == float("inf") or search.trials is None else min(int(settings), search.trials)
    return replace(spec, trials=most if most is not None else int(settings))


def _require_changeable(matrix: Matrix) -> None:
    """Refuse keys that a run cannot change when it begins from another run's checkpoint."""
    assert matrix.experiment.search is not None
    jobs = [cell.job for cell in matrix.cells]
    for key, values in matrix.experiment.search.space.items():
        last = values.high if isinstance(values, Range) else values[-1]
        other = make_cell(0, {key: last}, 0, matrix.base.model_dump(), matrix.job_path, matrix.recipe_folder, {}).job
        first = jobs[1 + list(matrix.experiment.search.space).index(key)]
        if first is not None and other is not None:
            changes = [change for change in job_changes(first, other) if change.key != "train.seed"]
            try:
                require_resumable(changes)
            except JobFileError as error:
                raise JobFileError(
                    f"search.space has {key}, which pbt cannot change: {error.remedy.splitlines()[0]}",
                    "Leave it out of search.space, or use scheduler: asha.",
                ) from None


def require_price(matrix: Matrix) -> None:
    """Refuse a budget of costs without a price.

    Raises:
        JobFileError: says where to give the price.
    """
    if matrix.experiment.budget.cost is not None and matrix.base.resources.price_per_worker_hour is None:
        raise JobFileError(
            f"budget.cost = {matrix.experiment.budget.cost:g}, and the job has no price.",
            "Give it: --set resources.price_per_worker_hour=1.5",
        )


def cost_of(run_id: str, *, storage: str) -> float:
    """Return what a run has cost; 0: it has no price, or is gone."""
    run = run_with_id(run_id, storage=storage)
    report = read_report(run) if run is not None else None
    return report.cost.total if report is not None and report.cost is not None else 0.0


def run_trials(
    matrix: Matrix,
    folder: ExperimentFolder,
    about: About,
    *,
    address: str | None = None,
    retry: bool = False,
    verbose: bool = False,
    on_trial: Callable[[TrialNews], None],
    on_notice: Callable[[str], None],
) -> None:
    """Run the search of an experiment, or continue it.

    Settings that were tried before are proposed again, and their runs are used: they are not trained again.

    Args:
        matrix: of the experiment.
        folder: of the experiment; its rows are written when a trial starts and when it has ended.
        about: what the trials share.
        address: of a running cluster, ``auto`` or ``host:port``; None: an embedded cluster.
        retry: whether runs that failed are resumed.
        verbose: show Ray's log.
        on_trial: called when a trial has started, every second or so while it trains, and when it has ended.
        on_notice: called with a sentence for the user.

    Raises:
        JobFileError: a package is missing, or the experiment cannot be searched.
        ClusterError: there is no such cluster, or it was lost.
        RunError: the storage cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. The runs have checkpoints.
    """
    spec = search_spec(matrix)
    before = _rows_before(matrix, folder)
    members = _members(before, storage=matrix.base.storage) if spec.scheduler == "pbt" else []
    replaced = [row for row in before if row.ended == "replaced"] if members else []
    replaced = [replace(row, cell=number, order=number) for number, row in enumerate(replaced)]
    book = _Book(matrix, folder, about, on_trial, replaced)
    book.write()
    jobs = TrialJobs(
        values=matrix.base.model_dump(),
        seed=matrix.experiment.seeds[0],
        source=matrix.job_path,
        recipe_folder=matrix.recipe_folder,
        storage=matrix.base.storage,
        stopped_at={values_key(row.overrides): row.stopped_at for row in before if row.stopped_at is not None},
        retry=retry,
        address=address,
        finds_runs=spec.scheduler != "pbt",
        keep=2 + KEPT_INTERVALS * (1 + _saves_between(matrix, spec)) if spec.scheduler == "pbt" else None,
    )
    with connect(
        matrix.base, recipe_folder=matrix.recipe_folder, address=address, verbose=verbose, on_notice=on_notice
    ) as connection:
        from scaler.cluster.search.tuner import run_search

        run_search(
            TrialContext(
                spec=spec,
                prepare=jobs,
                connection=connection,
                recipe_folder=matrix.recipe_folder,
                address=address,
                folder=Path.cwd(),
                need=_need(matrix),
                members=members,
            ),
            may_start=book.may_start,
            on_news=book.take,
            on_notice=on_notice,
            storage=matrix.base.storage,
            verbose=verbose,
        )


class _Book:
    """The rows of a search, and its budget."""

    def __init__(
        self,
        matrix: Matrix,
        folder: ExperimentFolder,
        about: About,
        on_trial: Callable[[TrialNews], None],
        replaced: Sequence[CellRow],
    ) -> None:
        self._matrix, self._folder, self._about, self._on_trial = matrix, folder, about, on_trial
        self._rows = list(replaced)
        self._offset = len(self._rows)
        self._running: set[int] = set()
        budget = matrix.experiment.budget
        self._until = None if budget.hours is None else monotonic() + budget.hours * 3600
        self._before = {run.run_id for run in JobRuns(matrix.base.storage).all()} if budget.runs else set()
        self._costs: dict[str, float] = {}

    def write(self) -> None:
        """Write the rows into the experiment's folder."""
        self._folder.write_cells(self._matrix.experiment, self._rows, self._about)

    def take(self, news: TrialNews) -> None:
        """Take what a trial has done."""
        news = replace(news, number=news.number + self._offset)
        row = CellRow(
            cell=news.number,
            overrides=news.values,
            seed=self._matrix.experiment.seeds[0],
            run_id=news.run_id,
            order=news.number,
            problem="" if news.run_id is not None else news.problem,
            ended=news.ended,
            stopped_at=news.samples_seen if news.ended == "stopped" else None,
            member=news.member,
            copied_from=news.copied_from,
        )
        if news.number == len(self._rows):
            self._rows.append(row)
        elif self._rows[news.number] == row:
            self._on_trial(news)
            return
        self._rows[news.number] = row
        self.write()
        if news.ended is not None and news.run_id is not None and self._matrix.experiment.budget.cost is not None:
            self._costs[news.run_id] = cost_of(news.run_id, storage=self._about.storage)
        self._on_trial(news)

    def may_start(self) -> bool:
        """Return whether the budget admits another trial."""
        budget = self._matrix.experiment.budget
        started = sum(
            row.run_id not in self._before if row.run_id is not None else row.ended is None for row in self._rows
        )
        return not (
            (budget.runs is not None and started >= budget.runs)
            or (self._until is not None and monotonic() > self._until)
            or (budget.cost is not None and sum(self._costs.values()) >= budget.cost)
        )


def _rows_before(matrix: Matrix, folder: ExperimentFolder) -> Sequence[CellRow]:
    """Return the trials of an earlier call, if the search is the same but for its length."""
    if not folder.is_experiment():
        return []
    try:
        experiment, rows, _ = folder.read_cells()
    except RunError:  # of another version of scaler
        return []
    same = {"trials": None}
    if experiment.search is None or matrix.experiment.search is None:
        return []
    is_same = experiment.search.model_copy(update=same) == matrix.experiment.search.model_copy(update=same)
    return rows if is_same and experiment.compare == matrix.experiment.compare else []


def _members(rows: Sequence[CellRow], *, storage: str) -> Sequence[Member]:
    """Return the members of a population with their newest runs; none: a run is gone, or a member has none."""
    newest = {row.member: row for row in rows if row.run_id is not None}
    found: list[Member] = []
    for member in sorted(newest):
        run = run_with_id(newest[member].run_id or "", storage=storage)
        if run is None or member != len(found):
            return []
        found.append(Member(values=newest[member].overrides, run=run))
    return found


def _saves_between(matrix: Matrix, spec: SearchSpec) -> int:
    """Return how many checkpoints a run writes in an interval of population based training."""
    every = next(cell.plan.checkpoint_every_samples for cell in matrix.cells if cell.plan is not None)
    return SAVES if every is None else -(-spec.interval // every)


def _need(matrix: Matrix) -> Mapping[str, float]:
    """Return the resources of the largest trial, by Ray's name."""
    assert matrix.experiment.search is not None
    values = matrix.experiment.search.space.get("scale.num_workers", [matrix.base.scale.max_workers])
    workers = values.high if isinstance(values, Range) else max(values)
    resources = matrix.base.resources
    gpus = 0.0 if resources.gpus_per_worker == "auto" else resources.gpus_per_worker
    return {"CPU": workers * resources.cpus_per_worker, "GPU": workers * gpus}


def _values(values: Any) -> Sequence[Any] | Between:
    if not isinstance(values, Range):
        return list(values)
    return Between(low=values.low, high=values.high, is_log=values.scale == "log", is_whole=values.is_whole)
