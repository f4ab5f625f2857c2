"""Take a model tuned once, on one worker, and train it on any number of workers with the learning rate right.

Importing this loads none of torch, Ray, pydantic or numpy; each public name loads what it needs when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "load_job", "make_plan"]

if TYPE_CHECKING:
    from scaler.job import load_job
    from scaler.plan import make_plan
    from scaler.training.recipe import Recipe

_HOMES = {"Recipe": "scaler.training.recipe", "load_job": "scaler.job", "make_plan": "scaler.plan"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'scaler' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
