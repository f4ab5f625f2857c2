"""Write ``docker/``: what ``scaler export`` writes for ``jobs/digits``, with the paths of a checkout."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from scaler.export import Place, Sources, export_job
from scaler.export.wheel import wheel_name
from scaler.job import load_job

ROOT = Path(__file__).parent.parent
FOLDER = "jobs/digits"
RUN_ID = "digits-1"
ELASTIC = "scale.num_workers={min: 1, max: 4}"
ONE_GPU = "resources.gpus_per_worker=1"

# Folder in docker/, kind, and the changes of the job.
FILES: Sequence[tuple[str, str, Sequence[str]]] = (
    ("", "docker", ()),
    ("", "compose", ()),
    ("kuberay", "kuberay", (ELASTIC,)),
    ("kuberay", "raycluster", (ELASTIC,)),
    ("clusters", "aws", (ELASTIC, ONE_GPU, "storage=s3://FILL-IN-BUCKET/runs")),
    ("clusters", "gcp", (ELASTIC, ONE_GPU, "storage=gs://FILL-IN-BUCKET/runs")),
    ("", "slurm", ()),
    ("", "skypilot", (ONE_GPU, "storage=s3://FILL-IN-BUCKET/runs")),
)


def files() -> dict[str, str]:
    """Return the files, by their path in ``docker/``."""
    found: dict[str, str] = {}
    for folder, kind, overrides in FILES:
        changes = [part for change in overrides for part in ("--set", change)]
        exported = export_job(
            kind,
            load_job(ROOT / FOLDER / "job.yaml", overrides=overrides),
            Place(run_id=RUN_ID),
            Sources(
                folder=FOLDER,
                job_file="job.yaml",
                out=f"docker/{folder}".rstrip("/"),
                docker="docker",
                context=".",
                wheel=f"dist/{wheel_name()}",
                constraints="requirements.lock",
                requirements=f"{FOLDER}/requirements.txt",
                bin=".venv/bin",
                python="3.11.14",
                make_wheel="make wheel",
            ),
            overrides=overrides,
            as_typed=shlex.join(["scaler", "export", kind, FOLDER, *changes, "--run-id", RUN_ID]),
        )
        found |= {f"{folder}/{name}".lstrip("/"): text for name, text in exported.files.items()}
    return found


if __name__ == "__main__":
    for name, text in files().items():
        path = ROOT / "docker" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
