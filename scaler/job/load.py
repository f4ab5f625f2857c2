"""Read and write job files; every error names the key of the file and what to write."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scaler.core.mesh import DATA, DIMENSIONS, MODEL
from scaler.errors import JobFileError
from scaler.job.explain import problems
from scaler.job.model import Job
from scaler.job.reading import MOST_LEVELS, TOO_DEEP, dump_yaml, parse_yaml, read_file, read_values, shortened
from scaler.masking import MASK, mask_text, mask_values

MOST_PROBLEMS = 10  # in one error message
_WITH_SECRETS = ("recipe_args", "runtime_env")


def dump_job(job: Job) -> str:
    """Return a job as the YAML that ``read_job`` reads back; secrets in it are ``***`` (``scaler.masking``)."""
    values = job.model_dump(mode="json")
    values |= {key: mask_values(values[key]) for key in _WITH_SECRETS} | {"storage": mask_text(values["storage"])}
    return dump_yaml(values)


def masked_keys(job: Job) -> list[str]:
    """Return the keys whose secrets ``dump_job`` masked; they must be given again to run the job.

    Example: ``["recipe_args.api_key"]``.
    """

    def found(value: object, key: str) -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, part in value.items():
                yield from found(part, f"{key}.{name}")
        elif isinstance(value, str | list) and any(MASK in text for text in _texts_in(value)):
            yield key  # --set takes a list as a whole

    values = job.model_dump(mode="json", include=set(_WITH_SECRETS))
    return [masked for key in _WITH_SECRETS for masked in found(values[key], key)]


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(part)


def read_job(raw: bytes, *, source: str) -> Job:
    """Return the job that a file's content describes; ``source`` names it in errors.

    Raises:
        JobFileError: it is not a job; names the key and the remedy.
    """
    return parse_job(read_values(raw, source=source), source=source)


def load_job(path: str | Path, *, overrides: Sequence[str] = (), workers: int | None = None) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        workers: as in ``edit_job``.

    Raises:
        JobFileError: the file cannot be read, is not a job, or is a run's copy of a job with masked secrets; names the
            file, the key and the remedy.
    """
    values = read_values(read_file(Path(path)), source=str(path))
    job = edit_job(values, overrides=overrides, workers=workers, source=str(path))
    masked = [*masked_keys(job), *(["storage"] if MASK in job.storage else [])]
    if masked:
        raise JobFileError(
            f"{path}: {', '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked.",
            f"A run's copy of its job has {MASK} for secrets; give them again: --set {masked[0]}=...",
        )
    return job


def edit_job(
    values: Mapping[str, Any], *, overrides: Sequence[str] = (), workers: int | None = None, source: str
) -> Job:
    """Return the job that ``values`` describe, with the changes of ``--set`` and ``--workers``.

    Args:
        values: the values of a job file.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        workers: replaces ``scale.num_workers`` and any override of it. An elastic job with ``on_resize:
            hold_global_batch`` keeps its batch: the batch of its most workers becomes ``scale.global_batch_size``, with
            as many micro-steps as needed. An override of ``scale.num_workers`` does not keep it.
        source: names the job in errors.

    Raises:
        JobFileError: the result is not a job; names the key and the remedy.
    """
    edited = apply_overrides(values, overrides)
    if workers is None:
        return parse_job(edited, source=source)
    changes, asked = [f"scale.num_workers={workers}"], edited.get("scale")
    if not isinstance(asked, Mapping) or isinstance(asked.get("num_workers"), Mapping):
        scale = parse_job(edited, source=source).scale
        if scale.on_resize == "hold_global_batch":
            changes.append(f"scale.global_batch_size={scale.held_batch}")
            changes += ["scale.grad_accum_steps=null"] if scale.grad_accum_steps is not None else []
    return parse_job(apply_overrides(edited, changes), source=source)


def with_mesh(job: Job, sizes: Mapping[str, int]) -> Job:
    """Return the job with the mesh that a script has made, and with its number of workers.

    Args:
        job: of a loop of one's own.
        sizes: by the names of ``scale.mesh``; a missing one is 1. An ``expert`` dimension is one more factor, of
            workers with the same samples, which ``scale.mesh`` counts in ``tensor``.

    Raises:
        JobFileError: the job has a mesh for other numbers of workers, or an optimizer that cannot be sharded.
    """
    mesh = dict.fromkeys(DIMENSIONS, 1) | dict(sizes)
    mesh["tensor"] *= mesh["expert"]
    values = job.model_dump()
    if mesh["shard"] > 1:
        values["train"]["strategy"] = "fsdp"
    if job.scale.is_elastic and job.scale.on_resize == "hold_global_batch":  # the batch that it holds is of this mesh
        free = "shard" if values["train"]["strategy"] == "fsdp" else "replicate"
        values["scale"]["mesh"] = {**mesh, free: None}
    workers = prod(mesh[name] for name in (*DATA, *MODEL))
    fixed = edit_job(values, workers=workers, source="the job")
    return edit_job(fixed.model_dump(), overrides=[f"scale.mesh={json.dumps(mesh)}"], source="the job")


def parse_job(values: Mapping[str, Any], *, source: str) -> Job:
    """Return the job that ``values`` describe; ``source`` names them in errors."""
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        texts = problems(error)
        if len(texts) == 1:
            raise JobFileError(f"{source}: {texts[0][0]}", texts[0][1]) from None
        shown = texts[:MOST_PROBLEMS]
        lines = [line for text, remedy in shown for line in (text, *(f"  {row}" for row in remedy.splitlines()))]
        lines += [f"and {len(texts) - len(shown):,} more."] if len(texts) > len(shown) else []
        raise JobFileError(f"{source}: {len(texts):,} problems.", "\n".join(lines)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with each ``key.key=value`` set; missing sections are created.

    Example:
        >>> apply_overrides({"train": {"seed": 0}}, ["train.seed=1", "resources.cpus_per_worker=2"])
        {'train': {'seed': 1}, 'resources': {'cpus_per_worker': 2}}
    """
    result = _copied(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        shown = f"--set {shortened(override)}"
        if not equals or not all(key.split(".")):
            raise JobFileError(f"{shown} is not KEY=VALUE.", "Such as --set train.epochs=3.")
        if key.count(".") >= MOST_LEVELS:
            raise JobFileError(f"{shown}: is nested too deep.", TOO_DEEP)
        *sections, last = key.split(".")
        section = result
        for name in sections:
            inner = section.setdefault(name, {})
            if not isinstance(inner, dict):
                raise JobFileError(f"{shown}: {name} is {shortened(inner)}, which has no keys.", "Set it as a whole.")
            section = inner
        section[last] = parse_yaml(text, source=shown)
    return result


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}
