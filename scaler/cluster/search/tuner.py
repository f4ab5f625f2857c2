"""Run a search on Ray Tune: its searchers propose settings, and its schedulers stop trials."""

import logging
import os
import random
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import product
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, Searcher

from scaler.cluster.ray_session import set_environment
from scaler.cluster.run_driver import sigterm_like_ctrl_c
from scaler.cluster.search.spec import Between, SearchSpec, TrialContext, TrialNews, values_key
from scaler.cluster.search.trial import OBJECTIVE, SAMPLES, Trial, member_of
from scaler.errors import ClusterError, JobFileError, RunError, ScalerError
from scaler.runs.control import request_stop
from scaler.runs.find import run_with_id

FATAL_ERRORS = {"ClusterError": ClusterError, "RunError": RunError, "NoMetricError": JobFileError}
PATIENCE_S = 90.0  # after Ctrl-C, the trials may take this long to save and stop
DRAWS = 50  # for each trial, so that a setting that was drawn before is drawn again
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most results have no metric: they say how far the run is
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_search(
    context: TrialContext,
    *,
    may_start: Callable[[], bool],
    on_news: Callable[[TrialNews], None],
    on_notice: Callable[[str], None],
    storage: str,
    verbose: bool,
) -> None:
    """Run a search on the connected cluster.

    Args:
        context: what its trials share.
        may_start: returns whether another trial may start.
        on_news: called when a trial has started, every second or so while it trains, and when it has ended.
        on_notice: called with a sentence for the user.
        storage: of the runs.
        verbose: show Ray Tune's log.

    Raises:
        ClusterError: a trial found that the cluster is lost.
        RunError: the storage cannot be used.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the runs have checkpoints.
    """
    spec = replace(context.spec, side_by_side=_fit(context, on_notice))
    interrupt = _Interrupt()
    news = _News(spec, on_news, interrupt, storage)

    def starts() -> bool:
        return not interrupt.is_set and news.fatal is None and may_start()

    address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    share = int(1e4 / spec.side_by_side) / 1e4  # trials stay on this node, and this many fit on it
    trainable = tune.with_resources(
        tune.with_parameters(Trial, context=context), tune.PlacementGroupFactory([{f"node:{address}": share}])
    )
    searcher, space = _searcher(spec, starts, [spec.drawn(member.values) for member in context.members])
    pending = str(spec.trials if spec.scheduler == "pbt" else 1)  # else a setting is drawn when there is a place for it
    level = logging.INFO if verbose else logging.CRITICAL
    with (
        set_environment({**_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": pending}),
        tempfile.TemporaryDirectory(prefix="scaler-search-") as folder,
        _logging(level),
        _seeded(spec.seed),
        interrupt,
    ):
        tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE,
                mode=spec.mode,
                num_samples=searcher_draws(spec),
                max_concurrent_trials=None if spec.scheduler == "pbt" else spec.side_by_side,
                search_alg=searcher,
                scheduler=_scheduler(spec),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                name="search",
                storage_path=folder,
                verbose=0,
                callbacks=[news],
            ),
        ).fit()
    if news.fatal is not None:
        raise news.fatal
    if interrupt.is_set:
        raise KeyboardInterrupt


