"""The reference's optimizer, and parameters with a learning rate, weight decay or freezing of their own."""

import re
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from scaler.core.nearest import nearest
from scaler.core.optimizers import ADAPTIVE, NAMED_OPTIMIZERS, optimizer_facts, optimizer_hint, option_hint
from scaler.job.section import Point, Section, problem

SHARES = ("betas", "momentum", "alpha")  # the share of an average or a sum that a step keeps
ADJUST_LR = ("original", "match_rms_adamw")  # of Muon: how the learning rate follows the shape of a matrix
AT_LEAST_0 = ("eps", "weight_decay", "trust_coefficient")


class OptimizerKeys(Section):
    """The name of an optimizer and its options: every key that is not a field."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    name: str = Field(
        description="A name of the table of optimizers, or the import path of a torch optimizer: module:Class."
    )

    @property
    def options(self) -> dict[str, Any]:
        """The options that the job gives: every key besides ``name``."""
        return dict(self.model_extra or {})

    @property
    def with_defaults(self) -> dict[str, Any]:
        """The options that the job gives, and the defaults of the others where scaler knows them."""
        return {**optimizer_facts(self.name).defaults, **self.options}

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = optimizer_facts(self.name).options
        if known is None and not re.fullmatch(r"[\w.]+:\w+", self.name):
            names = ", ".join(NAMED_OPTIMIZERS)
            raise problem(
                f"has the name {self.name}, which is not an optimizer.",
                f"{optimizer_hint(self.name)}Use {names}, or an import path such as torch.optim:NAdam.",
            )
        for key in self.options:
            is_lr = key not in (known or ()) and nearest(key, ["lr", *(known or ())]) == "lr"
            if is_lr and "lr" not in type(self).model_fields:
                hint = 'Did you mean "lr"? ' if key != "lr" else ""
                raise problem(f"has the key {key}.", f"{hint}The learning rate is a key of its own: reference.lr.")
        for key, value in self.options.items():
            numbers = value if isinstance(value, tuple | list) else [value]
            if any(isinstance(number, float) and not isfinite(number) for number in numbers):
                raise problem(f"has {key} = {value}, which is not a finite number.", "Write a number.")
        unknown = sorted(set(self.options) - set(known)) if known is not None else []
        if unknown and known is not None:
            raise problem(
                f'has the key "{unknown[0]}", which {self.name} does not take.',
                f"{option_hint(unknown[0], optimizer=self.name)}It takes {', '.join(known)}.",
            )
        for key, value in self.options.items():
            default = known[key] if known is not None else None
            if default is not None and _kind(value) != _kind(default):
                raise problem(
                    f"has {key} = {value}, which is not {_kind(default)}.", f"Such as {key}: {_yaml(default)}."
                )
            if known is not None and (wanted := _bounds(self.name, key, value)):
                usual = 0.9 if key == "momentum" else default
                raise problem(f"has {key} = {value}, which must be {wanted}.", f"Such as {key}: {_yaml(usual)}.")
        plain = not self.options.get("momentum") or self.options.get("dampening")
        adjust = self.options.get("adjust_lr_fn")
        if self.name == "muon" and adjust not in (None, *ADJUST_LR):
            raise problem(f"has adjust_lr_fn = {adjust}, which muon does not know.", f"Use {' or '.join(ADJUST_LR)}.")
        if self.name == "sgd" and self.options.get("nesterov") and plain:
            raise problem(
                "has nesterov = true, which needs momentum > 0 and dampening 0.",
                "Give momentum: 0.9 without dampening, or leave nesterov out.",
            )
        return self


Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)]
OwnRule = Literal["auto", "linear", "sqrt", "adam_sde", "none"]


class Fallback(OptimizerKeys):
    """The optimizer of what is not a matrix. Every other key is an option of the optimizer."""

    lr: float | None = Field(None, gt=0, description="Its learning rate in the reference; null: reference.lr.")
    match: Patterns | None = Field(
        None, description='Patterns for names of matrices that it trains too: the output layer, such as ["lm_head.*"].'
    )
    rule: OwnRule | None = Field(None, description="Its rule; null: scale.rule.")


class Optimizer(OptimizerKeys):
    """The reference's optimizer. Every other key is an option of the optimizer."""

    fallback: (
        Annotated[
            Annotated[str, Tag("<word>")] | Annotated[Fallback, Tag("<section>")],
            Discriminator(lambda value: "<word>" if isinstance(value, str) else "<section>"),
        ]
        | None
    ) = Field(
        None,
        description="A second optimizer, which muon needs: for the parameters that are not matrices (biases, norms, "
        "convolutions) and for embeddings. A name, or keys such as {name: adamw, lr: 0.001}. null: one optimizer "
        "trains everything.",
    )

    @property
    def beside(self) -> Fallback | None:
        """The fallback with all its keys; None: there is none."""
        return Fallback(name=self.fallback) if isinstance(self.fallback, str) else self.fallback

    @property
    def step_kind(self) -> str:
        """How large its steps are: optimizers of one kind take steps of about the same size at one learning rate."""
        is_adaptive = optimizer_facts(self.name).family is ADAPTIVE
        return "adam" if is_adaptive or self.options.get("adjust_lr_fn") == "match_rms_adamw" else self.name


