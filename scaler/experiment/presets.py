"""Experiments without a file: a job and one list of values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaler.errors import JobFileError
from scaler.experiment.file import ExperimentFile, parse_experiment
from scaler.job import Job, load_job

WORKERS, GLOBAL, PER_WORKER = "scale.num_workers", "scale.global_batch_size", "scale.per_worker_batch_size"


def preset(
    job: Path,
    *,
    strong: Sequence[int] = (),
    weak: Sequence[int] = (),
    rules: Sequence[str] = (),
    batches: Sequence[int] = (),
    lrs: Sequence[float] = (),
    seeds: Sequence[int] = (0,),
    overrides: Sequence[str] = (),
    compare: Mapping[str, Any] | None = None,
    target: float | None = None,
) -> ExperimentFile:
    """Return the experiment of a job with the lists that are given; several lists are combined.

    Args:
        job: the path of the job file.
        strong: numbers of workers, with the job's global batch.
        weak: numbers of workers, with the job's batch a worker. If something is compared, the tuned reference on one
            worker is added as the baseline: the fewest workers have a larger batch already.
        rules: values of ``scale.rule``.
        batches: values of ``scale.global_batch_size``.
        lrs: values of ``reference.lr``.
        seeds: of the repeats.
        overrides: ``key.key=value`` texts for the job.
        compare: ``metric``, ``mode`` and ``margin``; the baseline is the first value of each list, and of ``weak``
            the reference. None: speed only.
        target: value of the metric whose cost is compared; None: none.

    Raises:
        JobFileError: no list is given, or two that do not go together.
    """
    if strong and weak:
        raise JobFileError("--strong and --weak are two experiments.", "Run one after the other.")
    base = load_job(job, overrides=overrides)
    if weak:
        _require_weak(base, weak, batches)
    matrix: dict[str, Any] = {}
    if strong or weak:
        matrix[WORKERS] = list(strong or weak)
    if strong and not batches:
        matrix[GLOBAL] = [base.scale.held_batch]
    if batches:
        matrix[GLOBAL] = list(batches)
    if rules:
        matrix["scale.rule"] = list(rules)
    if lrs:
        matrix["reference.lr"] = list(lrs)
    if not matrix:
        raise JobFileError(
            f"{job}: what is to be compared?",
            "Give an experiment file, or one of --strong, --weak, --rules, --batches and --lr.",
        )
    about: dict[str, Any] = {"name": f"{base.name}-{_kind(matrix, is_weak=bool(weak))}", "job": job.name}
    about |= {"matrix": matrix, "seeds": list(seeds)}
    if compare is not None:
        baseline = {key: values[0] for key, values in matrix.items()}
        if weak and not (1 in weak and _one_worker_has_the_reference(base)):
            baseline |= {WORKERS: 1, GLOBAL: base.reference.global_batch_size}
            about["include"] = [baseline]
        elif weak:
            baseline[WORKERS] = 1
        about["compare"] = {**compare, "baseline": baseline}
        if target is not None:
            about["target"] = {"at_least" if compare["mode"] == "max" else "at_most": target}
    return parse_experiment(about, source="the experiment")


def _require_weak(base: Job, weak: Sequence[int], batches: Sequence[int]) -> None:
    """Refuse weak scaling whose global batch would not grow with the workers.

    Raises:
        JobFileError: says what to type instead.
    """
    if batches:
        workers, sizes = ",".join(map(str, weak)), ",".join(map(str, batches))
        raise JobFileError(
            "--weak and --batches: with one batch a worker, the number of workers gives the global batch.",
            f"Each number of workers with each global batch: --strong {workers} --batches {sizes}. Another batch a "
            f"worker: --weak {workers} --set scale.per_worker_batch_size={batches[-1]}. Chosen pairs: the include of "
            "an experiment file.",
        )
    if base.scale.global_batch_size is not None:
        raise JobFileError(
            f"--weak: scale.global_batch_size = {base.scale.global_batch_size} keeps the global batch the same.",
            "Add --set scale.global_batch_size=null --set scale.per_worker_batch_size=64.",
        )
    if base.scale.per_worker_batch_size is None:
        raise JobFileError("--weak needs a batch a worker.", "Add --set scale.per_worker_batch_size=64.")


def _one_worker_has_the_reference(base: Job) -> bool:
    """Return whether the batch of one worker is that of the reference."""
    most, steps = base.scale.most_per_worker, base.scale.grad_accum_steps or 1
    return most is not None and most * steps == base.reference.global_batch_size


def _kind(matrix: Mapping[str, Any], *, is_weak: bool) -> str:
    names = {WORKERS: "weak" if is_weak else "strong", GLOBAL: "batches", "scale.rule": "rules", "reference.lr": "lr"}
    kept = [key for key in matrix if not (key == GLOBAL and len(matrix[key]) == 1)]
    return "-".join(names[key] for key in kept)
