"""Exports of the digits job, for several test modules."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from scaler.export import Export, Place, Sources, export_job
from scaler.job import Job, load_job

FOLDER = "jobs/digits"
ROOT = Path(__file__).parents[2]
ELASTIC = "scale.num_workers={min: 2, max: 5}"
ONE_GPU = "resources.gpus_per_worker=1"
BUCKET = "storage=s3://bucket/runs"


def job(*overrides: str, workers: int | None = None) -> Job:
    """Return the digits job with some changes."""
    return load_job(ROOT / FOLDER / "job.yaml", overrides=overrides, workers=workers)


def exported(kind: str, *overrides: str, workers: int | None = None, **place: Any) -> Export:
    """Return an export of the digits job."""
    return export_job(
        kind,
        job(*overrides, workers=workers),
        Place(**{"run_id": "digits-1", **place}),
        Sources(
            folder=FOLDER,
            job_file="job.yaml",
            out=f"{FOLDER}/deploy",
            docker=f"{FOLDER}/deploy",
            context=FOLDER,
            wheel=f"{FOLDER}/deploy/scaler-0.1.0-py3-none-any.whl",
            constraints=f"{FOLDER}/deploy/constraints.txt",
            bin="/opt/scaler/bin",
            python="3.11.14",
        ),
        overrides=overrides,
        workers=workers,
        as_typed="scaler export",
    )


def documents(kind: str, *overrides: str, **values: Any) -> Sequence[Any]:
    """Return the YAML documents of an export's first file."""
    return list(yaml.safe_load_all(next(iter(exported(kind, *overrides, **values).files.values()))))


@cache
def validator(name: str, part: str | None = None) -> Any:
    """Return the validator of a schema in ``schemas/``, which says where it is from; or of a part of it."""
    whole = json.loads((Path(__file__).parent / "schemas" / f"{name}.json").read_text())
    return Draft202012Validator(whole if part is None else {**whole[part], "$defs": whole["$defs"]})
