"""The exceptions of scaler, and their exit codes. The command line prints them in one place.

    ScalerError                 the base; never raised itself
    ├── JobFileError       2    a job file, --set or option that cannot be used
    │   └── PlanError      2    numbers that do not fit together
    ├── ClusterError       3    no cluster, or too few resources for the job
    ├── TrainingError      4    the job failed
    │   └── RecipeError    4    the user's recipe raised, or returned what a recipe may not return
    └── RunError           5    a run that cannot be read

The number is the exit code. Exit code 1 means a bug in scaler, 130 means Ctrl-C.
"""

from typing import ClassVar


class ScalerError(Exception):
    """A problem and its remedy.

    Args:
        problem: what is wrong, as ``key = value ...``; the first line of the message.
        remedy: what to type instead; printed below the problem, indented. It may have several lines.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the problem, then the remedy indented by two spaces.

        Example:
            >>> print(JobFileError("scale.rule = lineal is not a rule.", "Did you mean linear?"))
            scale.rule = lineal is not a rule.
              Did you mean linear?
        """
        lines = [self.problem, *(f"  {line}".rstrip() for line in self.remedy.splitlines())]
        return "\n".join(lines)


class JobFileError(ScalerError):
    """A job file, a ``--set`` or a command-line option that cannot be used."""

    exit_code = 2


class PlanError(JobFileError):
    """Numbers that are valid alone but do not fit together."""


class ClusterError(ScalerError):
    """There is no cluster, or the cluster has too few resources for the job."""

    exit_code = 3


class TrainingError(ScalerError):
    """The job started and failed."""

    exit_code = 4


class RecipeError(TrainingError):
    """The user's recipe raised, or returned what a recipe may not return."""


class RunError(ScalerError):
    """A run that cannot be read."""

    exit_code = 5
