"""The runs: their folders, the list of them, and the lease of the process that drives one."""

from scaler.runs.find import find_run, list_runs
from scaler.runs.folder import RunFolder, RunState, new_run_id

__all__ = ["RunFolder", "RunState", "find_run", "list_runs", "new_run_id"]
