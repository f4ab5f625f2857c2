"""Values of a script as the text of a job file."""

import ast
from typing import Any

from scaler.cli.script.reading import Script


def shown(script: Script, node: ast.expr | None) -> str:
    """Return a value as YAML, or the text of an expression whose value the script does not show."""
    value = script.value(node)
    if node is None or (value is None and not isinstance(node, ast.Constant)):
        return "?" if node is None else f"the value of {ast.unparse(node)}"
    return _yaml(value)


def names_in(node: ast.AST) -> set[str]:
    """Return the names and attributes that an expression uses."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def assigned(script: Script, node: ast.expr | None) -> ast.expr | None:
    """Return what a name is set to, if the script sets it once; any other expression is returned unchanged."""
    if not isinstance(node, ast.Name):
        return node
    values = [
        each.value
        for each in ast.walk(script.tree)
        if isinstance(each, ast.Assign) and any(isinstance(at, ast.Name) and at.id == node.id for at in each.targets)
    ]
    return values[0] if len(values) == 1 else node


def not_recognized(keywords: list[ast.keyword]) -> list[str]:
    """Return a text about arguments that have no place in the job file; empty if there are none."""
    texts = [f"{each.arg}={ast.unparse(each.value)}" for each in keywords if each.arg is not None]
    texts += [f"**{ast.unparse(each.value)}" for each in keywords if each.arg is None]
    return [f"not recognized: {', '.join(texts)}"] if texts else []


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return "null" if value is None else str(value)
