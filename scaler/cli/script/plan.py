"""Render what becomes of a training script: the template that fits, and what to move where."""

from pathlib import Path
from shlex import quote
from shutil import get_terminal_size
from textwrap import wrap

from scaler.cli.script.reading import read_script
from scaler.cli.script.rows import missing, rows_of
from scaler.cli.script.trainings import find_training

WIDEST = 100  # columns, also in a wider terminal
_DOCS = {
    "recipe": "docs/recipes.md",
    "loop": "docs/own-loop.md",
    "accelerate": "docs/guides/accelerate.md",
    "lightning": "docs/guides/lightning.md",
    "transformers": "docs/guides/transformers.md",
}


def script_plan(path: Path, *, wanted: str | None = None) -> str:
    """Return the text of ``scaler init --from``.

    Args:
        path: of the script; it is read, and not run.
        wanted: a template that the user asks for; None: the one that fits.

    Raises:
        JobFileError: the file cannot be read, is not Python, does not train, or does not fit ``wanted``.
    """
    script = read_script(path)
    training = find_training(script, wanted=wanted)
    width = min(WIDEST, get_terminal_size((WIDEST, 24)).columns)
    begin = f"scaler init DIR --template {training.template}"
    lines = [
        *_wrapped(f"{script.name} fits the template {training.template}: {training.why}.", width),
        f"  {begin}",
        "",
    ]
    lines.append("What to move where:")
    for row in rows_of(script, training.family):
        source = f"{script.name}:{row.line}  {row.source}"
        lines += ["", source if len(source) <= width else f"{source[: width - 3]}..."]
        lines += [line for then in row.then for line in _wrapped(f"  -> {then}", width)]
    unknown = missing(script, training.family)
    if unknown:
        lines += [
            "",
            "What the script does not show:",
            *(line for each in unknown for line in _wrapped(f"  {each}", width)),
        ]
    if training.family == "recipe":
        lines += ["", f"To keep the loop instead: scaler init --from {quote(str(path))} --template own-loop"]
    return "\n".join([*lines, "", f"{_DOCS[training.family]} has the details. Nothing was run or written."])


def _wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text; all but the first are indented."""
    return wrap(text, width, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)
