"""The scaler that is running, as files that a cluster installs: its wheel, and the versions of what it needs."""

import base64
import hashlib
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import scaler

CONSTRAINTS = "constraints.txt"
WHEEL = "Wheel-Version: 1.0\nGenerator: scaler\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel_name() -> str:
    """Return the name of the wheel's file."""
    return f"scaler-{scaler.__version__}-py3-none-any.whl"


def write_wheel(folder: Path) -> Path:
    """Write the running scaler as a wheel into a folder, and return the wheel's path.

    It has the modules and package data that this process runs, also those of an editable installation, so that the
    cluster runs the scaler that the job was planned with. The file's content depends on nothing else.
    """
    package = Path(scaler.__file__).parent
    installed = distribution("scaler")
    info = f"scaler-{scaler.__version__}.dist-info"
    files = {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = _metadata(installed, "METADATA", "PKG-INFO").encode()
    files[f"{info}/entry_points.txt"] = _metadata(installed, "entry_points.txt").encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    rows = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    path = folder / wheel_name()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(ZipInfo(name), content, ZIP_DEFLATED)
    return path


def constraints() -> str:
    """Return the versions of all packages of this environment, as a constraints file of pip.

    A build such as torch's ``+cpu`` belongs to this machine, and is left out.
    """
    versions = {one.name.lower(): one.version.partition("+")[0] for one in distributions() if one.name != "scaler"}
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _metadata(installed: Distribution, *names: str) -> str:
    """Return a file of the installed package; its first name that exists, as a checkout has other names."""
    return next(text for name in names if (text := installed.read_text(name)) is not None)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
