"""Change how Ray starts a cluster from this process, where ``ray.init`` has no parameter for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def start_parameters(**values: Any) -> Iterator[None]:
    """Give values to parameters of a Ray cluster that is started in a ``with`` block.

    Args:
        values: parameters of Ray's ``RayParams``.
    """
    from scaler.cluster.ray_start_internals import parameter

    before = vars(parameter)["RayParams"]
    try:
        vars(parameter)["RayParams"] = partial(before, **values)
        yield
    finally:
        vars(parameter)["RayParams"] = before


@contextmanager
def no_dashboard_process() -> Iterator[None]:
    """Start a Ray cluster in a ``with`` block without its dashboard's process, for which Ray waits more than a second.

    ``ray.init(include_dashboard=False)`` still starts it, for usage statistics alone.
    """
    from scaler.cluster.ray_start_internals import services

    before = vars(services)["start_api_server"]
    try:
        vars(services)["start_api_server"] = lambda *arguments, **named: ("", None)  # its address, and its process
        yield
    finally:
        vars(services)["start_api_server"] = before
