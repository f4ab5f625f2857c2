"""Read a comparison from the folders of its runs."""

from collections.abc import Sequence

from scaler.errors import JobFileError, RunError
from scaler.report.compare.arms import Member
from scaler.report.compare.model import Comparison
from scaler.report.compare.summary import compare_runs
from scaler.report.run.read import read_jobs, read_report
from scaler.runs import RunFolder


def read_comparison(folders: Sequence[RunFolder]) -> Comparison:
    """Return the comparison of runs from their folders as they are now; runs may still be running.

    Args:
        folders: of at least two runs; the arm of the first is the base.

    Raises:
        JobFileError: fewer than two runs, or two of one name.
        RunError: a folder cannot be read as a run; the message names it.
    """
    if len(folders) < 2:
        raise JobFileError(
            f"there {'is 1 run' if folders else 'are 0 runs'} to compare, but a comparison needs two or more.",
            "Type scaler compare RUN RUN; scaler list shows all runs.",
        )
    names = [folder.run_id for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise JobFileError(f"run {twice} is given twice.", "Give each run once; rename the folder of a copy.")
    return compare_runs([_read_member(folder) for folder in folders])


def _read_member(folder: RunFolder) -> Member:
    try:
        return Member(jobs=tuple(read_jobs(folder).values()), report=read_report(folder))
    except RunError as error:
        if folder.run_id in error.problem:
            raise
        raise RunError(f"run {folder.run_id}: {error.problem}", error.remedy) from error
