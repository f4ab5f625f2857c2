"""A comparison, read from the folders of its runs."""

from collections.abc import Sequence

from scaler.errors import JobFileError, RunError
from scaler.report.compare.arms import Member
from scaler.report.compare.model import Comparison
from scaler.report.compare.summary import compare_runs
from scaler.report.run.read import read_jobs, read_report
from scaler.runs import RunFolder


def read_comparison(folders: Sequence[RunFolder]) -> Comparison:
    """Return the comparison of what is in the folders now, whether the runs have ended or not.

    Args:
        folders: of at least two runs; the first one's arm is the base.

    Raises:
        JobFileError: fewer than two runs, or two of one name.
        RunError: a folder cannot be read as a run; it says which.
    """
    if len(folders) < 2:
        raise JobFileError(
            f"there {'is 1 run' if folders else 'are 0 runs'} to compare, and it takes two or more.",
            "scaler compare RUN RUN; scaler list shows the runs that there are.",
        )
    names = [folder.run_id for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise JobFileError(
            f"run {twice} is given twice.", "Give each run once; a copy of a run has to have a name of its own."
        )
    return compare_runs([_read_member(folder) for folder in folders])


def _read_member(folder: RunFolder) -> Member:
    try:
        return Member(jobs=tuple(read_jobs(folder).values()), report=read_report(folder))
    except RunError as error:
        if folder.run_id in error.problem:
            raise
        raise RunError(f"run {folder.run_id}: {error.problem}", error.remedy) from error
