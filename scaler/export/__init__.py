"""The files that run a job elsewhere: containers, Kubernetes, clouds, Slurm. They are made from ``templates``."""

from scaler.export.deployment import Place
from scaler.export.export import Export, export_job
from scaler.export.kinds import KINDS
from scaler.export.values import Sources

__all__ = ["KINDS", "Export", "Place", "Sources", "export_job"]
