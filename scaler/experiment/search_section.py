"""The section ``search`` of the experiment file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from scaler.job.reading import shortened
from scaler.job.section import MOST, MOST_EPOCHS, Section, problem

MOST_TRIALS = 10_000

Key = Annotated[str, Field(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)*$")]


class Range(Section):
    """All numbers between two; whole numbers if both are whole."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    scale: Literal["log", "linear"] = Field(
        "linear", description="log: each factor is equally likely; linear: each difference."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise problem(f"has low = {self.low:g} and high = {self.high:g}.", "Give a smaller low.")
        if self.scale == "log" and self.low <= 0:
            raise problem(f"has scale = log and low = {self.low:g}.", "Give a low above 0, or scale: linear.")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Extent(Section):
    """A length of training in one unit; not in steps, because a step has another length at each batch size."""

    epochs: float | None = Field(None, gt=0, le=MOST_EPOCHS, description="Passes over the training set.")
    samples: int | None = Field(None, ge=1, le=MOST, description="Training samples, over all workers.")

    @model_validator(mode="after")
    def _exactly_one_unit(self) -> Self:
        if (self.epochs is None) == (self.samples is None):
            raise problem("needs one of epochs and samples.", "Such as {epochs: 1}.")
        return self

    def in_samples(self, num_samples: int) -> int:
        """Return it in samples, for a training set of this size."""
        return self.samples or max(1, round((self.epochs or 0.0) * num_samples))


class Search(Section):
    """A search for the best setting of a job."""

    space: dict[Key, Any] = Field(
        min_length=1,
        description="Values by key of the job: a list to choose from, or a range such as "
        "{low: 0.003, high: 0.3, scale: log}.",
    )
    searcher: Literal["random", "grid", "optuna"] = Field(
        "random",
        description="random: settings are drawn; grid: every combination of lists, in random order; optuna: each "
        "setting follows from the results so far (needs the package optuna).",
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "asha",
        description="none: every trial trains to its end; asha: trials that are worse than others after the same "
        "samples are stopped early; pbt: bad trials continue from copies of good ones, with changed values.",
    )
    trials: int | None = Field(
        None,
        ge=1,
        le=MOST_TRIALS,
        description="Number of settings that are tried; of pbt, trials that train together. null: the whole grid.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the settings that are drawn, and of their order.")
    reduction_factor: float = Field(
        3.0, gt=1, le=MOST, description="Of asha: at each place, the best 1/reduction_factor of the trials continue."
    )
    grace: Extent | None = Field(
        None,
        description="Of asha: no trial is stopped before this; the next places are each reduction_factor times as far. "
        "null: the training divided by reduction_factor twice.",
    )
    interval: Extent | None = Field(
        None, description="Of pbt: from one comparison of the trials to the next. null: a tenth of the training."
    )

    @field_validator("space")
    @classmethod
    def _has_values(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key, values in space.items():
            if isinstance(values, list) and not values:
                raise problem(f"has no values for {key}.", "Give a list of values, or a range.")
            if isinstance(values, list) and len({repr(value) for value in values}) < len(values):
                raise problem(f"has a value of {key} twice.", "Give each value once.")
        return {key: values if isinstance(values, list) else _range(key, values) for key, values in space.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if self.searcher == "grid" and ranges:
            raise problem(
                f"has searcher = grid and a range for {', '.join(ranges)}.",
                "Give a list of values for each key, or searcher: random.",
            )
        if self.searcher != "grid" and self.trials is None:
            raise problem(f"has searcher = {self.searcher} and no trials.", "Such as trials: 24.")
        if self.scheduler == "pbt":
            if self.searcher != "random":
                raise problem(
                    f"has scheduler = pbt and searcher = {self.searcher}: pbt changes the settings itself.",
                    "Use searcher: random.",
                )
            if self.trials is not None and self.trials < 2:
                raise problem("has scheduler = pbt and one trial.", "Such as trials: 8.")
        for name, scheduler in (("grace", "asha"), ("interval", "pbt")):
            if getattr(self, name) is not None and self.scheduler != scheduler:
                raise problem(
                    f"has {name}, and scheduler = {self.scheduler}.", f"Leave it out, or use scheduler: {scheduler}."
                )
        return self


def _range(key: str, values: Any) -> Range:
    try:
        return values if isinstance(values, Range) else Range.model_validate(values)
    except ValidationError as error:
        about = error.errors()[0].get("ctx", {})
        raise problem(
            f"{key} {about['problem']}" if "problem" in about else f"{key} = {shortened(values)} is no range.",
            about.get("remedy", "Give a list of values, or a range such as {low: 0.003, high: 0.3, scale: log}."),
        ) from None
