"""Choose a checkpoint of a run: the newest, the best, or the one at a number of samples. This module loads no torch."""

from typing import Any, Literal

from scaler.errors import JobFileError, RunError
from scaler.metrics.events import OWN_LOOP, AttemptStarted, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints, read_manifest

Which = Literal["last", "best"] | int


def parse_which(text: str) -> Which:
    """Return the checkpoint that a text names: ``last``, ``best``, or a number of samples.

    Raises:
        JobFileError: the text is none of these.
    """
    if text in ("last", "best"):
        return "best" if text == "best" else "last"
    if text.isascii() and text.isdecimal():
        return int(text)
    raise _unknown(text)


def choose_checkpoint(folder: RunFolder, which: Which) -> int:
    """Return a complete checkpoint of a run, as its ``samples_seen``. Nothing in the folder is changed.

    Args:
        folder: of the run.
        which: ``last``: the newest. ``best``: the one with the best value of the newest job's ``checkpoint.best``; of
            equal values the oldest. A number: the one after this many samples.

    Raises:
        JobFileError: ``which`` is none of these.
        RunError: the run has no such checkpoint; the message names those that exist.
    """
    if which not in ("last", "best") and (isinstance(which, bool) or not isinstance(which, int)):
        raise _unknown(which)
    there = complete_checkpoints(folder)
    if not there:
        raise no_checkpoint(folder)
    if which == "last":
        return there[-1]
    if which == "best":
        return _best(folder, there)
    if which not in there:
        raise RunError(f"run {folder.run_id} has no checkpoint at {which} samples.", others(folder))
    return which


def others(folder: RunFolder) -> str:
    """Return a sentence with the checkpoints of a run, for an error."""
    there = complete_checkpoints(folder)
    return f"It has checkpoints at these numbers of samples: {', '.join(map(str, there))}." if there else ""


def _best(folder: RunFolder, there: list[int]) -> int:
    manifests = {samples: read_manifest(folder, samples) for samples in there}
    wanted = manifests[there[-1]].get("best_of")
    if wanted is None:
        raise RunError(
            f"run {folder.run_id} keeps no best checkpoint: its job does not say which value is the best.",
            f"Set checkpoint.best in the job before training, or use another one. {others(folder)}",
        )
    metric, mode = wanted
    values: dict[int, Any] = {
        samples: about.get("best_by") for samples, about in manifests.items() if about.get("best_of") == wanted
    }
    known = {samples: value for samples, value in values.items() if isinstance(value, int | float)}
    if not known:
        raise RunError(
            f"run {folder.run_id}: none of its checkpoints has a value of {metric}.",
            f"Wait for an evaluation, or use another one. {others(folder)}",
        )
    return (min if mode == "min" else max)(known, key=lambda samples: known[samples])


def _unknown(which: object) -> JobFileError:
    return JobFileError(
        f"which = {which} is not a checkpoint.", "Use last, best, or the number of samples at which one was written."
    )


def no_checkpoint(folder: RunFolder) -> RunError:
    """Return the error for a run without a checkpoint."""
    if any(event.data_order == OWN_LOOP for event in of_type(read_events(folder), AttemptStarted)):
        return RunError(
            f"run {folder.run_id} was trained in a loop of one's own, whose script writes the checkpoints.",
            "Load the file that the script has saved, with torch.load.",
        )
    if folder.read_json("plan.json").get("purpose") == "find_lr":
        return RunError(f"run {folder.run_id} is a range test, which keeps no weights.", "Give a run of a training.")
    return RunError(
        f"run {folder.run_id} has no checkpoint yet.",
        "One is written every checkpoint.every, and at the end of training; scaler status shows how far a run is.",
    )
