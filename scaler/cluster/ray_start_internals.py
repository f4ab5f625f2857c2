"""Import the private names of Ray that are needed to start a cluster; ``ray_internals.py`` loads Ray Train, too."""

from ray._private import parameter
from ray._private.parameter import RayParams

__all__ = ["RayParams", "parameter"]
