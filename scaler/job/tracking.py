"""The ``tracking`` section: trackers that get a run's curves, in addition to its folder and TensorBoard's file."""

import os
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from scaler.job.section import Section, problem

_SQLITE = "sqlite:///"


class Mlflow(Section):
    """An MLflow server or database. MLflow reads the user and the password from its own environment variables."""

    uri: str = Field(
        description="Address, such as http://host:5000 or sqlite:///mlflow.db; a file is relative to the folder where "
        "scaler is started."
    )
    experiment: str = Field(
        "scaler", min_length=1, description="Name of the experiment; it is created if it does not exist."
    )

    @field_validator("uri")
    @classmethod
    def _can_be_reached(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if uri != "databricks" and (not parts.scheme or parts.scheme == "file" or "://" not in uri):
            raise problem(
                f"= {uri} is neither a server nor a database, and MLflow no longer keeps runs in folders.",
                "Use http://host:5000, or sqlite:///mlflow.db for a file.",
            )
        if parts.password is not None:
            raise problem(
                "has a password in it, which would be written into the run's folder.",
                "Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )
        return uri


class Wandb(Section):
    """Weights & Biases. It reads its key from the environment variable WANDB_API_KEY."""

    project: str = Field(min_length=1, description="Name of the project.")
    mode: Literal["offline", "online"] = Field(
        "offline",
        description="offline: write to wandb/ in the run's folder, for wandb sync; online: send to the server.",
    )


class Tracking(Section):
    """Trackers that get the curves during the run. The report names a tracker that is slow or cannot be reached."""

    mlflow: Mlflow | None = Field(
        None, description="Send to MLflow; needs pip install scaler[mlflow]. null: do not send."
    )
    wandb: Wandb | None = Field(
        None, description="Send to Weights & Biases; needs pip install scaler[wandb]. null: do not."
    )

    def seen_from(self, folder: Path) -> Self:
        """Return a copy in which a database's path is absolute, for processes with another working folder.

        Args:
            folder: what a relative path is relative to; ``~`` is the home folder.
        """
        if self.mlflow is None or not self.mlflow.uri.startswith(_SQLITE):
            return self
        path, question, query = self.mlflow.uri.removeprefix(_SQLITE).partition("?")
        uri = f"{_SQLITE}{folder.absolute() / os.path.expanduser(path)}{question}{query}"
        return self.model_copy(update={"mlflow": self.mlflow.model_copy(update={"uri": uri})})
