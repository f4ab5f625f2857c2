"""The job file: what a user writes, as frozen values."""

from scaler.job.load import apply_overrides, dump_job, load_job, parse_job, read_job
from scaler.job.model import Job
from scaler.job.scale import Workers

__all__ = ["Job", "Workers", "apply_overrides", "dump_job", "load_job", "parse_job", "read_job"]
