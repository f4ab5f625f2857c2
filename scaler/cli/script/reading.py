"""Read a training script: its calls with their full names, its loops, and the values that its text shows."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaler.errors import JobFileError

LONGEST_BYTES = 1_000_000
Loop = ast.For | ast.AsyncFor | ast.While
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call in a script.

    Args:
        path: what is called, with names of imports in full: ``torch.optim.SGD``, or ``loss.backward``.
        node: the call.
        around: the statements around it, the outermost first.
    """

    path: str
    node: ast.Call
    around: Sequence[ast.AST]

    @property
    def name(self) -> str:
        """The last part of ``path``."""
        return self.path.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """``path`` without its last part."""
        return self.path.rpartition(".")[0]

    @property
    def loop(self) -> ast.AST | None:
        """The innermost loop around the call; None: it is in no loop."""
        return next((each for each in reversed(self.around) if isinstance(each, Loop)), None)

    def argument(self, name: str, place: int | None = None) -> ast.expr | None:
        """Return an argument by its name or its place; None: it is not given."""
        for keyword in self.node.keywords:
            if keyword.arg == name:
                return keyword.value
        if place is not None and place < len(self.node.args):
            return self.node.args[place]
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A training script.

    Args:
        name: of the file, for its lines.
        lines: of its text.
        tree: its syntax.
        calls: every call, in the order of its lines.
        imports: the full names of what it imports.
        constants: values of names that are set once to a literal, and defaults of options, as ``args.lr``.
    """

    name: str
    lines: Sequence[str]
    tree: ast.Module
    calls: Sequence[Call]
    imports: frozenset[str]
    constants: Mapping[str, Any]

    def imports_any(self, *packages: str) -> bool:
        """Return whether the script imports one of these packages, or something in it."""
        return any(f"{name}.".startswith(f"{package}.") for name in self.imports for package in packages)

    def value(self, node: ast.expr | None) -> Any:
        """Return the value of an expression that the script's text shows; None: it does not."""
        if node is None:
            return None
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
        if isinstance(node, ast.Attribute):
            return self.constants.get(f".{node.attr}", self.constants.get(ast.unparse(node)))
        return self.constants.get(node.id) if isinstance(node, ast.Name) else None

    def line(self, node: ast.AST) -> str:
        """Return the first line of a statement."""
        return self.lines[_line_of(node) - 1].strip()

    def text(self, node: ast.AST) -> str:
        """Return all lines of a call or an assignment, or the first line of another statement, as one line."""
        if not isinstance(node, ast.Call | ast.Assign):
            return self.line(node)
        first = _line_of(node) - 1
        last = max(first + 1, int(node.end_lineno or 0))
        text = ""
        for line in (line.strip() for line in self.lines[first:last]):
            is_close = not text or text.endswith(("(", "[", "{")) or line.startswith((")", "]", "}"))
            text += line if is_close else f" {line}"
        return text


def read_script(path: Path) -> Script:
    """Return a script that is read, and not run.

    Raises:
        JobFileError: the file cannot be read, or is not Python.
    """
    another = "Give a training script: scaler init --from train.py"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror}.", another) from None
    if len(data) > LONGEST_BYTES:
        raise JobFileError(f"{path}: larger than {LONGEST_BYTES:,} bytes.", another)
    try:
        tree = ast.parse(data)
        text = data.decode("utf-8", errors="replace")
    except SyntaxError as error:
        line = f" line {error.lineno}:" if error.lineno else ""
        raise JobFileError(f"{path}: is not Python:{line} {error.msg}.", another) from None
    except (ValueError, RecursionError, MemoryError):
        raise JobFileError(f"{path}: is not Python.", another) from None
    aliases = dict(_aliases(tree))
    calls = sorted(_calls(tree, aliases, ()), key=lambda call: (_line_of(call.node), call.node.col_offset))
    return Script(
        name=path.name,
        lines=text.splitlines(),
        tree=tree,
        calls=calls,
        imports=frozenset(aliases.values()),
        constants=dict(_constants(tree, calls)),
    )


def _line_of(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names that imports bind, with their full names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _calls(node: ast.AST, aliases: Mapping[str, str], around: tuple[ast.AST, ...]) -> Iterator[Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield Call(path=_path(child.func, aliases), node=child, around=around)
        is_outer = isinstance(child, Loop | Function | ast.ClassDef | ast.With | ast.If)
        yield from _calls(child, aliases, (*around, child) if is_outer else around)


def _path(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """Return a dotted name, with the name of an import in full; of another expression, its last attribute."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        full = aliases.get(node.id, node.id)
        first = full.split(".")[0] if f"{full}.".startswith(f"{node.id}.") else full  # import a.b binds a
        parts.append(first)
    return ".".join(reversed(parts))


def _constants(tree: ast.Module, calls: Sequence[Call]) -> Iterator[tuple[str, Any]]:
    """Yield names that are set once to a literal, and the options of argparse and click with their defaults."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    for name, values in found.items():
        if len(values) == 1 and isinstance(values[0], ast.Constant):
            yield name, values[0].value
    for call in calls:
        if call.name not in ("add_argument", "option"):
            continue
        flags = [arg.value for arg in call.node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        default = call.argument("default")
        longest = max(flags, key=len, default="").lstrip("-").replace("-", "_")
        if longest and isinstance(default, ast.Constant):
            yield f".{longest}", default.value
