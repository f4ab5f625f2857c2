"""The job file: what a user writes, as frozen values."""

from scaler.job.load import apply_overrides, load_job, parse_job
from scaler.job.model import Job, Workers

__all__ = ["Job", "Workers", "apply_overrides", "load_job", "parse_job"]
