"""Take a model tuned once, on one worker, and train it on any number of workers with the learning rate right.

For ``scaler submit``: ``Recipe``, ``all_gather`` for its loss, ``load_job``, ``make_plan``. For one's own loop, without
Ray: ``scale_lr``, ``Schedule`` with ``Warmup`` and ``shapes``, and ``SampleScheduler``, which writes them into a torch
optimizer. In a notebook: ``read_run`` and ``read_runs``, for runs as pandas frames.

Importing this loads none of torch, Ray, pydantic, numpy or pandas; each public name loads what it needs when it is
first used.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "SampleScheduler",
    "ScaledLR",
    "Schedule",
    "Warmup",
    "__version__",
    "all_gather",
    "load_job",
    "make_plan",
    "read_run",
    "read_runs",
    "scale_lr",
    "shapes",
]

TYPE_CHECKING = False  # typing's own takes milliseconds to import, in which Ctrl-C would show a traceback
if TYPE_CHECKING:
    from scaler import shapes
    from scaler.core.scale_lr import ScaledLR, scale_lr
    from scaler.core.schedules import Schedule, Warmup
    from scaler.job import load_job
    from scaler.notebook import read_run, read_runs
    from scaler.plan import make_plan
    from scaler.training.gradients.gather import all_gather
    from scaler.training.optimizer.scheduler import SampleScheduler
    from scaler.training.recipe import Recipe

_HOMES = {
    "Recipe": "scaler.training.recipe",
    "SampleScheduler": "scaler.training.optimizer.scheduler",
    "ScaledLR": "scaler.core.scale_lr",
    "Schedule": "scaler.core.schedules",
    "Warmup": "scaler.core.schedules",
    "all_gather": "scaler.training.gradients.gather",
    "load_job": "scaler.job",
    "make_plan": "scaler.plan",
    "read_run": "scaler.notebook",
    "read_runs": "scaler.notebook",
    "scale_lr": "scaler.core.scale_lr",
}


def __getattr__(name: str) -> object:
    if name == "shapes":
        return import_module("scaler.shapes")
    if name not in _HOMES:
        raise AttributeError(f"module 'scaler' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
