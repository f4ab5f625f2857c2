"""What every section of the job file is made of: strictness, lengths of training, and errors with a remedy."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# No training is longer or wider; beyond, arithmetic in floats would lose samples.
MOST_EPOCHS, MOST, MOST_WORKERS = 1e6, 10**15, 10**6


def problem(text: str, remedy: str) -> PydanticCustomError:
    """Return a validation error that carries its own remedy; ``load`` turns it into a ``JobFileError``."""
    return PydanticCustomError("scaler", "{problem}", {"problem": text, "remedy": remedy})


def name_tag(value: Any) -> str:
    """Return the tag of a section that comes in several kinds, by its ``name``; for pydantic's ``Discriminator``."""
    name = value.get("name", "") if isinstance(value, dict) else getattr(value, "name", "")
    return f"<{name}>"


class Section(BaseModel):
    """A mapping in the job file: frozen, unknown keys refused, nothing converted from another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Length(Section):
    """A stretch of training, in exactly one unit."""

    epochs: float | None = Field(
        None, gt=0, le=MOST_EPOCHS, description="Passes over the training set; fractions allowed."
    )
    steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps at the planned global batch size.")
    samples: int | None = Field(None, ge=1, le=MOST, description="Samples over all workers.")

    @model_validator(mode="after")
    def _exactly_one_unit(self) -> Self:
        units = [unit for unit in self._units() if getattr(self, unit) is not None]
        if len(units) != 1:
            known = ", ".join(self._units())
            raise problem(
                f"has {', '.join(units)}: one unit is too many." if units else "has no unit.",
                f"Give exactly one of {known}, such as {{epochs: 1}}.",
            )
        return self

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples")


class Point(Length):
    """A point of training, or a stretch of it, in exactly one unit."""

    steps: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Optimizer steps at the planned global batch size; of an elastic job, steps of the reference.",
    )
    fraction: float | None = Field(None, gt=0, le=1, description="Share of the whole training.")

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "fraction")