class ParameterGroup(Section):
    """Parameters whose names match a pattern. If several entries match, all apply; for each key, the last one wins."""

    match: str = Field(
        min_length=1, description='A pattern for names of parameters in the model, with * and ?, such as "backbone.*".'
    )
    lr_ratio: float | None = Field(
        None, ge=0, description="Their learning rate divided by that of the other parameters; null: 1."
    )
    weight_decay: float | None = Field(
        None, ge=0, description="Their weight decay at the reference's batch size; null: the reference optimizer's."
    )
    freeze: (
        Annotated[
            Annotated[Literal[True], Tag("<word>")] | Annotated[Point, Tag("<length>")],
            Discriminator(lambda value: "<length>" if isinstance(value, dict | Point) else "<word>"),
        ]
        | None
    ) = Field(
        None,
        description="true: never trained; a point of training such as {epochs: 2}: not trained before it. The running "
        "statistics of frozen BatchNorm layers do not change either. null: trained.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.lr_ratio is None and self.weight_decay is None and self.freeze is None:
            raise problem(f"matches {self.match} and changes nothing.", "Give lr_ratio, weight_decay or freeze.")
        return self


class LayerDecay(Section):
    """A lower learning rate for layers further from the output: lr_ratio = factor ** (number of layers after it)."""

    factor: float = Field(gt=0, le=1, description="Learning rate of a layer divided by that of the next layer.")
    layers: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        min_length=2,
        description="Patterns for names of parameters, from the input to the output. {n} stands for a number, and each "
        'number is a layer, in order: ["embed.*", "blocks.{n}.*", "head.*"]. Every parameter must match a pattern.',
    )


def _bounds(optimizer: str, key: str, value: Any) -> str:
    """Return the bounds that an option's numbers violate; empty if they violate none."""
    numbers = value if isinstance(value, tuple | list) else [value]
    if key in SHARES or key in optimizer_facts(optimizer).averages:
        if optimizer_facts(optimizer).averages_weights and numbers[0] == 0:  # it divides by the first one
            return "> 0 and < 1"
        return "" if all(0 <= number < 1 for number in numbers) else ">= 0 and < 1"
    return ">= 0" if key in AT_LEAST_0 and value < 0 else ""


def _kind(value: Any) -> str:
    """Return the kind of a value, as an error names it."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a word"
        case tuple() | list():
            kinds = {_kind(item) for item in value}
            return f"{len(value)} numbers" if kinds == {"a number"} else "a list"
        case _:
            return "null" if value is None else "keys and values"


def _yaml(value: Any) -> str:
    """Return an option's value as YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
