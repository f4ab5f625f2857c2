"""The text for a Python that lacks a package which scaler needs. Standard library only: nothing else may be there."""

import sys

# Module -> package, of each dependency in pyproject.toml; a test compares them. The package's own metadata is not
# asked: on a cluster that is reached over HTTP, scaler is a folder that Ray has unpacked, and has none.
PACKAGES = {
    "click": "click",
    "fsspec": "fsspec",
    "jinja2": "jinja2",
    "numpy": "numpy",
    "packaging": "packaging",
    "plotille": "plotille",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "ray": "ray[default,train]",
    "rich": "rich",
    "tensorboardX": "tensorboardX",
    "torch": "torch",
    "yaml": "pyyaml",
}
EXIT_CODE = 3  # that of ClusterError


def missing_package_text(error: BaseException) -> str | None:
    """Return what to print for the failed import of a package that scaler needs; None: the error is another one."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in PACKAGES:
        return None
    package = PACKAGES[error.name]
    return (
        f"Error: the Python at {sys.executable} has no package {package}, which scaler needs.\n"
        f"  Install it there: {sys.executable} -m pip install '{package}'\n"
        "  Or start scaler, or the cluster, with a Python that has it."
    )
