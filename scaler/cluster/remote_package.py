"""Pack a job's folder for a cluster that is reached over HTTP: its files, and the job with every change in it.

The driver on the cluster reads the job from the package, so there is one job: what ``--set`` and ``--workers`` changed
is in the file, and no value of it is in the driver's command line, which Ray shows.
"""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from scaler.cluster.shipment import SHOWN, find_files, require_size
from scaler.job import Job
from scaler.job.reading import dump_yaml

UNSENT = ("runs", "data", "checkpoints")  # folders beside the job file that are left out, unless they have Python code
_LEVEL = 1  # of compression: text becomes a quarter of its size at 100 MiB/s
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same job gives the same package, which is sent once


def write_package(target: Path, job: Job, *, recipe_folder: Path, job_name: str) -> list[str]:
    """Write the package of a job, a zip file.

    Args:
        target: the zip file.
        job: with every change in it; its secrets are in the package.
        recipe_folder: the folder to pack.
        job_name: name of the job file in the package.

    Returns:
        Files and folders that are not in the package because ``.gitignore`` or ``UNSENT`` names them.

    Raises:
        ClusterError: the folder is larger than Ray's HTTP server takes; nothing was packed.
    """
    from scaler.cluster.ray_packaging import MAX_HTTP_BYTES

    folder = recipe_folder.absolute()
    sizes, left_out = find_files(folder, [], unsent=_unsent(folder))
    sizes.pop(folder / job_name, None)
    require_size(folder, sizes, limit=MAX_HTTP_BYTES, sent="a cluster takes over HTTP")
    with ZipFile(target, "w", ZIP_DEFLATED, compresslevel=_LEVEL, strict_timestamps=False) as package:
        for path in sizes:
            package.write(path, path.relative_to(folder))
        name = ZipInfo(job_name, date_time=_FIXED_TIME)
        package.writestr(name, dump_yaml(job.model_dump(mode="json")), ZIP_DEFLATED)
    return left_out


def not_sent_text(left_out: list[str]) -> str:
    """Return a sentence that says which files the cluster does not get.

    Example:
        >>> not_sent_text(["data/", "a.txt"])
        'Not sent to the cluster: data/, a.txt. To send data, write a line !data into .rayignore.'
    """
    more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    named = next((name for name in UNSENT if f"{name}/" in left_out), None)
    hint = f" To send {named}, write a line !{named} into .rayignore." if named else ""
    return f"Not sent to the cluster: {', '.join(left_out[:SHOWN])}{more}.{hint}"


def _unsent(folder: Path) -> list[str]:
    """Return the names of ``UNSENT`` that are not packages of Python, and that ``.rayignore`` does not ask for."""
    rules = folder / ".rayignore"
    asked = {line.strip().strip("/") for line in rules.read_text().splitlines()} if rules.is_file() else set()
    return [name for name in UNSENT if not asked & {f"!{name}", f"!/{name}"} and not any((folder / name).glob("*.py"))]
