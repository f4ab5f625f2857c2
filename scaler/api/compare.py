"""``scaler.compare``: what differs between runs."""

import os

from scaler.notebook import RunLike, run_folder
from scaler.report.compare.model import Comparison
from scaler.report.compare.read import read_comparison


def compare(*runs: RunLike, storage: str | os.PathLike[str] = "runs") -> Comparison:
    """Return the comparison of two or more runs: what differs between them, and by how much.

    Runs whose jobs differ only in seed, name, storage and tracking are repeats and form one arm. The other arms are
    compared with the arm of the first run, the base. Repeats show which differences are larger than noise.

    Args:
        runs: for each run its id below ``storage``, its folder or URI, ``last``, or what ``scaler.read_run`` returned.
        storage: the folder or URI that holds runs.

    Raises:
        JobFileError: fewer than two runs, or one of them twice.
        RunError: a run cannot be read; the error names the run.

    Example:
        >>> import scaler, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> options = {"workers": 1, "address": "none", "storage": folder.name}
        >>> runs = [
        ...     scaler.submit("jobs/digits/job.yaml", overrides=["train.epochs=1", f"scale.rule={rule}"], **options)
        ...     for rule in ("linear", "none")
        ... ]
        >>> comparison = scaler.compare(*runs)
        >>> [(change.key, change.base, change.value) for change in comparison.arms[1].changes]
        [('scale.rule', 'linear', 'none')]
        >>> folder.cleanup()
    """
    return read_comparison([run_folder(run, storage=storage) for run in runs])
