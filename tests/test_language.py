"""Words that the project does not use, because a word of the field says the same: see the table in CONTRIBUTING.md.

``python tests/test_language.py scaler/cluster tests/cluster`` lists the places in some folders.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TEXTS = (".py", ".md", ".txt", ".j2", ".js", ".css", ".toml", ".yaml", ".yml", ".sh", "Makefile")
NOT_OURS = ("tests/test_language.py", "CONTRIBUTING.md", "scaler/report/page/static/uPlot")

# A pattern of the retired word -> what to write. (?<![a-z]) also finds it as a part of a name: two_lives, LivesRow.
RETIRED = {
    r"(?<![a-z])(life|lives|Life|Lives)(?![a-z])": "attempt",
    r"(?<!earning )(?<!earning[-_])(?<![a-z])(rate|rates|Rate|RATE|RATES)(?![a-z])": "learning rate, or lr",
    r"surroundings|Surroundings": "worker context",
    r"(?<![a-z])(drive|drives|drove|driven|driving)(?![a-z])|at the wheel": "run (a run driver runs a run)",
    r"(?<![a-z])(room|rooms)(?![a-z])": "capacity, free resources; space; a package of the code",
    r"(?<![a-z])(recall|recalls)(?![a-z])": "recovered state",
    r"(?<![a-z])(ending|endings|Ending)(?![a-z])": "attempt end; restart signal",
    r"(?<![a-z])(told|said)(?![a-z])|(?<![a-z])in words(?![a-z])": "text, message; reported",
    r"what[-_]if": "plan variants",
    r"(?<![a-z])pace(?![a-z])": "hand-over interval; step time",
    r"(?<![a-z])(strike|strikes|struck)(?![a-z])": "kill",
    r"(?<![a-z])(parcel|parcels)(?![a-z])": "upload",
    r"(?<![a-z])astray(?![a-z])": "diverged",
    r"(?<![a-z])(goes|go|going|went|gone) on(?![a-z-])": "resume, continue; happen",
    r"(?<![a-z])(bears|borne)(?![a-z])": "tolerate, survive",
    r"(?<![a-z])likewise(?![a-z])": "leave it out, or: the same for",
    r"scale_weight_decay": "co_scale.weight_decay",
}
# Ordinary uses of these words that mean something else.
ALLOWED = re.compile(
    r"error rate|tbf rate|sample rate|frame rate|bit rate|rate limit|line ending|hard drive|(?<=\W)failure rate"
    r"|half\\?[-_]life|STRATEG|\"rate\": \(|required rate weight|rate: 1e-3"
)


def texts(*folders: str) -> Iterator[tuple[str, int, str]]:
    """Every line of the tracked texts, with its file and number."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if name.endswith(TEXTS) and not name.startswith(NOT_OURS) and (REPOSITORY / name).exists():
            text = (REPOSITORY / name).read_text(encoding="utf-8")
            text = re.sub(r"(?i)(learning\s+)rate", r"\1lr", text)  # also over the end of a line
            for number, line in enumerate(text.splitlines(), 1):
                yield name, number, line


def found(pattern: str, *folders: str) -> list[str]:
    """The places where a pattern stands, as ``file:line: text``."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, number, line in texts(*folders)
        if re.search(pattern, ALLOWED.sub("", line))
    ]


@pytest.mark.parametrize(("pattern", "instead"), RETIRED.items(), ids=RETIRED.values())
def test_a_retired_word_is_used_nowhere(pattern: str, instead: str) -> None:
    places = found(pattern)
    assert not places, f"{len(places)} places; write instead: {instead}\n" + "\n".join(places[:20])


@pytest.mark.parametrize(
    "line", ["the lives of a run", "find_lives(events)", "class LifeRow", "the peak rate", "lr_and_rate", "HIGH_RATE"]
)
def test_a_retired_word_is_found_in_sentences_and_in_names(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in RETIRED)


@pytest.mark.parametrize(
    "line", ["the learning rate", "learning_rate", "the lifetime", "separate", "olives", "generates"]
)
def test_other_words_are_left_alone(line: str) -> None:
    assert not any(re.search(pattern, line) for pattern in RETIRED)


if __name__ == "__main__":
    for pattern, instead in RETIRED.items():
        places = found(pattern, *sys.argv[1:])
        if places:
            print(f"\n{instead}: {len(places)}", *places, sep="\n  ")
