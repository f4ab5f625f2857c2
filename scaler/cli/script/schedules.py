"""The schedule of the job file that does what a scheduler of torch or Transformers does."""

import ast
from collections.abc import Callable, Mapping, Sequence

from scaler.cli.script.reading import Call, Script

Shown = Callable[[Script, ast.expr | None], str]
_NO_NAME = "the kind that is nearest: docs/job-file.md lists them"


def schedule_of(script: Script, call: Call, shown: Shown) -> str:
    """Return the text after ``schedule:``.

    Args:
        script: the script.
        call: that makes the scheduler.
        shown: returns an expression as YAML.
    """
    unit = "steps" if _steps_every_batch(script, call) else "epochs"

    def value(name: str, place: int, default: str) -> str:
        given = call.argument(name, place)
        return default if given is None else shown(script, given)

    def length(name: str, place: int, default: str = "?") -> str:
        return f"{{{unit}: {value(name, place, default)}}}"

    if call.name == "MultiStepLR":
        at = script.value(call.argument("milestones", 1))
        points = ", ".join(f"{{{unit}: {each}}}" for each in at) if isinstance(at, Sequence) else f"{{{unit}: ?}}"
        return f"{{name: multi_step, at: [{points}], decay: {value('gamma', 2, '0.1')}}}"
    texts: Mapping[str, Callable[[], str]] = {
        "ConstantLR": lambda: "{name: constant}",
        "CosineAnnealingLR": lambda: "{name: cosine}",
        "StepLR": lambda: f"{{name: step, every: {length('step_size', 1)}, decay: {value('gamma', 2, '0.1')}}}",
        "ExponentialLR": lambda: f"{{name: exponential, every: {{{unit}: 1}}, decay: {value('gamma', 1, '?')}}}",
        "PolynomialLR": lambda: f"{{name: polynomial, power: {value('power', 2, '1.0')}}}",
        "LinearLR": lambda: f"{{name: ..., warmup: {length('total_iters', 3, '5')}}}",
        "OneCycleLR": lambda: "{name: one_cycle}, and reference.lr: the scheduler's max_lr",
        "CosineAnnealingWarmRestarts": lambda: (
            f"{{name: cosine_restarts, first: {length('T_0', 1)}, growth: {value('T_mult', 2, '1')}}}"
        ),
        "ReduceLROnPlateau": lambda: (
            f"{{name: constant, plateau: {{factor: {value('factor', 2, '0.1')}, "
            f"patience: {value('patience', 3, '10')}}}}}"
        ),
        "get_constant_schedule": lambda: "{name: constant}",
        "get_constant_schedule_with_warmup": lambda: _with_warmup("constant", value),
        "get_linear_schedule_with_warmup": lambda: _with_warmup("linear", value),
        "get_cosine_schedule_with_warmup": lambda: _with_warmup("cosine", value),
        "SequentialLR": lambda: "one kind with a warmup, for all of them",
        "ChainedScheduler": lambda: "one kind with a warmup, for all of them",
    }
    return texts[call.name]() if call.name in texts else _NO_NAME


def _with_warmup(name: str, value: Callable[[str, int, str], str]) -> str:
    return f"{{name: {name}, warmup: {{steps: {value('num_warmup_steps', 1, '?')}}}}}"


def _steps_every_batch(script: Script, made: Call) -> bool:
    """Return whether the scheduler steps in the loop in which backward() is called, so that it counts steps."""
    variable = _variable(script, made)
    loops = {id(call.loop) for call in script.calls if call.name == "backward" and call.loop is not None}
    return any(
        call.name == "step" and call.owner == variable and id(call.loop) in loops
        for call in script.calls
        if call.loop is not None
    )


def _variable(script: Script, made: Call) -> str | None:
    """Return the name to which a call's value is assigned."""
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Assign) and node.value is made.node:
            return ast.unparse(node.targets[0])
    return None
