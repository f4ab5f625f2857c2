"""Where a run's curves also go, beside its own folder and TensorBoard's file."""

import os
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from scaler.job.section import Section, problem

_SQLITE = "sqlite:///"


class Mlflow(Section):
    """An MLflow server or database. Its user and password are MLflow's own variables of the environment."""

    uri: str = Field(description="Such as http://host:5000 or sqlite:///mlflow.db, which lies where scaler is started.")
    experiment: str = Field("scaler", min_length=1, description="The experiment's name; made where there is none.")

    @field_validator("uri")
    @classmethod
    def _can_be_reached(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if uri != "databricks" and (not parts.scheme or parts.scheme == "file" or "://" not in uri):
            raise problem(
                f"= {uri} is neither a server nor a database; MLflow keeps no runs in folders any more.",
                "Use http://host:5000, or sqlite:///mlflow.db for a file.",
            )
        if parts.password is not None:
            raise problem(
                "has a password in it, which would be written into the run's folder.",
                "Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
            )
        return uri


class Wandb(Section):
    """Weights & Biases. Its key is WANDB_API_KEY in the environment."""

    project: str = Field(min_length=1, description="The project's name.")
    mode: Literal["offline", "online"] = Field(
        "offline", description="offline: into wandb/ in the run's folder, for wandb sync; online: to its server."
    )


class Tracking(Section):
    """Trackers that get the run's curves as it runs. One that is slow or down is told of in the report."""

    mlflow: Mlflow | None = Field(None, description="Needs pip install scaler[mlflow]; null: none.")
    wandb: Wandb | None = Field(None, description="Needs pip install scaler[wandb]; null: none.")

    def seen_from(self, folder: Path) -> Self:
        """Return the same with a database's path made absolute, ``~`` and all, for processes that work elsewhere."""
        if self.mlflow is None or not self.mlflow.uri.startswith(_SQLITE):
            return self
        path, question, query = self.mlflow.uri.removeprefix(_SQLITE).partition("?")
        uri = f"{_SQLITE}{folder.absolute() / os.path.expanduser(path)}{question}{query}"
        return self.model_copy(update={"mlflow": self.mlflow.model_copy(update={"uri": uri})})
