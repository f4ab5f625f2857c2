"""The fields of ``status.json``."""

from collections.abc import Mapping
from typing import Any, TypedDict


class StatusKeys(TypedDict):
    """The state of a run. Every status has these fields:"""

    schema_version: int  # version of these fields: 1
    run_id: str  # name of the run's folder
    state: str  # starting, running, succeeded, failed or stopped; readers show lost if the run driver is gone


class StatusValues(TypedDict, total=False):
    """The run driver adds these fields. A field that is not set is not in the file."""

    started_at: float | None  # moment of the submission
    place: str | None  # absolute path or URI of the run's folder, as the run driver sees it
    recipe_folder: str | None  # folder of the job file; the recipe is imported from there
    idle_s: float | None  # seconds in which nothing ran before a resume, summed over all resumes
    ended_at: float | None  # moment of the end
    failure: str | None  # the error that ended the run, with its traceback
    # the checkpoint of another run that the run began from: its run_id, uri and samples_seen, and what may have changed
    # the learning rate before it (reacts)
    branched_from: Mapping[str, Any] | None
    exit_code: int | None  # exit code of the command that ran the run: 0, or that of the error that ended it
