"""Import Ray's private names for packing folders. They load without Ray Train, which ``ray_internals`` loads.

``ray_hooks.py`` lists how scaler uses them, and checks that the installed Ray still has them.
"""

from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE as MAX_HTTP_BYTES
from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _get_excludes, _get_ignore_file

__all__ = [
    "GCS_STORAGE_MAX_SIZE",
    "MAX_HTTP_BYTES",
    "RAY_RUNTIME_ENV_IGNORE_GITIGNORE",
    "_get_excludes",
    "_get_ignore_file",
    "get_runtime_env_default_excludes",
]
