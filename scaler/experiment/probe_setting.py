"""What a probe will do: the places, the samples of each branch, and the largest batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from scaler.errors import JobFileError, RunError
from scaler.experiment.probe_jobs import (
    DEFAULT_SHARE,
    DEFAULT_STEPS,
    FEWEST_STEPS,
    largest_planned,
    place_of,
)
from scaler.job import Job
from scaler.plan import Plan
from scaler.report.text.format import percent, plural
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints

DEFAULT_PLACES = (0.03, 0.5, 0.9)
DEFAULT_SEEDS, DEFAULT_RESOLUTION = 3, 1.25
NEAR = 0.05  # of the training: a run's checkpoint may be so far from a place that was asked for

LossChoice = Literal["auto", "eval", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeOptions:
    """What to probe.

    Args:
        at: shares of the training, each in (0, 1); None: 0.03, 0.5 and 0.9, or of a run its checkpoints.
        samples: that each branch trains; None: 256 steps, but at most a fifth of the training.
        tolerance: of the loss; None: from the repeats, see ``scaler.core.largest_batch.seed_tolerance``.
        most: largest multiple of the batch; None: as many as leave a branch four steps.
        resolution: ratio of batches at which a search ends.
        seeds: repeats of each branch.
        loss: what is compared; ``auto``: the loss of the evaluation where there is one, else the train loss.
    """

    at: Sequence[float] | None = None
    samples: int | None = None
    tolerance: float | None = None
    most: int | None = None
    resolution: float = DEFAULT_RESOLUTION
    seeds: int = DEFAULT_SEEDS
    loss: LossChoice = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of range.

        Raises:
            JobFileError: names the option.
        """
        for share in self.at or ():
            if not 0.0 < share < 1.0:
                raise JobFileError(f"--at {share:g} is not a share of the training.", "Such as --at 0.1,0.5,0.9.")
        if self.tolerance is not None and not 0.0 <= self.tolerance < inf:
            raise JobFileError(f"--tolerance {self.tolerance:g} is not a difference of losses.", "Such as 0.01.")
        if not 1.0 <= self.resolution < inf:
            raise JobFileError(f"--resolution {self.resolution:g} is not a ratio of at least 1.", "Such as 1.25.")
        for name, value in (("--samples", self.samples), ("--most", self.most), ("--seeds", self.seeds)):
            if value is not None and value < 1:
                raise JobFileError(f"{name} {value} is not a whole number above 0.", f"Such as {name} 3.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSetting:
    """A probe that is ready to run.

    Args:
        name: of the job.
        job: at the batch that is probed, over the whole training.
        plan: its plan.
        run: whose checkpoints are probed; None: the probe trains its own.
        places: samples seen, ascending.
        branch_samples: that each branch trains.
        most: largest multiple.
        storage: of the runs.
        recipe_folder: the recipe is looked for there.
        options: what was asked for.
        hints: what the setting leaves open.
    """

    name: str
    job: Job
    plan: Plan
    run: RunFolder | None
    places: Sequence[int]
    branch_samples: int
    most: int
    storage: str
    recipe_folder: Path
    options: ProbeOptions
    hints: Sequence[str]

    def text(self) -> str:
        """Return what the probe will do, as a sentence."""
        batch, total = self.plan.global_batch_size, self.plan.total_samples
        places = ", ".join(percent(place / total) for place in self.places)
        branches = f"branches of {plural(self.branch_samples, 'sample')}, {plural(self.options.seeds, 'seed')}"
        return (
            f"Probe of {self.name}: batch {batch:,} to {batch * self.most:,} with rule {self.plan.rule}, at {places} "
            f"of the training; {branches}"
        )

    @property
    def seeds(self) -> Sequence[int]:
        """``train.seed`` of the repeats of each branch."""
        return [self.job.train.seed + place for place in range(self.options.seeds)]


def make_setting(
    job: Job, plan: Plan, options: ProbeOptions, *, run: RunFolder | None, storage: str, recipe_folder: Path
) -> ProbeSetting:
    """Return a probe that is ready to run.

    Args:
        job: at the batch that is probed, its length in samples.
        plan: its plan.
        options: what is asked for.
        run: whose checkpoints are probed; None: the probe trains its own.
        storage: of the runs.
        recipe_folder: the recipe is looked for there.

    Raises:
        JobFileError: the branches do not fit into the training, or are too short.
        RunError: the run has no checkpoint that can be probed.
    """
    batch, total = plan.global_batch_size, plan.total_samples
    samples = options.samples or max(1, min(DEFAULT_STEPS * batch, round(DEFAULT_SHARE * total)))
    if samples >= total:
        raise JobFileError(
            f"a branch of {samples:,} samples does not fit into a training of {total:,}.", "Give fewer --samples."
        )
    most = samples // (FEWEST_STEPS * batch)
    if most < 2:
        raise JobFileError(
            f"a branch of {samples:,} samples has {samples // batch} steps of {batch}, and with twice the batch it "
            f"needs {FEWEST_STEPS}.",
            f"Give at least --samples {2 * FEWEST_STEPS * batch}, or train longer.",
        )
    if options.most is not None:
        if options.most > most:
            raise JobFileError(
                f"--most {options.most} leaves a branch of {samples:,} samples fewer than {FEWEST_STEPS} steps of "
                f"{options.most * batch:,}.",
                f"Give --samples {options.most * batch * FEWEST_STEPS}, or --most {most}.",
            )
        most = options.most
    if run is None:
        shares = options.at or DEFAULT_PLACES
        places: Sequence[int] = sorted({place_of(share, plan, branch_samples=samples) for share in shares})
    else:
        places = _checkpoints(run, plan, options.at, branch_samples=samples)
    start, stop = places[-1], places[-1] + samples
    planned, reason = largest_planned(job, plan, start=start, stop=stop, most=most, storage=storage)
    return ProbeSetting(
        name=job.name,
        job=job,
        plan=plan,
        run=run,
        places=places,
        branch_samples=samples,
        most=planned,
        storage=storage,
        recipe_folder=recipe_folder,
        options=options,
        hints=[f"A batch above {planned * batch:,} has no plan: {reason}"] if reason else [],
    )


def _checkpoints(run: RunFolder, plan: Plan, at: Sequence[float] | None, *, branch_samples: int) -> Sequence[int]:
    """Return the checkpoints of a run that can be probed.

    Raises:
        RunError: one that was asked for does not exist, or none has the samples of a branch after it.
    """
    total = plan.total_samples
    there = complete_checkpoints(run)
    usable = [samples for samples in there if 0 < samples <= total - branch_samples]
    found = ", ".join(f"{samples:,}" for samples in there) or "none"
    keep = (
        "A run keeps its newest checkpoints only (checkpoint.keep). Probe the job instead, which trains to the places: "
        "scaler probe JOB\nOr train with more of them: --set checkpoint.keep=100"
    )
    if not usable:
        raise RunError(
            f"run {run.run_id} has no checkpoint with {branch_samples:,} of its {total:,} samples after it; its "
            f"checkpoints: {found}.",
            keep,
        )
    if at is None:
        nearest = {min(usable, key=lambda samples: abs(samples - share * total)) for share in DEFAULT_PLACES}
        return sorted(nearest)
    chosen = set()
    for share in at:
        nearest_one = min(usable, key=lambda samples: abs(samples - share * total))
        if abs(nearest_one - share * total) > NEAR * total:
            raise RunError(
                f"run {run.run_id} has no checkpoint near {share:.0%} of its training; it has {found}.", keep
            )
        chosen.add(nearest_one)
    return sorted(chosen)