def _fit(context: TrialContext, on_notice: Callable[[str], None]) -> int:
    """Return how many trials train at the same time: as many as were asked for, or as fit into the cluster."""
    asked, total = context.spec.side_by_side, ray.cluster_resources()  # type: ignore[no-untyped-call]
    fits = [int(total.get(name, 0) // amount) for name, amount in context.need.items() if amount]
    found = max(1, min([asked, *fits]))
    if found < asked:
        on_notice(f"{found} of {asked} trials (max_concurrent) train at the same time: more do not fit.")
    return found


def searcher_draws(spec: SearchSpec) -> int:
    """Return how many settings Ray Tune may draw."""
    return spec.trials * (DRAWS if spec.searcher == "random" and spec.scheduler != "pbt" else 1)


def _scheduler(spec: SearchSpec) -> Any:
    match spec.scheduler:
        case "asha":
            return AsyncHyperBandScheduler(
                time_attr=SAMPLES,
                max_t=spec.total_samples,
                grace_period=spec.grace,
                reduction_factor=spec.reduction_factor,
                stop_last_trials=False,
            )
        case "pbt":
            return PopulationBasedTraining(
                time_attr=SAMPLES,
                perturbation_interval=spec.interval,
                hyperparam_mutations={key: _domain(values) for key, values in spec.space.items()},
                require_attrs=False,
                log_config=False,
            )
        case _:
            return FIFOScheduler()  # type: ignore[no-untyped-call]


def _domain(values: Any) -> Any:
    """Return Ray Tune's domain of a key; a list is drawn as a position in it."""
    if not isinstance(values, Between):
        return tune.choice(list(range(len(values))))
    if values.is_whole:
        whole = tune.lograndint if values.is_log else tune.randint
        return whole(int(values.low), int(values.high) + 1)
    return (tune.loguniform if values.is_log else tune.uniform)(values.low, values.high)


def _searcher(
    spec: SearchSpec, may_start: Callable[[], bool], points: list[dict[str, Any]]
) -> tuple[Any, dict[str, Any]]:
    """Return Ray Tune's searcher, and the space that Ray Tune gets beside it."""
    space = {key: _domain(values) for key, values in spec.space.items()}
    if spec.searcher == "optuna":
        return _optuna(spec, may_start), space
    if spec.searcher == "grid":
        sizes = {key: range(len(values)) for key, values in spec.space.items() if not isinstance(values, Between)}
        points = [dict(zip(sizes, positions, strict=True)) for positions in product(*sizes.values())]
        random.Random(spec.seed).shuffle(points)
    return _Proposals(spec, may_start, points[: spec.trials]), space


class _NotKept:
    """An object that Ray Tune writes to a file as nothing: the runs are the state of a search."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Proposals(_NotKept, BasicVariantGenerator):
    """Settings at random, or those of a list; none is proposed twice."""

    def __init__(self, spec: SearchSpec, may_start: Callable[[], bool], points: list[dict[str, Any]]) -> None:
        super().__init__(points_to_evaluate=points, random_state=spec.seed)
        self._spec, self._may_start = spec, may_start
        self._proposed: set[str] = set()

    def next_trial(self) -> Any:
        """Return the next trial; None: there is none, or not now."""
        if len(self._proposed) >= self._spec.trials or not self._may_start():
            self.set_finished()  # type: ignore[no-untyped-call]
        while (trial := super().next_trial()) is not None:  # type: ignore[no-untyped-call]
            key = values_key(self._spec.values(trial.config))
            if self._spec.scheduler == "pbt":
                key = str(trial.trial_id)  # a population may begin with equal members
            if key not in self._proposed:
                self._proposed.add(key)
                return trial
            self.on_trial_complete(trial.trial_id)
        return None

    def get_state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


def _optuna(spec: SearchSpec, may_start: Callable[[], bool]) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Optuna(_NotKept, OptunaSearch):
        def suggest(self, trial_id: str) -> Any:
            return super().suggest(trial_id) if may_start() else Searcher.FINISHED

        def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
            """Ignore results before the end: the scheduler stops trials, not Optuna."""

        def save(self, checkpoint_path: str) -> None:
            """Save nothing."""

    return Optuna(seed=spec.seed)


class _News(_NotKept, tune.Callback):
    """Passes on what trials do, and stops their runs after Ctrl-C."""

    def __init__(
        self, spec: SearchSpec, on_news: Callable[[TrialNews], None], interrupt: "_Interrupt", storage: str
    ) -> None:
        self._spec, self._on_news, self._interrupt, self._storage = spec, on_news, interrupt, storage
        self._trials: dict[tuple[str, str | None], TrialNews] = {}
        self._newest: dict[str, tuple[str, str | None]] = {}  # by the trial of Ray Tune
        self._stopped: set[str] = set()
        self.fatal: ScalerError | None = None

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a trial has started."""
        self._tell(trial)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """Say how far a trial is."""
        run_id, ended = result["run_id"], result["ended"]
        if run_id is None and ended is None:
            return
        changes: dict[str, Any] = {
            "copied_from": result["copied_from"],
            "run_id": run_id,
            "samples_seen": result[SAMPLES],
            "ended": ended,
            "problem": result["problem"],
        }
        if OBJECTIVE in result:
            changes["value"] = result["value"]
        self._tell(trial, **changes)
        if result["fatal"] is not None and self.fatal is None:
            kind, remedy = result["fatal"]
            self.fatal = FATAL_ERRORS.get(kind, ClusterError)(result["problem"], remedy)
        if (
            (self._interrupt.is_set or self.fatal is not None)
            and ended is None
            and run_id
            and run_id not in self._stopped
        ):
            self._stopped.add(run_id)
            with suppress(RunError):
                run = run_with_id(run_id, storage=self._storage)
                if run is not None:
                    request_stop(run)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that a trial has ended: if it did not say so itself, the scheduler has stopped it."""
        if self._trials[self._newest[trial.trial_id]].ended is None:
            self._tell(trial, ended="stopped")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Say that the actor of a trial is gone."""
        self._tell(trial, ended="failed", problem="the process that runs the trial is gone")

    def _tell(self, trial: Any, **changes: Any) -> None:
        """Tell what a trial has done; a run that began from another trial's checkpoint is a trial of its own."""
        copied = changes.get("copied_from")
        key = (trial.trial_id, changes.get("run_id") if copied is not None else None)
        if "copied_from" not in changes and trial.trial_id in self._newest:
            key = self._newest[trial.trial_id]
        if key not in self._trials:
            before = self._newest.get(trial.trial_id)
            member = member_of(trial.trial_id) if self._spec.scheduler == "pbt" else 0
            about: Any = {"values": self._spec.values(trial.config), "member": member}
            if before is not None and self._trials[before].run_id is None:
                self._trials[key] = self._trials.pop(before)
            else:
                self._trials[key] = TrialNews(number=len(self._trials), **about)
                if before is not None:
                    self._on_news(replace(self._trials[before], ended="replaced"))
        self._newest[trial.trial_id] = key
        self._trials[key] = known = replace(self._trials[key], **changes)
        self._on_news(known)


class _Interrupt:
    """Notes Ctrl-C and SIGTERM, for the length of a ``with`` block.

    A second one raises ``KeyboardInterrupt``; it comes by itself when the trials have not ended after ``PATIENCE_S``.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._alarm: threading.Timer | None = None

    def __enter__(self) -> "_Interrupt":
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
            self._terminate = sigterm_like_ctrl_c()
            self._terminate.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._before is not None:
            self._terminate.__exit__(None, None, None)
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: Any) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True
        self._alarm = threading.Timer(PATIENCE_S, os.kill, (os.getpid(), signal.SIGINT))
        self._alarm.daemon = True
        self._alarm.start()


@contextmanager
def _logging(level: int) -> Iterator[None]:
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's random numbers, from which Ray Tune's population based training draws, and restore them after."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
