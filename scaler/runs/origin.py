"""Where a run began, if it began from a checkpoint of another run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from scaler.errors import RunError
from scaler.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The checkpoint of another run from which a run began; ``branched_from`` in its ``status.json``.

    Args:
        run_id: of the other run.
        uri: of the other run's folder.
        samples_seen: of the checkpoint, which is copied into the run's folder.
        reacts: what may have changed the learning rate or the batch before the checkpoint: ``Plan.reacts`` of the other
            run, and of the runs that it began from.
    """

    run_id: str
    uri: str
    samples_seen: int
    reacts: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "reacts": list(self.reacts)}

    @classmethod
    def of(cls, folder: RunFolder) -> Self | None:
        """Return where a run began; None: at its first sample.

        Raises:
            RunError: the status cannot be read, or was altered.
        """
        return cls.of_status(folder.read_json("status.json"))

    @classmethod
    def of_status(cls, status: Mapping[str, Any]) -> Self | None:
        """Return where the run with a status began; None: at its first sample.

        Raises:
            RunError: the status was altered.
        """
        values = status.get("branched_from")
        if values is None:
            return None
        try:
            return cls(**values)
        except TypeError:
            raise RunError(f"run {status.get('run_id')}: branched_from of its status is not an origin.", "") from None
