"""The base of every section of the job file: strict keys and types, lengths of training, and errors with a remedy."""

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# No training is longer or wider. Above these, arithmetic in floats would lose samples.
MOST_EPOCHS, MOST, MOST_WORKERS = 1e6, 10**15, 10**6

TOKENS = "Tokens, over all workers; only with train.unit: tokens."


def problem(text: str, remedy: str) -> PydanticCustomError:
    """Return a validation error with its own remedy; ``load`` turns it into a ``JobFileError``."""
    return PydanticCustomError("scaler", "{problem}", {"problem": text, "remedy": remedy})


def file_name(name: str) -> str:
    """Return a name that ids of runs begin with, if it is one.

    Raises:
        PydanticCustomError: it has characters that a file name cannot have, or too many.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise problem(
            f"= {name!r} cannot be the name of a run.",
            "Use 1 to 100 letters, digits, '.', '_' and '-'; a letter, digit or '_' first.",
        )
    return name


def name_tag(value: Any) -> str:
    """Return the tag of a section of several kinds, from its ``name``; for pydantic's ``Discriminator``."""
    name = value.get("name", "") if isinstance(value, dict) else getattr(value, "name", "")
    return f"<{name}>"


class Section(BaseModel):
    """A mapping of the job file. It is frozen, refuses unknown keys, and converts no types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Length(Section):
    """A length of training, in exactly one unit."""

    epochs: float | None = Field(
        None, gt=0, le=MOST_EPOCHS, description="Passes over the training set; fractions are allowed."
    )
    steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps at the planned global batch size.")
    samples: int | None = Field(None, ge=1, le=MOST, description="Training samples, over all workers.")
    tokens: int | None = Field(None, ge=1, le=MOST, description=TOKENS)

    @model_validator(mode="after")
    def _exactly_one_unit(self) -> Self:
        units = [unit for unit in self._units() if getattr(self, unit) is not None]
        if len(units) != 1:
            known = ", ".join(self._units())
            raise problem(
                f"has {', '.join(units)}: more than one unit." if units else "has no unit.",
                f"Give exactly one of {known}, such as {{epochs: 1}}.",
            )
        return self

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "tokens")


class Point(Length):
    """A point or a length of training, in exactly one unit."""

    steps: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Optimizer steps at the planned global batch size; in an elastic job, at the reference's.",
    )
    fraction: float | None = Field(None, gt=0, le=1, description="Share of the whole training, in (0, 1].")

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "tokens", "fraction")
