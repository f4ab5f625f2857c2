"""Merge what a job asks for in ``runtime_env`` with the files that Ray sends to the nodes.

The same runtime environment is given to ``ray.init`` and to Ray Jobs. In a Ray job, the workers get the Ray job's
runtime environment too, and Ray refuses a key that both have. So what the Ray job has is left out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaler.cluster.ray_session import HASH_SEED
from scaler.cluster.shipment import runtime_env_of_ray_job
from scaler.job import Job
from scaler.job.runtime_env import filled_in, located_modules, located_packages


def merged_runtime_env(sent: Mapping[str, Any], job: Job, *, folder: Path) -> dict[str, Any]:
    """Return the runtime environment of a run's processes, as Ray Core and Ray Jobs take it.

    Its ``env_vars`` have the secrets of ``runtime_env.env_vars`` in them, so it must not be written or shown.

    Args:
        sent: what ``pack`` returns for the job's folder.
        job: its ``runtime_env`` is merged with ``sent``.
        folder: the job file's folder.

    Raises:
        JobFileError: a variable that ``env_vars`` refers to is not set, or a path does not exist.
    """
    asked, of_ray_job = job.runtime_env, runtime_env_of_ray_job()
    known = of_ray_job.get("env_vars") or {}
    env_vars = {HASH_SEED: os.environ.get(HASH_SEED, "0"), **sent.get("env_vars", {})}
    env_vars |= filled_in({name: value for name, value in asked.env_vars.items() if name not in known}, os.environ)
    merged: dict[str, Any] = {
        "env_vars": {name: value for name, value in env_vars.items() if name not in known},
        "pip": located_packages(asked.pip, key="runtime_env.pip", folder=folder),
        "uv": located_packages(asked.uv, key="runtime_env.uv", folder=folder),
        "image_uri": asked.image_uri,
    }
    if asked.image_uri is None:  # Ray sends no files into an image
        modules = [*sent.get("py_modules", ()), *located_modules(asked, folder=folder)]
        merged = {**sent, **merged, "py_modules": modules}
    return {key: value for key, value in merged.items() if value and (key == "env_vars" or key not in of_ray_job)}
