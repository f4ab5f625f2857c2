"""Write ``docs/licences.md``: the packages that an installed scaler needs, with their versions and licences.

``--lock`` prints the packages and their versions instead, as a requirements file.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
NOT_INSTALLED = ("dev",)  # extras that a user of scaler does not install
CLASSIFIER = "License :: "
HEAD = """# Licences of what scaler needs

scaler has the [Apache License 2.0](../LICENSE). Its pages contain uPlot, which has the
[MIT licence](../scaler/report/page/static/uPlot.LICENSE). These are the packages that `pip install scaler` installs,
and those of its extras, with the versions of `requirements.lock` and the licence that each package names itself. Other
builds of torch need packages of CUDA, which have NVIDIA's licences.

`docs/make_licences_page.py` writes this page.

| package | version | licence | needed by |
|---|---|---|---|
"""


def locked() -> Mapping[str, str]:
    """Return the versions of the lock file, by the package's name."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if re.match(r"[\w.-]+==", line)]
    return {canonicalize_name(name): version for name, version in pairs}


def needed() -> Mapping[str, list[str]]:
    """Return who needs each package of the lock file: scaler, or the names of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"scaler": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        if group not in NOT_INSTALLED:
            for name in sorted(closure(requirements)):
                found.setdefault(name, []).append(group)
    return {name: ["scaler"] if "scaler" in by else by for name, by in sorted(found.items())}


def closure(requirements: list[str]) -> set[str]:
    """Return the packages of the lock file that some requirements need, directly or not."""
    versions, found = locked(), set[str]()
    waiting = [Requirement(each) for each in requirements]
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen or name not in versions:
            continue
        seen.add((name, extras))
        found.add(name)
        for each in map(Requirement, distribution(name).requires or []):
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(each)
    return found


def licence(name: str) -> str:
    """Return the licence that an installed package names: its SPDX expression, its classifiers, or its text."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):  # an importlib_metadata in use raises for a missing key
        return str(expression)
    classifiers = [each.split(" :: ")[-1] for each in metadata.get_all("Classifier", []) if each.startswith(CLASSIFIER)]
    text = (metadata.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (text[0] if text else "not named")


def rows() -> Iterator[str]:
    """Yield the rows of the table."""
    versions = locked()
    for name, groups in needed().items():
        yield f"| {name} | {versions[name]} | {licence(name).replace('|', '/')} | {', '.join(groups)} |"


def page() -> str:
    """Return the page."""
    return HEAD + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    if "--lock" in sys.argv:
        print(*(f"{name}=={locked()[name]}" for name in needed()), sep="\n")
    else:
        PAGE.write_text(page())
