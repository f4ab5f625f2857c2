"""Change how Ray starts a cluster from this process, where ``ray.init`` has no parameter for it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import ModuleType
from typing import Any


def start_parameters(**values: Any) -> AbstractContextManager[None]:
    """Give values to parameters of a Ray cluster that is started in a ``with`` block.

    Args:
        values: parameters of Ray's ``RayParams``.
    """
    from scaler.cluster.ray_start_internals import parameter

    return _replaced(parameter, "RayParams", partial(vars(parameter)["RayParams"], **values))


def no_dashboard_process() -> AbstractContextManager[None]:
    """Start a Ray cluster in a ``with`` block without its dashboard's process, for which Ray waits more than a second.

    ``ray.init(include_dashboard=False)`` still starts it, for usage statistics alone.
    """
    from scaler.cluster.ray_start_internals import services

    address_and_process = ("", None)
    return _replaced(services, "start_api_server", lambda *arguments, **named: address_and_process)


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Replace a name of a module for the length of a ``with`` block."""
    before = vars(module)[name]
    try:
        vars(module)[name] = value
        yield
    finally:
        vars(module)[name] = before
