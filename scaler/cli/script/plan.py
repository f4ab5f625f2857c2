"""Render what becomes of a training script: the template that fits, and what to move where."""

from pathlib import Path
from shlex import quote
from shutil import get_terminal_size
from textwrap import wrap

from scaler.cli.script.reading import read_script
from scaler.cli.script.rows import missing, rows_of
from scaler.cli.script.trainings import find_training

WIDEST = 100  # columns, also in a wider terminal
_PAGES = {  # titles of pages of the documentation
    "recipe": "What a recipe can say",
    "loop": "My own training loop",
    "accelerate": "accelerate",
    "lightning": "Lightning",
    "transformers": "Transformers",
}
_IS_FOR = {"classifier": " (own data and loss in a recipe)"}


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
    nearest = f"{training.template}{_IS_FOR.get(training.template, '')}"
    lines = [
        *_wrapped(f"{script.name}: nearest template: {nearest}; {training.why}.", width),
        f"  {begin}",
        "",
    ]
    lines.append("What to move where:")
    for row in rows_of(script, training.family):
        lines += ["", *_wrapped(f"{script.name}:{row.line}  {row.source}", width)]
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
    more = (
        f'More: the page "{_PAGES[training.family]}" of the documentation; scaler schema prints every key of a job '
        "file. Nothing was run or written."
    )
    return "\n".join([*lines, "", *wrap(more, width)])


def _wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text; all but the first are indented."""
    return wrap(text, width, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)
