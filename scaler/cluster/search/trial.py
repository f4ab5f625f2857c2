"""The actor in which Ray Tune runs one trial after another. It has their run drivers and workers."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ray import tune

from scaler.cluster.kept.group import KeptGroup
from scaler.cluster.progress import Progress
from scaler.cluster.review import Decision, Review, is_due
from scaler.cluster.search.spec import Ended, Prepared, TrialContext
from scaler.cluster.train_run import train_run
from scaler.errors import ClusterError, JobFileError, RunError, ScalerError
from scaler.metrics.events import Evaluated, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState
from scaler.runs.control import request_stop
from scaler.runs.origin import Origin
from scaler.training.checkpoints.files import complete_checkpoints

OBJECTIVE, SAMPLES = "objective", "samples_seen"  # names in the results that Ray Tune gets
WORST = 1e30  # of a metric that is not a number
NEWS_S = 1.0  # without an evaluation, a trial reports after this time

Evaluations = list[tuple[int, float | None]]


class Trial(tune.Trainable):
    """One trial; used again for the next one."""

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Take what all trials share, and the first setting."""
        assert context is not None
        os.chdir(context.folder)
        self._context, self._drawn = context, config
        self._group: KeptGroup | None = None
        self._group_key: object = None
        self._run: _Run | None = None
        self._waits = False
        self._origin: Mapping[str, Any] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the run of this trial, and take the setting of the next one."""
        self._end_run()
        self._drawn, self._origin = new_config, None
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return where this trial is: of pbt, its run has a checkpoint and has stopped."""
        assert self._run is not None
        assert self._run.folder is not None
        return {
            "trial": self.trial_id,
            "uri": self._run.folder.uri,
            "samples_seen": complete_checkpoints(self._run.folder)[-1],
        }

    def load_checkpoint(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Take where this trial was, or where another one was, from which this one is to begin."""
        self._end_run()
        self._origin = checkpoint

    def cleanup(self) -> None:
        """End the run and its workers."""
        self._end_run()
        if self._group is not None:
            self._group.__exit__()
            self._group = None

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation that the scheduler has to see, or for a moment; return what there is to say."""
        if self._run is None:
            self._run = self._begin()
        elif self._run.is_paused:
            self._run = self._begin(self._run.folder)
        elif self._waits:
            self._run.decisions.put("continue")
        try:
            news = self._run.news.get(timeout=NEWS_S)
        except Empty:
            news = _News(samples=self._run.samples)
        self._waits = news.is_evaluation and not self._run.is_paused
        return self._result(self._run, news)

    def _result(self, run: "_Run", news: "_News") -> dict[str, Any]:
        result: dict[str, Any] = {
            SAMPLES: news.samples,
            "run_id": run.run_id,
            "problem": news.problem,
            "copied_from": run.copied_from,
        }
        if news.is_evaluation or news.ended is not None:
            worst = -WORST if self._context.spec.mode == "max" else WORST
            is_known = news.value is not None and isfinite(news.value)
            result |= {OBJECTIVE: news.value if is_known else worst, "value": news.value if is_known else None}
        return {**result, "ended": news.ended, "fatal": news.fatal, "done": news.ended is not None}

    def _begin(self, paused: RunFolder | None = None) -> "_Run":
        """Begin the run of this trial, or continue the run that was paused."""
        context = self._context
        prepared = context.prepare(context.spec.values(self._drawn))
        if context.spec.scheduler == "pbt" and not prepared.problem:
            prepared = replace(prepared, run=paused)
            origin, member = self._origin, member_of(str(self.trial_id))
            self._origin = None
            if origin is not None:
                folder = RunFolder(origin["uri"])
                is_own = origin["trial"] == self.trial_id
                begin: Any = {"run": folder} if is_own else {"source": folder, "source_samples": origin["samples_seen"]}
                prepared = replace(prepared, **begin)
            elif paused is None and member < len(context.members):
                prepared = replace(prepared, run=context.members[member].run)
        run = _Run(prepared, context, self._workers)
        run.start()
        return run

    def _workers(self, prepared: Prepared) -> KeptGroup:
        """Return workers for a job: those of the last trial if they fit, else new ones."""
        job, context = prepared.job, self._context
        assert job is not None
        key = (job.scale.max_workers, job.resources.model_dump_json())
        if self._group is not None and self._group_key != key:
            self._group.__exit__()
            self._group = None
        if self._group is None:
            group = KeptGroup(job, is_embedded=context.connection.is_embedded)
            self._group, self._group_key = group.__enter__(), key
        connection = context.connection
        self._group.prepare(connection.recipe, connection.recipe_folder, seeds=[job.train.seed])
        return self._group

    def _end_run(self) -> None:
        """Stop the run of this trial, which saves a checkpoint, and wait for its end."""
        run, self._run = self._run, None
        if run is None:
            return
        if self._waits:
            run.decisions.put("stop")
        elif run.is_alive() and run.folder is not None:
            with suppress(RunError):
                request_stop(run.folder)
        self._waits = False
        run.join()


@dataclass(frozen=True, kw_only=True, slots=True)
class _News:
    """What a run says.

    Args:
        samples: seen so far.
        value: of the metric, at an evaluation or at the end.
        is_evaluation: whether the run waits for a decision.
        ended: how it ended; None: it has not.
        problem: why it cannot run, or failed.
        fatal: the error's class and its remedy, if the problem ends the search.
    """

    samples: int = 0
    value: float | None = None
    is_evaluation: bool = False
    ended: Ended | None = None
    problem: str = ""
    fatal: tuple[str, str] | None = None


class _Run(Thread):
    """The run driver of one trial: reports the evaluations that it has, and trains the rest."""

    def __init__(self, prepared: Prepared, context: TrialContext, workers: Any) -> None:
        super().__init__(name="scaler-trial", daemon=True)
        self._prepared, self._context, self._workers = prepared, context, workers
        self._is_stopped = False
        self._paused: _News | None = None
        self.is_paused = False
        self._is_population = context.spec.scheduler == "pbt"
        plan = prepared.plan
        self._places = context.spec.places(plan.total_samples) if plan is not None else []
        self.news: SimpleQueue[_News] = SimpleQueue()
        self.decisions: SimpleQueue[Decision] = SimpleQueue()
        self.folder = prepared.run
        self.samples = 0

    @property
    def run_id(self) -> str | None:
        """The run's id; None: it has not begun."""
        return None if self.folder is None else self.folder.run_id

    @property
    def copied_from(self) -> str | None:
        """The run from whose checkpoint a run of a population began; None: it began at its first sample."""
        if not self._is_population or self.folder is None:
            return None
        with suppress(RunError):
            origin = Origin.of(self.folder)
            return None if origin is None else origin.run_id
        return None

    def run(self) -> None:
        """Report until the end; the last news says how it ended."""
        try:
            self.news.put(self._whole())
        except ScalerError as error:
            fatal = (type(error).__name__, error.remedy) if isinstance(error, FATAL) else None
            problem = error.problem if fatal else str(error)
            self.news.put(_News(samples=self.samples, ended="failed", problem=problem, fatal=fatal))
        except Exception as error:
            self.news.put(_News(ended="failed", problem=f"a bug in scaler: {error!r}", fatal=("RunError", "")))

    def _whole(self) -> _News:
        prepared = self._prepared
        if prepared.problem:
            return _News(ended="failed", problem=prepared.problem)
        if prepared.run is not None:
            is_over = prepared.run.state() is RunState.SUCCEEDED
            ended: Ended | None = "finished" if is_over and self._is_population else None
            if not self._is_population:
                ended = self._replay(prepared.run)
            if ended is not None:
                return self._end(ended, prepared.stopped_at)
        return self._train()

    def _replay(self, folder: RunFolder) -> Ended | None:
        """Report the evaluations of a run that exists; return how the trial ends with it, or None: it trains on."""
        before, until = 0, self._prepared.stopped_at
        for at, value in evaluations(folder, self._context.spec.metric):
            if until is not None and at >= until:
                break
            self.samples = at
            if is_due(self._places, before=before, now=at):
                before = at
                if self._decide(at, value) == "stop":
                    return "stopped"
        if until is not None:
            return "stopped"
        if folder.state() is RunState.SUCCEEDED:
            return "finished"
        return None if self._prepared.may_resume else "failed"

    def _train(self) -> _News:
        prepared, context, spec = self._prepared, self._context, self._context.spec
        assert prepared.job is not None
        assert prepared.plan is not None

        def decide(samples: int, values: Mapping[str, float | None]) -> Decision:
            return self._decide(samples, value_of(values, spec.metric))

        def show(progress: Progress) -> None:
            self.samples = progress.samples_seen or self.samples

        def begin(folder: RunFolder) -> None:
            self.folder = folder

        newest = 0  # what was looked at before is not looked at again
        if prepared.source is not None:
            newest = prepared.source_samples
        elif prepared.run is not None:
            newest = max([at for at, _ in evaluations(prepared.run, spec.metric)], default=0)
        ahead = [place for place in self._places if place > newest]
        review = Review(places=ahead, decide=decide, reason="the search")
        connection = replace(context.connection, group=self._workers(prepared), review=review)
        source = prepared.source
        try:
            train_run(
                prepared.job,
                prepared.plan,
                unfinished=None if source is not None else prepared.run,
                origin=None if source is None else (source, nearest_checkpoint(source, prepared.source_samples)),
                recipe_folder=context.recipe_folder,
                address=context.address,
                connection=connection,
                on_start=begin,
                on_progress=show,
            )
        except KeyboardInterrupt:
            if self._paused is not None:
                self.is_paused = True
                return self._paused
            return self._end("stopped" if self._is_stopped else "interrupted", None)
        return self._end("finished", None)

    def _decide(self, samples: int, value: float | None) -> Decision:
        """Report an evaluation and wait until the scheduler has decided."""
        self.samples = samples
        if self._is_population:  # others may begin from its checkpoint, so that it stops to write one
            place = max(each for each in self._places if each <= samples)  # of all members at the same samples
            self._paused = _News(samples=place, value=value, is_evaluation=True)
            return "stop"
        self.news.put(_News(samples=samples, value=value, is_evaluation=True))
        decision = self.decisions.get()
        self._is_stopped = decision == "stop"
        return decision

    def _end(self, ended: Ended, stopped_at: int | None) -> _News:
        assert self.folder is not None
        found = evaluations(self.folder, self._context.spec.metric)
        known = [each for each in found if stopped_at is None or each[0] <= stopped_at]
        samples = stopped_at if stopped_at is not None else max(self.samples, known[-1][0] if known else 0)
        problem = f"run {self.folder.run_id} failed" if ended == "failed" else ""
        return _News(samples=samples, value=known[-1][1] if known else None, ended=ended, problem=problem)


def member_of(trial_id: str) -> int:
    """Return which member of the population a trial of Ray Tune is: its ids end with a number.

    Example:
        >>> member_of("5f3a1_00003")
        3
    """
    return int(trial_id.rpartition("_")[2])


def nearest_checkpoint(folder: RunFolder, samples_seen: int) -> int:
    """Return a checkpoint of a run at some samples seen; if it was removed, the next one.

    Raises:
        RunError: there is none.
    """
    later = [each for each in complete_checkpoints(folder) if each >= samples_seen]
    if not later:
        raise RunError(f"run {folder.run_id} has no checkpoint at {samples_seen:,} samples or later.", "")
    return later[0]


class NoMetricError(JobFileError):
    """The evaluation has no such value."""


def value_of(values: Mapping[str, float | None], metric: str) -> float | None:
    """Return a value of an evaluation.

    Raises:
        NoMetricError: names those that there are.
    """
    if metric not in values:
        raise NoMetricError(
            f"compare.metric = {metric}, and the evaluation has no such value.", f"It has {', '.join(values)}."
        )
    return values[metric]


FATAL = (ClusterError, RunError, NoMetricError)  # another trial would meet them, too


def evaluations(folder: RunFolder, metric: str) -> Evaluations:
    """Return the samples seen and the metric at each evaluation of a run, rising; the last one of each place."""
    found = {event.samples_seen: value_of(event.values, metric) for event in of_type(read_events(folder), Evaluated)}
    return sorted(found.items())
