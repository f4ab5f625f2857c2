"""Find the warmup and the shape of a schedule that a script computes itself, as the function of ``LambdaLR`` does."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from scaler.cli.script.reading import Function, Script
from scaler.cli.script.values import names_in, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnSchedule:
    """What the text of a function shows of the learning rate that it returns.

    Args:
        length: of a linear warmup, in what the function counts, as YAML; None: no warmup was found.
        start: share of the learning rate at the first step, as YAML.
        has_cosine: whether the function calls a cosine.
        after_warmup: whether the cosine begins at the end of the warmup.
    """

    length: str | None
    start: str
    has_cosine: bool
    after_warmup: bool


def own_schedule(script: Script, code: ast.AST) -> OwnSchedule:
    """Return what the code of a schedule shows: a lambda, a function, or an expression."""
    cosines = [each for each in ast.walk(code) if isinstance(each, ast.Call) and _name(each.func) == "cos"]
    in_cosine = {id(part) for cosine in cosines for part in ast.walk(cosine)}
    falls = [
        each.right for each in ast.walk(code) if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Sub)
    ]  # 1 - step / length is no warmup
    in_fall = {id(part) for fall in falls for part in ast.walk(fall)}
    found = next(_ramps(code, in_cosine | in_fall), None)
    length, start = None, "0"
    if found is not None:
        length = shown(script, found.denominator)
        steps = script.value(found.denominator)
        if found.is_one_more:
            start = f"{1 / steps:.4g}" if isinstance(steps, int) and steps > 0 else f"1 / {length}"
    return OwnSchedule(
        length=length,
        start=start,
        has_cosine=bool(cosines),
        after_warmup=found is not None and _subtracts(code, found.denominator),
    )


def function_of(script: Script, node: ast.expr | None) -> ast.AST | None:
    """Return a lambda, or the function of the script that a name stands for; None: it is not in the script."""
    if isinstance(node, ast.List | ast.Tuple) and node.elts:
        node = node.elts[0]
    if isinstance(node, ast.Lambda):
        return node
    if not isinstance(node, ast.Name):
        return None
    for each in ast.walk(script.tree):
        if isinstance(each, Function) and each.name == node.id:
            return each
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Lambda) and _name(each.targets[0]) == node.id:
            return each.value
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ramp:
    denominator: ast.expr
    is_one_more: bool  # (step + 1) / length


def _ramps(code: ast.AST, not_in: set[int]) -> Iterator[_Ramp]:
    """Yield the divisions that are a warmup.

    They are a division in ``min(1, step / length)``, one by a length to which the code compares the step, and one by
    a name with "warm" in it; none of them in a cosine or after a minus.
    """
    compared = {
        ast.dump(_bare(side))
        for each in ast.walk(code)
        if isinstance(each, ast.Compare) and isinstance(each.ops[0], ast.Lt | ast.LtE)
        for side in each.comparators
    }
    limited = {
        id(_bare(part))
        for each in ast.walk(code)
        if isinstance(each, ast.Call) and _name(each.func) == "min"
        for part in each.args
    }
    for each in ast.walk(code):
        if not isinstance(each, ast.BinOp) or not isinstance(each.op, ast.Div) or id(each) in not_in:
            continue
        above, below = _bare(each.left), _bare(each.right)
        is_warm = any("warm" in name.lower() for name in names_in(below))
        if _subtracted(above) or not (is_warm or id(each) in limited or ast.dump(below) in compared):
            continue
        is_one_more = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Add)
        if isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mult):  # lr * (step + 1) / length
            is_one_more = isinstance(above.right, ast.BinOp) and isinstance(above.right.op, ast.Add)
        if isinstance(below, ast.BinOp):  # (step + 1) / (length + 1)
            below = _bare(below.left)
        yield _Ramp(denominator=below, is_one_more=is_one_more)


def _bare(node: ast.expr) -> ast.expr:
    """Return an expression without float(), int() and max(1, ...) around it."""
    while isinstance(node, ast.Call) and _name(node.func) in ("float", "int", "max") and node.args:
        node = next((each for each in node.args if not isinstance(each, ast.Constant)), node.args[-1])
    return node


def _subtracted(node: ast.expr) -> bool:
    return any(isinstance(each, ast.BinOp) and isinstance(each.op, ast.Sub) for each in ast.walk(node))


def _subtracts(code: ast.AST, length: ast.expr) -> bool:
    """Return whether the code takes the warmup's length off the step, as in ``(step - warm) / (total - warm)``."""
    return any(
        isinstance(each, ast.BinOp) and isinstance(each.op, ast.Sub) and ast.dump(_bare(each.right)) == ast.dump(length)
        for each in ast.walk(code)
    )


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
