"""The ``reference`` section: what was tuned together on one worker, with one optimizer or several."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from scaler.job.optimizer import Optimizer, OwnRule, Patterns
from scaler.job.schedule import ReferenceWarmup
from scaler.job.section import MOST, MOST_EPOCHS, Section, problem

LENGTH_KEYS = ("total_samples", "total_tokens", "epochs")  # of the training that the reference was tuned in
FALLBACK = "fallback"  # the name of ``reference.optimizer.fallback`` among several optimizers


class NamedOptimizer(Section):
    """One of several optimizers, where it was tuned with another learning rate or another optimizer than the rest."""

    match: Patterns | None = Field(
        None,
        description='Patterns for the names of the parameters that it trains, such as ["head.*"], in a recipe with one '
        "loss. reference.optimizer trains the rest. null: the recipe says what it trains.",
    )
    lr: float | None = Field(None, gt=0, description="Its learning rate in the reference; null: reference.lr.")
    optimizer: Optimizer | None = Field(None, description="Its optimizer; null: reference.optimizer.")
    rule: OwnRule | None = Field(None, description="Its rule; null: scale.rule.")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.lr is None and self.optimizer is None and self.rule is None:
            raise problem("changes nothing.", "Give lr, optimizer or rule, or leave it out.")
        if self.optimizer is not None and self.optimizer.fallback is not None:
            raise problem("has an optimizer with a fallback.", "Give the fallback to reference.optimizer.")
        return self


class Reference(Section):
    """The batch size, learning rate and optimizer that were tuned together, on one worker."""

    global_batch_size: int = Field(
        ge=1, le=MOST, description="Samples per optimizer step that the reference was tuned with."
    )
    lr: float = Field(gt=0, description="Learning rate that the reference was tuned with.")
    optimizer: Optimizer = Field(description="Optimizer that the reference was tuned with.")
    optimizers: dict[str, NamedOptimizer] = Field(
        default_factory=dict,
        description="Several optimizers: name -> what differs from lr and optimizer above, such as {d: {lr: 0.0004}} "
        'for the optimizer d of a recipe, or {head: {match: ["head.*"], lr: 0.001}} for parameters by their names. '
        "Everything else has lr and optimizer above.",
    )
    warmup: ReferenceWarmup | None = Field(
        None,
        description="Warmup that the reference was tuned with. It is a part of every plan; schedule.warmup is the "
        "warmup that scaling adds. With rule: legw it is batch_ratio times as long. null: none.",
    )
    total_samples: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Length of the training that the reference was tuned in, in samples. A plan warns if its training "
        "is much longer or shorter; scale.horizon needs it. null: not known.",
    )
    total_tokens: int | None = Field(
        None, ge=1, le=MOST, description="The same length in tokens, with train.unit: tokens."
    )
    epochs: float | None = Field(
        None,
        gt=0,
        le=MOST_EPOCHS,
        description="The same length as total_samples, in epochs of this job's training set.",
    )
    samples_per_s: float | None = Field(
        None,
        gt=0,
        description="Speed of one worker that trains alone, in samples per second. The report computes the scaling "
        "efficiency from it. null: not known.",
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        given = {key: value for key in LENGTH_KEYS if (value := getattr(self, key)) is not None}
        if len(given) > 1:
            texts = " and ".join(f"{key}: {value:g}" for key, value in given.items())
            raise problem(f"has {texts}, which are the same length.", "Give one of them.")
        return self

    @property
    def has_length(self) -> bool:
        """Whether the length of the reference's training is known."""
        return any(getattr(self, key) is not None for key in LENGTH_KEYS)

    @property
    def several(self) -> Mapping[str, NamedOptimizer]:
        """``optimizers``, and after them the fallback of ``optimizer``, under the name ``fallback``."""
        beside = self.optimizer.beside
        if beside is None:
            return self.optimizers
        optimizer = Optimizer(name=beside.name, **beside.options)
        own = NamedOptimizer(match=beside.match, lr=beside.lr, optimizer=optimizer, rule=beside.rule)
        return {**self.optimizers, FALLBACK: own}

    @property
    def splits(self) -> bool:
        """Whether the parameters of a recipe with one loss are split among several optimizers."""
        return self.optimizer.fallback is not None or any(own.match for own in self.optimizers.values())

    @model_validator(mode="after")
    def _optimizers_fit_together(self) -> Self:
        matching = [name for name, own in self.optimizers.items() if own.match is not None]
        if self.splits and len(matching) < len(self.optimizers):
            name = next(name for name in self.optimizers if name not in matching)
            raise problem(
                f"has optimizers.{name} without match, and {matching[0] if matching else FALLBACK} splits the "
                "parameters.",
                f'Say what it trains, such as {name}: {{match: ["{name}.*"], ...}}.',
            )
        if FALLBACK in self.optimizers and self.optimizer.fallback is not None:
            raise problem(f"has optimizers.{FALLBACK}, which is the name of optimizer.fallback.", "Use another name.")
        for name, own in self.several.items() if self.splits else ():
            other = own.optimizer or self.optimizer
            if own.lr is None and other.step_kind != self.optimizer.step_kind:
                by_muon = "; or adjust_lr_fn: match_rms_adamw, with which muon takes the steps of AdamW"
                has_muon = "muon" in (other.name, self.optimizer.name)
                where = "optimizer.fallback" if name == FALLBACK else f"optimizers.{name}"
                raise problem(
                    f"has {where} without lr, and a learning rate of {self.optimizer.name} is not one of {other.name}.",
                    f"Give the learning rate that {other.name} was tuned with, such as {{name: {other.name}, "
                    f"lr: 0.001}}{by_muon if has_muon else ''}.",
                )
        return self
