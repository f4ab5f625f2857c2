"""The code blocks of the documents, and what runs them.

Every block has a mark on the line before it, which readers do not see: ``<!-- test: MARK -->``. The marks:

    run                     run in a copy of jobs, after the other blocks of the page
    run with OPTIONS        the same; OPTIONS are added to the commands that have all of them
    ray                     run with an embedded Ray
    needs WHAT              not run; its scaler commands must exist, with their options
    tests/FILE.py           that test runs it
    write FILE              written to FILE, for the blocks that follow
    job, keys               a job file; keys that are added to jobs/digits/job.yaml. It must have a plan
    more keys               keys that are added to the block of keys before it
    fields                  as keys, for jobs whose plan needs the recipe: they must be valid
    experiment              an experiment file
    part                    a part of a script: it must compile, and what it uses of scaler must exist
    golden FILE             lines of tests/golden/FILE
    text                    no code
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# Records of their time: what they show was so when they were written.
RECORDS = ("docs/decisions/", "docs/measured/")
BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<mark>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)(?P<fence>```+)(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    page: str
    line: int
    mark: str
    language: str
    text: str


def pages() -> list[str]:
    """Return the pages whose blocks are tested, by their path in the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("jobs/*/README.md")]
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(RECORDS)]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page in their order; the mark of an unmarked one is empty."""
    text = (ROOT / page).read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("fence")) + 1,
            match["mark"] or "",
            match["language"],
            re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
        )
        for match in BLOCK.finditer(text)
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the arguments of each ``scaler`` command of a block, without comments and what follows ``&&`` or ``|``."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|(?!\w)", line):
            words = shlex.split(part, comments=True) if re.search(r"(^|/| )scaler \w", part) else []
            names = [place for place, word in enumerate(words) if word == "scaler" or word.endswith("/scaler")]
            if names:
                yield words[names[0] + 1 :]
