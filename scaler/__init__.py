"""Take a model tuned once, on one worker, and train it on any number of workers with the right learning rate.

Run jobs, as the command line does: ``submit``, ``resume``, ``find_lr``, ``probe``, and ``plan_job`` for the plan
alone. Follow and stop them, from any machine: ``status``, ``wait``, ``stop``. Read runs: ``read_run`` and ``read_runs``
(pandas frames), ``compare``. Use what they trained: ``load_model``, ``export_model``. Several runs and what they show:
``run_experiment``, ``plan_experiment``, ``read_experiment``. Write a job: ``Recipe``, ``Eval``, ``all_gather`` for its
loss, ``StepContext`` of its step, ``load_job``, ``Job``, ``make_plan``, ``Plan``. Write your own training loop:
``start``, ``record``; or ``scale_lr``, ``Schedule`` with ``Warmup`` and ``shapes``, and ``SampleScheduler``, which
writes them into a torch optimizer. Every error is a ``ScalerError``.

Importing this loads none of torch, Ray, pydantic, numpy or pandas; each public name loads what it needs when it is
first used.
"""

from importlib import import_module

__version__ = "0.2.0"
__all__ = [
    "ClusterError",
    "Eval",
    "Job",
    "JobFileError",
    "Plan",
    "PlanError",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "SampleScheduler",
    "ScaledLR",
    "ScalerError",
    "Schedule",
    "StepContext",
    "TrainingError",
    "Warmup",
    "__version__",
    "all_gather",
    "compare",
    "export_model",
    "find_lr",
    "load_job",
    "load_model",
    "make_plan",
    "plan_experiment",
    "plan_job",
    "probe",
    "read_experiment",
    "read_run",
    "read_runs",
    "record",
    "resume",
    "run_experiment",
    "scale_lr",
    "shapes",
    "start",
    "status",
    "stop",
    "submit",
    "wait",
]

TYPE_CHECKING = False  # typing's own takes milliseconds to import, in which Ctrl-C would show a traceback
if TYPE_CHECKING:
    from scaler import shapes
    from scaler.api.compare import compare
    from scaler.api.experiment import plan_experiment, read_experiment, run_experiment
    from scaler.api.export_model import export_model
    from scaler.api.find_lr import find_lr
    from scaler.api.load_model import load_model
    from scaler.api.probe import probe
    from scaler.api.resume import resume
    from scaler.api.start import record, start
    from scaler.api.status import status, stop, wait
    from scaler.api.submit import submit
    from scaler.core.scale_lr import ScaledLR, scale_lr
    from scaler.core.schedules import Schedule, Warmup
    from scaler.errors import (
        ClusterError,
        JobFileError,
        PlanError,
        RecipeError,
        RunError,
        ScalerError,
        TrainingError,
    )
    from scaler.job import Job, load_job
    from scaler.notebook import Run, read_run, read_runs
    from scaler.plan import Plan, make_plan
    from scaler.training.gradients.gather import all_gather
    from scaler.training.gradients.step_context import StepContext
    from scaler.training.plan_job import plan_job
    from scaler.training.recipe import Eval, Recipe

_MODULES = {
    "ClusterError": "scaler.errors",
    "Eval": "scaler.training.recipe",
    "Job": "scaler.job",
    "JobFileError": "scaler.errors",
    "Plan": "scaler.plan",
    "PlanError": "scaler.errors",
    "Recipe": "scaler.training.recipe",
    "RecipeError": "scaler.errors",
    "Run": "scaler.notebook",
    "RunError": "scaler.errors",
    "SampleScheduler": "scaler.training.optimizer.scheduler",
    "ScaledLR": "scaler.core.scale_lr",
    "ScalerError": "scaler.errors",
    "Schedule": "scaler.core.schedules",
    "StepContext": "scaler.training.gradients.step_context",
    "TrainingError": "scaler.errors",
    "Warmup": "scaler.core.schedules",
    "all_gather": "scaler.training.gradients.gather",
    "compare": "scaler.api.compare",
    "export_model": "scaler.api.export_model",
    "find_lr": "scaler.api.find_lr",
    "load_job": "scaler.job",
    "load_model": "scaler.api.load_model",
    "make_plan": "scaler.plan",
    "plan_experiment": "scaler.api.experiment",
    "plan_job": "scaler.training.plan_job",
    "probe": "scaler.api.probe",
    "read_experiment": "scaler.api.experiment",
    "read_run": "scaler.notebook",
    "read_runs": "scaler.notebook",
    "record": "scaler.api.start",
    "resume": "scaler.api.resume",
    "run_experiment": "scaler.api.experiment",
    "scale_lr": "scaler.core.scale_lr",
    "start": "scaler.api.start",
    "status": "scaler.api.status",
    "stop": "scaler.api.status",
    "submit": "scaler.api.submit",
    "wait": "scaler.api.status",
}


def __getattr__(name: str) -> object:
    if name == "shapes":
        return import_module("scaler.shapes")
    if name not in _MODULES:
        raise AttributeError(f"module 'scaler' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)  # the next use finds it without this call
    return found


def __dir__() -> list[str]:
    return __all__
