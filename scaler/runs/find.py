"""List the runs below a storage, and find the run that a person names."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from math import isfinite

from scaler.errors import JobFileError, RunError
from scaler.masking import mask_text
from scaler.runs.filesystems import CONNECTIONS, inside, located, names_in
from scaler.runs.folder import RunFolder
from scaler.runs.parsing import parse_json

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
NO_RUNS = "scaler submit JOB makes one. For a run elsewhere, give its --storage, or its cluster's --address."
MOST_CHARACTERS = 200  # of a run id; a name in a folder may have 255, and Ray adds to the id


def find_run(run: str, *, storage: str = "runs") -> RunFolder:
    """Return the run that a person names: a folder or URI, a run id below ``storage``, or ``last``.

    Only a valid run id is looked for below ``storage``, so ``..`` cannot lead out of it.

    Raises:
        RunError: there is no such run; names the newest ones.
    """
    shown = mask_text(storage)
    if run == "last":
        found = list_runs(storage)
        if not found:
            raise RunError(f"there are no runs in {shown}.", NO_RUNS)
        return found[-1]
    uris = [run] if run.strip() else []
    if _RUN_ID.fullmatch(run):
        uris.append(inside(storage, run))
    for uri in uris:
        folder = RunFolder(located(uri))
        if folder.is_run():
            return folder
    near = [folder.run_id for folder in list_runs(storage)[-3:]]
    named = mask_text(run if re.fullmatch(r"[\w./:@%+=~,*-]+", run, re.ASCII) else repr(run))
    raise RunError(
        f"there is no run {named}, neither at this path nor in {shown}.",
        f"The newest there: {', '.join(reversed(near))}." if near else NO_RUNS,
    )


def require_run_id(run_id: str) -> None:
    """Refuse a text that cannot be the id of a run.

    Raises:
        JobFileError: it has other characters than a run id, is too long, or is ``last``.
    """
    if not _RUN_ID.fullmatch(run_id) or len(run_id) > MOST_CHARACTERS or run_id == "last":
        raise JobFileError(
            f"--run-id {run_id!r} is not the id of a run.",
            f"Use letters, digits, '.', '_' and '-', at most {MOST_CHARACTERS}, and not the word last.",
        )


def run_with_id(run_id: str, *, storage: str) -> RunFolder | None:
    """Return the run of this id in ``storage``; None: there is none, or it was ended before it had a status."""
    folder = RunFolder(inside(located(storage), run_id))
    return folder if folder.is_run() else None


def list_runs(storage: str = "runs") -> Sequence[RunFolder]:
    """Return the runs below ``storage``, the oldest first.

    Raises:
        RunError: the storage cannot be read.
    """
    base = located(storage)
    names = names_in(base, what=f"storage = {mask_text(storage)}")
    folders = [RunFolder(inside(base, name)) for name in names]
    if "://" not in base:
        made = [_made(folder) for folder in folders]
    else:  # a request takes long, and the storage answers many at once
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            made = list(pool.map(_made, folders))
    runs = [(at, folder) for at, folder in zip(made, folders, strict=True) if at is not None]
    return [folder for _, folder in sorted(runs, key=lambda run: run[0])]


def _made(folder: RunFolder) -> tuple[float, str] | None:
    """Return the time at which a run was made, and the end of its id, to sort by; None: the folder is not a run's.

    The time is read from the status, because the id has whole seconds only; if the status has no time, from the id.
    """
    written = "-".join(folder.run_id.rsplit("-", 3)[-3:])
    started: object = None
    try:
        status = folder.read_if_there("status.json")
        if status is None:
            return None
        found = parse_json(status)
        started = found.get("started_at") if isinstance(found, dict) else None
    except (RunError, ValueError):
        if not folder.is_run():
            return None
    if isinstance(started, int | float) and isfinite(started):
        return float(started), written
    try:
        return datetime.strptime(written[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp(), written
    except ValueError:
        return 0.0, written


def typed_name(folder: RunFolder) -> str:
    """Return what a person types to name a run: its id where it is in ``./runs``, else its path or URI."""
    path = folder.path("")
    return folder.run_id if path == f"runs/{folder.run_id}" else path
