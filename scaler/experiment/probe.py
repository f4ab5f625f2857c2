"""Probe how far the batch can grow: branches from checkpoints, with larger batches over the same samples.

Source: Merrill et al. 2025, https://arxiv.org/abs/2505.23971.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from statistics import fmean

import numpy as np

from scaler.core.largest_batch import bounds, next_multiple, seed_tolerance
from scaler.errors import JobFileError, TrainingError
from scaler.experiment.probe_jobs import FEWEST_STEPS, branch_job, probe_name, run_job
from scaler.experiment.probe_runs import Checkpoint, ProbeRuns, ProbeWatcher
from scaler.experiment.probe_setting import ProbeSetting
from scaler.metrics.reader import RunMetrics, with_records
from scaler.report.probe.model import (
    SCHEMA_VERSION,
    ProbeCost,
    ProbedPlace,
    ProbeReport,
    TriedBatch,
    largest_text,
)
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.report.run.step_arrays import make_step_arrays
from scaler.report.text.format import number, percent, plural
from scaler.runs import RunFolder

SMOOTHED = 0.5  # of a branch: the train loss is the mean over its last part


def run_probe(
    setting: ProbeSetting, *, address: str | None, verbose: bool = False, watcher: ProbeWatcher
) -> ProbeReport:
    """Train the branches of a probe, and return what they show. Runs that exist are not trained again.

    Args:
        setting: of the probe.
        address: of a running cluster; None: an embedded one; ``none``: one worker in this process.
        verbose: show Ray's log.
        watcher: hears what happens.

    Raises:
        TrainingError: the training diverges at its own batch.
        ScalerError: as ``scaler.submit`` raises it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same probe continues where it was.
    """
    watcher.on_setting(setting.text())
    with ExitStack() as stack:
        connection = None
        if address != "none":
            from scaler.cluster.connection import connect

            connection = stack.enter_context(
                connect(
                    setting.job,
                    recipe_folder=setting.recipe_folder,
                    address=address,
                    verbose=verbose,
                    on_notice=watcher.on_notice,
                )
            )
            from scaler.cluster.kept.group import KeptGroup  # imports Ray, which ``connect`` prepares

            group = stack.enter_context(KeptGroup(setting.job, is_embedded=address is None))
            group.prepare(connection.recipe, connection.recipe_folder, seeds=setting.seeds)
            connection = replace(connection, group=group)
        runs = ProbeRuns(
            name=probe_name(setting.job),
            storage=setting.storage,
            plan=setting.plan,
            recipe_folder=setting.recipe_folder,
            address=address,
            connection=connection,
            watcher=watcher,
        )
        return _Probe(setting, runs, watcher).report()


class _Probe:
    """The places of a probe, one after the other."""

    def __init__(self, setting: ProbeSetting, runs: ProbeRuns, watcher: ProbeWatcher) -> None:
        self._setting, self._runs, self._watcher = setting, runs, watcher
        self._base_s, self._base_samples = 0.0, 0
        self._branches: list[Report] = []
        self._speeds: list[float] = []  # seconds a sample at the run's batch
        self._loss_name = ""

    def report(self) -> ProbeReport:
        """Probe every place, and return the report."""
        setting = self._setting
        plan, options, total = setting.plan, setting.options, setting.plan.total_samples
        places = []
        checkpoint: Checkpoint | None = None
        for samples in setting.places:
            checkpoint = self._checkpoint(samples, checkpoint)
            places.append(self._place(checkpoint))
        run_s = None if not self._speeds else float(np.median(self._speeds)) * total
        return ProbeReport(
            schema_version=SCHEMA_VERSION,
            name=setting.name,
            run_id=None if setting.run is None else setting.run.run_id,
            loss=self._loss_name,
            world_size=plan.world_size,
            global_batch_size=plan.global_batch_size,
            rule=plan.rule,
            seeds=options.seeds,
            steps_samples=setting.branch_samples,
            total_samples=total,
            most=setting.most,
            resolution=options.resolution,
            places=tuple(places),
            cost=ProbeCost(
                run_samples=total,
                run_s=run_s,
                base_samples=self._base_samples,
                base_s=self._base_s,
                branches=len(self._branches),
                branch_samples=len(self._branches) * setting.branch_samples,
                branch_s=sum(branch.totals.wall_s or 0.0 for branch in self._branches),
            ),
            hints=(*setting.hints, *self._hints(places)),
        )

    def _checkpoint(self, samples: int, before: Checkpoint | None) -> Checkpoint:
        """Return the checkpoint at a place: the run's, or that of a run which the probe trains from the one before."""
        setting = self._setting
        if setting.run is not None:
            return setting.run, samples
        job = run_job(setting.job, stop=samples, storage=setting.storage)
        folder, report = self._runs.train(f"to {samples:,} samples", job, before)
        start = 0 if before is None else before[1]
        self._base_samples += samples - start
        self._base_s += report.totals.wall_s or 0.0
        return folder, samples

    def _place(self, checkpoint: Checkpoint) -> ProbedPlace:
        setting, options, batch = self._setting, self._setting.options, self._setting.plan.global_batch_size
        folder, samples = checkpoint
        share = samples / setting.plan.total_samples
        tried: dict[int, TriedBatch] = {}
        means: dict[int, float] = {}
        tolerance = options.tolerance or 0.0
        while (
            multiple := next_multiple(means, tolerance=tolerance, most=setting.most, resolution=options.resolution)
        ) is not None:
            one = tried[multiple] = self._branch(checkpoint, multiple)
            means[multiple] = inf if one.loss is None else one.loss
            if multiple == 1:
                if one.loss is None:
                    raise TrainingError(
                        f"the training diverges at its own batch of {batch}, after {samples:,} samples.",
                        "Lower reference.lr: scaler find-lr JOB",
                    )
                if options.tolerance is None:
                    tolerance = seed_tolerance([loss for loss in one.losses if loss is not None])
            self._watcher.on_result(
                f"{percent(share):>4}  batch {number(one.global_batch_size)} ({multiple} x {batch}): {self._loss_name} "
                f"{number(one.loss) if one.loss is not None else 'diverged'}"
            )
        found = bounds(means, tolerance=tolerance)
        assert found.holds is not None  # multiple 1 has a finite loss
        place = ProbedPlace(
            samples_seen=samples,
            share=share,
            run_id=folder.run_id,
            tolerance=tolerance,
            holds=found.holds,
            fails=found.fails,
            global_batch_size=found.holds * batch,
            fails_batch=None if found.fails is None else found.fails * batch,
            noise_scale=self._noise(checkpoint),
            tried=tuple(tried[multiple] for multiple in sorted(tried)),
        )
        self._watcher.on_result(f"{percent(share):>4}  largest batch: {largest_text(place)}")
        return place

    def _branch(self, checkpoint: Checkpoint, multiple: int) -> TriedBatch:
        """Train the branches of one batch, one for each seed; those after one that diverged are left out."""
        setting, (_, start) = self._setting, checkpoint
        batch = multiple * setting.plan.global_batch_size
        losses: list[float | None] = []
        folders = []
        lr = 0.0
        for seed in setting.seeds:
            job = branch_job(
                setting.job,
                start=start,
                stop=start + setting.branch_samples,
                multiple=multiple,
                seed=seed,
                storage=setting.storage,
            )
            what = f"batch {batch:,} from {start:,} samples, seed {seed}"
            folder, report = self._runs.train(what, job, checkpoint)
            self._branches.append(report)
            folders.append(folder.run_id)
            lr = report.plan["phases"][-1]["peak_lr"]
            if multiple == 1 and report.totals.samples_per_s:
                self._speeds.append(1.0 / report.totals.samples_per_s)
            losses.append(self._loss(folder, report, start))
            if losses[-1] is None:
                break
        known = [loss for loss in losses if loss is not None]
        return TriedBatch(
            multiple=multiple,
            global_batch_size=batch,
            lr=lr,
            loss=fmean(known) if len(known) == len(losses) else None,
            losses=tuple(losses),
            run_ids=tuple(folders),
        )

    def _loss(self, folder: RunFolder, report: Report, start: int) -> float | None:
        """Return the loss of a branch; None: it is not finite."""
        has_loss = "loss" in report.final.eval
        if self._setting.options.loss == "eval" and not has_loss:
            raise JobFileError("the recipe's evaluation returns no loss.", "Compare the train loss: --loss train")
        if has_loss and self._setting.options.loss != "train":
            self._loss_name = "eval loss"
            return report.final.eval["loss"]
        self._loss_name = "train loss"
        since = start + (1.0 - SMOOTHED) * self._setting.branch_samples

        def mean(metrics: RunMetrics) -> float | None:
            kept = make_step_arrays(metrics.records, metrics.events).kept
            late = kept["samples_seen"] >= since
            loss = float(np.average(kept["loss"][late], weights=kept["weight"][late]))
            return loss if np.isfinite(loss) else None

        return with_records(folder, mean)

    def _noise(self, checkpoint: Checkpoint) -> float | None:
        """Return the newest noise scale that the run measured before a checkpoint; None: it measured none."""
        folder, samples = checkpoint
        series = read_report(folder).series
        known = [
            noise
            for at, noise in zip(series.noise_samples_seen, series.noise_scale, strict=True)
            if noise is not None and at <= samples
        ]
        return known[-1] if known else None

    def _hints(self, places: Sequence[ProbedPlace]) -> list[str]:
        setting, plan = self._setting, self._setting.plan
        half = plan.units.size(max(1, plan.global_batch_size // 2))  # the key of the job is in its unit
        found = []
        if any(place.fails is None for place in places) and not setting.hints:
            wanted = 2 * setting.most * setting.plan.global_batch_size * FEWEST_STEPS
            found.append(
                f"Where the batch is at least {setting.most * setting.plan.global_batch_size:,}, no larger one was "
                f"tried: a branch of {plural(setting.branch_samples, 'sample')} has {FEWEST_STEPS} steps of "
                f"no more. To try twice as much: --samples {wanted}"
                if setting.options.most is None
                else "Where the batch is the largest that was tried, more may hold: raise --most."
            )
        if all(place.noise_scale is None for place in places):
            found.append(
                "The noise scale was not measured before any place: that needs two workers or two micro-steps "
                f"(--workers 2, or --set scale.per_worker_batch_size={half}), "
                "and some hundred steps."
            )
        if setting.options.seeds == 1 and setting.options.tolerance is None:
            found.append("With one seed the noise is not known: the tolerance is 0.4% of the loss. Give --seeds 3.")
        return found
