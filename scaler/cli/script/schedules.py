"""The schedule of the job file that does what a scheduler of torch or Transformers does."""

import ast
from collections.abc import Callable, Mapping, Sequence

from scaler.cli.script.reading import Call, Script
from scaler.cli.script.values import shown
from scaler.cli.script.warmups import OwnSchedule, function_of, own_schedule

_NEAREST = 'schedule: the kind that is nearest, of the page "Job file" of the documentation; scaler schema prints them'
_COMPARE = "compare: scaler plan JOB --json has the learning rate at points of the training"
_FROM_ZERO = (
    "this cosine counts from step 0, under the warmup; scaler's begins at the end of the warmup, and is higher: with W "
    "steps of warmup and T in all by up to (T / (T - W)) ** 2, at the end"
)
_SEQUENCES = ("SequentialLR", "ChainedScheduler")
_NO_MORE = "warmup: {steps: 0}"  # scaler adds none


def scheduler_texts(script: Script, call: Call) -> list[str]:
    """Return what becomes of the line that makes a scheduler."""
    unit = "steps" if _steps_every_batch(script, call) else "epochs"
    if call.name in ("LambdaLR", "MultiplicativeLR"):
        code = function_of(script, call.argument("lr_lambda", 1))
        if call.name == "MultiplicativeLR" or code is None:
            return [f"not recognized: the function of {call.name}", f"job.yaml: {_NEAREST}", _COMPARE]
        return _own_texts(own_schedule(script, code), unit)
    if call.name == "LinearLR":
        return _linear_texts(script, call, unit)
    warmed = {
        "get_constant_schedule_with_warmup": "constant",
        "get_linear_schedule_with_warmup": "linear",
        "get_cosine_schedule_with_warmup": "cosine",
    }
    if call.name in warmed:
        steps = call.argument("num_warmup_steps", 1)
        if steps is not None and script.value(steps) == 0:
            return [f"job.yaml: schedule: {{name: {warmed[call.name]}, {_NO_MORE}}}"]
        return warmup_texts(f"name: {warmed[call.name]}", f"steps: {shown(script, steps)}")
    if call.name in _SEQUENCES:
        return ["job.yaml: the scheduler that warms up becomes reference.warmup, and another one schedule"]
    text = _schedule(script, call, unit)
    if text is None:
        return [f"not recognized: {call.name}", f"job.yaml: {_NEAREST}", _COMPARE]
    return [f"job.yaml: schedule: {text}"]


def own_schedules(script: Script) -> list[ast.Assign]:
    """Return the statements in a loop that write the learning rate into a group, as ``group["lr"] = lr``."""
    return [
        node
        for loop in ast.walk(script.tree)
        if isinstance(loop, ast.For) and "param_groups" in ast.unparse(loop.iter)
        for node in ast.walk(loop)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Subscript)
        and isinstance(node.targets[0].slice, ast.Constant)
        and node.targets[0].slice.value == "lr"
    ]


def own_schedule_texts(script: Script, statement: ast.Assign) -> list[str]:
    """Return what becomes of a statement that writes the learning rate; the function that computes it is looked up."""
    wanted = {each.id for each in ast.walk(statement.value) if isinstance(each, ast.Name)}
    makers = [statement.value] + [
        node.value
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted
    ]
    called = [each.func for maker in makers for each in ast.walk(maker) if isinstance(each, ast.Call)]
    found = (function_of(script, each) for each in called)
    code = next((each for each in found if each is not None), statement.value)
    return _own_texts(own_schedule(script, code), "steps")


def warmup_texts(schedule: str, length: str, start: str = "0") -> list[str]:
    """Return the reference's warmup, and a schedule to which scaler adds none.

    Args:
        schedule: its keys, such as ``name: cosine``.
        length: of the warmup, such as ``steps: 100``.
        start: share of the learning rate at the first step.
    """
    begins = "" if start == "0" else f", start: {start}"
    return [f"job.yaml: reference: {{warmup: {{{length}{begins}}}}}", f"job.yaml: schedule: {{{schedule}, {_NO_MORE}}}"]


def _own_texts(own: OwnSchedule, unit: str) -> list[str]:
    if own.length is None and not own.has_cosine:
        return ["not recognized: how the learning rate changes", f"job.yaml: {_NEAREST}", _COMPARE]
    name = "cosine" if own.has_cosine else "NAME"
    texts = [f"job.yaml: schedule: {{name: {name}}}"]
    if own.length is not None:
        texts = warmup_texts(f"name: {name}", f"{unit}: {own.length}", own.start)
    if not own.has_cosine:
        texts.append(f"NAME: {_NEAREST.removeprefix('schedule: ')}")
    if own.has_cosine and own.length is not None and not own.after_warmup:
        texts.append(_FROM_ZERO)
    return [*texts, _COMPARE]


def _linear_texts(script: Script, call: Call, unit: str) -> list[str]:
    """``LinearLR`` climbs from ``start_factor`` to ``end_factor``, by default from 1/3 to 1."""
    first, last = call.argument("start_factor", 1), call.argument("end_factor", 2)
    start, end = "0.3333" if first is None else shown(script, first), "1.0" if last is None else shown(script, last)
    total = call.argument("total_iters", 3)
    length = f"{unit}: {'5' if total is None else shown(script, total)}"
    if end in ("1", "1.0"):
        alone = not any(each.name in _SEQUENCES for each in script.calls)
        return warmup_texts(f"name: {'constant' if alone else '...'}", length, start)
    if start in ("1", "1.0"):
        return [f"job.yaml: schedule: {{name: linear, final_fraction: {end}}}, over train's length and not {length}"]
    return [f"not recognized: from {start} to {end}", f"job.yaml: {_NEAREST}", _COMPARE]


def _schedule(script: Script, call: Call, unit: str) -> str | None:
    """Return the text after ``schedule:``; None: there is none for this scheduler."""

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
        "OneCycleLR": lambda: "{name: one_cycle}, and reference.lr: the scheduler's max_lr",
        "CosineAnnealingWarmRestarts": lambda: (
            f"{{name: cosine_restarts, first: {length('T_0', 1)}, growth: {value('T_mult', 2, '1')}}}"
        ),
        "ReduceLROnPlateau": lambda: (
            f"{{name: constant, plateau: {{factor: {value('factor', 2, '0.1')}, "
            f"patience: {value('patience', 3, '10')}}}}}"
        ),
        "get_constant_schedule": lambda: "{name: constant}",
    }
    return texts[call.name]() if call.name in texts else None


def _steps_every_batch(script: Script, made: Call) -> bool:
    """Return whether the scheduler steps in the loop in which backward() is called, so that it counts steps."""
    variable = _variable(script, made)
    for call in script.calls:  # a scheduler in a sequence steps with it
        if call.name in _SEQUENCES and call is not made and _uses(call, made, variable):
            return _steps_every_batch(script, call)
    loops = {id(call.loop) for call in script.calls if call.name == "backward" and call.loop is not None}
    return any(
        call.name == "step" and call.owner == variable and id(call.loop) in loops
        for call in script.calls
        if call.loop is not None
    )


def _uses(sequence: Call, made: Call, variable: str | None) -> bool:
    """Return whether a sequence of schedulers has this one, by its name or written in it."""
    parts = [part for each in ast.walk(sequence.node) if isinstance(each, ast.List) for part in each.elts]
    return any(part is made.node or (variable is not None and ast.unparse(part) == variable) for part in parts)


def _variable(script: Script, made: Call) -> str | None:
    """Return the name to which a call's value is assigned."""
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Assign) and node.value is made.node:
            return ast.unparse(node.targets[0])
    return None
