"""Import the private names of Ray that are needed to start a cluster; ``ray_internals.py`` loads Ray Train, too."""

from ray._private import parameter, services
from ray._private.parameter import RayParams
from ray._private.services import start_api_server

__all__ = ["RayParams", "parameter", "services", "start_api_server"]
