"""The ``runtime_env`` section: what the processes of the workers get beside the job's folder."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from scaler.errors import JobFileError
from scaler.job.section import Section, problem

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REPLACED_BY_RAY = re.compile(r"\$(\w|\{)")

_Packages = (
    Annotated[
        Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1), Tag("<list>")]
        | Annotated[str, Field(min_length=1), Tag("<file>")],
        Discriminator(lambda value: "<file>" if isinstance(value, str) else "<list>"),
    ]
    | None
)


class RuntimeEnv(Section):
    """What the workers get beside the job's folder and scaler; `pip`, `uv` and `image_uri` only on running clusters."""

    pip: _Packages = Field(
        None,
        description="Packages that Ray installs on each node with pip, beside those of the node's Python: a list such "
        'as ["einops==0.8"], or a requirements file, relative to the job file\'s folder. null: none.',
    )
    uv: _Packages = Field(None, description="The same as pip, installed with uv. null: none.")
    env_vars: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the workers. ${NAME} stands for the variable NAME where the job is "
        "submitted or resumed, so that a secret is not in the job file.",
    )
    py_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        strict=False,
        description="Folders of packages, files of modules and wheels that the workers can import, relative to the "
        "job file's folder; also URIs that Ray reads, such as s3://bucket/package.zip.",
    )
    image_uri: str | None = Field(
        None,
        min_length=1,
        description="Container image in which the workers run. Ray sends no files into it: the image has the Python "
        "and Ray of the cluster, scaler, and the recipe as a module that Python can import. The nodes need podman. "
        "Not tested. null: none.",
    )

    @field_validator("env_vars", mode="before")
    @classmethod
    def _is_names_and_texts(cls, env_vars: Any) -> Any:
        for name, value in env_vars.items() if isinstance(env_vars, dict) else ():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise problem(f"has {name!r}, which is no name of a variable.", "Use letters, digits and _.")
            if not isinstance(value, str):
                raise problem(f"has {name} = {value!r}, which is not text.", f'Write {name}: "{value}".')
        return env_vars

    @model_validator(mode="after")
    def _has_one_source_of_packages(self) -> Self:
        given = [key for key in ("pip", "uv", "image_uri") if getattr(self, key) is not None]
        if given[:2] == ["pip", "uv"]:
            raise problem("has pip and uv, and Ray installs with one of them.", "Keep one: uv is faster.")
        given += ["py_modules"] if self.py_modules else []
        if self.image_uri is not None and len(given) > 1:
            other = next(key for key in given if key != "image_uri")
            raise problem(
                f"has {other} and image_uri, and Ray puts nothing into an image.",
                f"Put what {other} names into the image, or leave image_uri out.",
            )
        return self


def filled_in(env_vars: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of ``runtime_env.env_vars``, with each ``${NAME}`` replaced by that variable's value.

    Args:
        env_vars: as in the job file.
        environment: the variables of the process that submits or resumes.

    Raises:
        JobFileError: a variable is not set, or a value has a ``$`` that Ray would replace on the nodes.

    Example:
        >>> filled_in({"HF_TOKEN": "${MY_TOKEN}", "MODE": "fast"}, {"MY_TOKEN": "abc"})
        {'HF_TOKEN': 'abc', 'MODE': 'fast'}
    """
    found = {}
    for name, value in env_vars.items():
        key = f"runtime_env.env_vars.{name}"
        for reference in _REFERENCE.findall(value):
            if reference not in environment:
                raise JobFileError(
                    f"{key} = {value}: the environment variable {reference} is not set.", f"export {reference}=..."
                )
        found[name] = _REFERENCE.sub(lambda match: environment[match[1]], value)
        if _REPLACED_BY_RAY.search(found[name]):
            raise JobFileError(
                f"{key}: its value has a $ before a name, which Ray would replace on the nodes.",
                "Write ${NAME} for a variable of this machine, or have the recipe read the value from a file.",
            )
    return found


@contextmanager
def job_environment(runtime_env: RuntimeEnv, *, folder: Path) -> Iterator[None]:
    """Set the job's ``env_vars`` and make its ``py_modules`` importable, in this process and those that it starts.

    Args:
        runtime_env: of the job.
        folder: the job file's folder.

    Raises:
        JobFileError: as ``filled_in`` and ``located_modules``.
    """
    values = filled_in(runtime_env.env_vars, os.environ)
    parents = [
        str(Path(module).parent) for module in located_modules(runtime_env, folder=folder) if "://" not in module
    ]
    if parents:
        earlier = values.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        values["PYTHONPATH"] = os.pathsep.join([*parents, *filter(None, [earlier])])
    before, path = {name: os.environ.get(name) for name in values}, list(sys.path)
    os.environ.update(values)
    sys.path[:] = [*sys.path, *parents]
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def located_modules(runtime_env: RuntimeEnv, *, folder: Path) -> list[str]:
    """Return ``py_modules`` as absolute paths and URIs.

    Raises:
        JobFileError: a path does not exist.
    """
    return [
        module if "://" in module else str(_existing(module, key="runtime_env.py_modules", folder=folder))
        for module in runtime_env.py_modules
    ]


def located_packages(packages: Sequence[str] | str | None, *, key: str, folder: Path) -> list[str] | str | None:
    """Return ``pip`` or ``uv`` as Ray takes it: a list of packages, or the absolute path of a requirements file.

    Raises:
        JobFileError: the file does not exist.
    """
    if isinstance(packages, str):
        return str(_existing(packages, key=key, folder=folder))
    return None if packages is None else list(packages)


def not_used_text(runtime_env: RuntimeEnv) -> str:
    """Return a sentence on the keys that do nothing on this machine; empty: there are none.

    Example:
        >>> not_used_text(RuntimeEnv(pip=["einops"]))
        'runtime_env.pip is for running clusters (--address): here the workers use this Python and its packages.'
    """
    given = [key for key in ("pip", "uv", "image_uri") if getattr(runtime_env, key) is not None]  # at most one
    return "".join(
        f"runtime_env.{key} is for running clusters (--address): here the workers use this Python and its packages."
        for key in given
    )


def _existing(path: str, *, key: str, folder: Path) -> Path:
    found = Path(os.path.normpath(folder.absolute() / os.path.expanduser(path)))
    if not found.exists():
        raise JobFileError(f"{key}: there is no {found}.", "The path is relative to the job file's folder.")
    return found
