"""Write docs/rules-experiments.md: the experiments of benchmarks/rules, with the figures of their reports.

`make docs` runs it. The figures are read from the pages in docs/measured, which `scaler experiment report --markdown`
wrote; the findings are written here, and a test compares their numbers with the pages.
"""

from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "rules-experiments.md"

INTRO = """# Today's rules, measured

Each section is one experiment: `scaler experiment run benchmarks/rules/NAME.yaml` runs it again. Seeds, margins,
endpoints and controls were committed in these files before the first run. Differences are to the baseline, paired by
seed, and all intervals of a table together hold 90 % (Holm). "As good" means that the whole interval is inside the
margin of 0.02 nats of held-out loss. Each page behind a link has the sweep that shows the reference's learning rate
to be the best inside the values that were tried.

`digits` is a multilayer perceptron with 9,000 parameters on 1,280 images, `charlm` a GPT with 2 layers of width 32 on
characters of Python's help texts. Both are small: a rule that fails here may hold for a large model, and the other way
round.
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One experiment: what it asks, and what its runs say."""

    name: str  # of the file in benchmarks/rules
    title: str
    finding: str  # a few sentences; Markdown


QUESTIONS: tuple[Question, ...] = ()


def page() -> str:
    """Return the page."""
    return INTRO + "".join(_section(question) for question in QUESTIONS)


def quality(name: str) -> list[str]:
    """Return the lines of the table of a report's quality: setting, peak lr, loss, difference, verdict."""
    text = (DOCS / "measured" / measured(name)).read_text()
    _, _, rest = text.partition("## Quality: ")
    lines = rest.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    return lines[start : start + next(n for n, line in enumerate(lines[start:]) if not line.startswith("|"))]


def measured(name: str) -> str:
    """Return the file name of an experiment's report."""
    return f"rules-{name.replace('_', '-')}.md"


def _section(question: Question) -> str:
    links = f"[`benchmarks/rules/{question.name}.yaml`](../benchmarks/rules/{question.name}.yaml)"
    table = "\n".join(quality(question.name))
    report = f"[whole report](measured/{measured(question.name)})"
    return f"\n## {question.title}\n\n{question.finding}\n\n{links}, {report}.\n\n{table}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
