"""Run folders on any filesystem, the list of runs, and the lease of the process that runs a run."""

from scaler.runs.find import find_run, list_runs
from scaler.runs.folder import RunFolder, RunState, new_run_id

__all__ = ["RunFolder", "RunState", "find_run", "list_runs", "new_run_id"]
