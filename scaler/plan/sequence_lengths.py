"""The phases of a plan, where samples may change their number of tokens in training."""

from collections.abc import Sequence
from dataclasses import replace

from scaler.core.batch import strong_batch
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan.lengths import Lengths
from scaler.plan.phase import Phase, Scaling, units_of
from scaler.plan.phases import first_step_at, last_start, later_phases


def planned_phases(
    job: Job, first: Phase, *, scaling: Scaling, data_parallel_size: int, lengths: Lengths
) -> tuple[tuple[Phase, ...], Lengths, Lengths]:
    """Return the phases of a training, and lengths that know its total: of its samples, and of its schedule.

    The schedule counts samples of the length that samples have at the start of training: it follows the tokens. The two
    lengths are the same unless ``train.sequence_lengths`` changes the tokens of a sample.

    Args:
        job: with its batch sizes in samples of the first length.
        first: the first phase.
        scaling: the job's reference and rule.
        data_parallel_size: ranks that the batch is divided among, >= 1.
        lengths: without a total.

    Raises:
        PlanError: points that do not ascend, or a batch at which the rule does not hold.
    """
    if not job.train.sequence_lengths:
        lengths = replace(lengths, total_samples=lengths.samples(job.train))
        later = later_phases(job, first, scaling=scaling, data_parallel_size=data_parallel_size, lengths=lengths)
        return (first, *later), lengths, lengths
    phases = _phases(job, first, scaling=scaling, data_parallel_size=data_parallel_size, lengths=lengths)
    of_training = replace(lengths, units=units_of(phases))
    total = of_training.samples(job.train)
    assert first.tokens_per_sample is not None
    of_schedule = replace(lengths, total_samples=round(of_training.units.at(total) / first.tokens_per_sample))
    return phases, replace(of_training, total_samples=total), of_schedule


def never_longer_at(job: Job, phases: Sequence[Phase], lengths: Lengths) -> list[int]:
    """Return the points of ``train.sequence_lengths``, in samples, that lie after the start of the last step."""
    end = last_start(phases, lengths)
    return [at for later in job.train.sequence_lengths if (at := lengths.samples(later.at)) > end]


def _phases(
    job: Job, first: Phase, *, scaling: Scaling, data_parallel_size: int, lengths: Lengths
) -> tuple[Phase, ...]:
    """Return the phases that ``train.sequence_lengths`` plans, up to the end of training."""
    phases, before = [first], 0
    assert first.tokens_per_sample is not None
    for place, later in enumerate(job.train.sequence_lengths):
        known = replace(lengths, units=units_of(phases))
        last, at = phases[-1], known.samples(later.at)
        if at <= before:
            places = known.units.place(at), known.units.place(before)
            raise PlanError(
                f"train.sequence_lengths.{place}.at is {places[0]} {known.units.many}, the point before {places[1]}.",
                "Write the points in ascending order.",
            )
        before = at
        start, steps = first_step_at(at, last, lengths)
        if start >= known.samples(job.train):
            break
        if start == last.start_samples:  # two changes in one step: the later one counts
            phases.pop()
        tokens = later.tokens_per_sample
        batch = strong_batch(
            data_parallel_size=data_parallel_size,
            global_batch_size=first.global_batch_size * first.tokens_per_sample // tokens,
            per_worker_batch_size=(job.scale.most_per_worker or first.per_worker_batch_size)
            * first.tokens_per_sample
            // tokens
            or 1,
            grad_accum_steps=None,
        )
        phase, _ = scaling.phase(batch, start_samples=start, start_steps=steps, tokens_per_sample=tokens)
        phases.append(phase)
    return tuple(phases)
