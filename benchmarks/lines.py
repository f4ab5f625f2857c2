"""How many lines a script needs for a scaled learning rate, warmup, resume, metrics of every process, and a report.

python benchmarks/lines.py           count, and write benchmarks/lines.md
python benchmarks/lines.py --run     run the scripts first: in 1 process for an epoch, then in 2 to the end, and check
                                     that they do what they are counted for
"""

import ast
import inspect
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from table import table

ROOT = Path(__file__).parents[1]
KINDS = ROOT / "tests/training/kinds"
SCRIPTS = Path(__file__).parent / "lines"
PAGE = Path(__file__).parent / "lines.md"

# What is written with what, the bare script, and the script that does all five things.
TRAINERS = (
    ("plain torch, with `scaler.start`", "torch_bare.py", "torch_scaler.py"),
    ("plain torch", "torch_bare.py", "torch_full.py"),
    ("accelerate", "accelerate_bare.py", "accelerate_full.py"),
    ("Lightning", "lightning_bare.py", "lightning_full.py"),
    ("Transformers", "transformers_bare.py", "transformers_full.py"),
)

INTRODUCTION = """# Lines that a script needs

`benchmarks/lines.py` counts these lines and writes this page; a test compares both.

## Lines that `scaler.start` adds to a loop

The scripts are in `tests/training/kinds`, and their lines are marked there. A line counts if it is new or changed, with
the import. The tests run each script on 1 and on 2 processes at the same global batch, and compare the losses of all
steps. The last column says where they must differ; this is so without scaler, too."""

COMPARISON = """## Lines for the same with other trainers

The same means five things:

- the learning rate is scaled with the global batch,
- it is warmed up and follows a cosine, both over samples,
- a stopped training continues, also on another number of processes in the middle of the warmup, with the learning rate
  of the new batch,
- each process records loss, learning rate, samples, step time and data wait of every step,
- a report has a row for each process, and the evaluations.

The scripts are in `benchmarks/lines`. For each trainer, a bare script trains on several processes and does nothing
else, and a full script does the five things, without scaler but in the first row. A line counts if it is in the full
script and not in the bare one. Empty lines, comments and docstrings do not count. `benchmarks/lines.py --run` runs the
full scripts in one process for an epoch and then in two, and checks every recorded learning rate."""


def kinds() -> dict[str, Any]:
    """Return the kinds of scripts by name, each a ``Kind``."""
    sys.path.insert(0, str(KINDS.parent))
    try:
        from kinds import images, others, text
    finally:
        sys.path.pop(0)
    return {kind.train.__name__: kind for module in (images, text, others) for kind in module.KINDS}


def marked(kind: Any) -> int:
    """Return the lines that scaler adds to a script, with the import."""
    lines = inspect.getsource(kind.train).splitlines()
    return 1 + sum(line.endswith("# +") for line in lines)


def added(bare: str, full: str) -> int:
    """Return how many lines a full script has that the bare one has not."""
    left, count = Counter(code_lines(SCRIPTS / bare)), 0
    for line in code_lines(SCRIPTS / full):
        if left[line]:
            left[line] -= 1
        else:
            count += 1
    return count


def code_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a script without empty lines, comments and docstrings, and without indentation."""
    source = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None
            documented |= set(range(text.lineno, text.end_lineno + 1))
    comments = {
        token.start[0]: token.start[1]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for number, line in enumerate(source.splitlines(), start=1):
        code = line[: comments.get(number)].strip()
        if code and number not in documented:
            yield code


def page() -> str:
    """Return the page."""
    rows = [
        {
            "script": name.replace("_", " "),
            "what is special": inspect.getdoc(kind.train).removesuffix("."),
            "lines": str(marked(kind)),
            "1 and 2 processes": f"differ: {kind.differs}" if kind.differs else "the same losses",
        }
        for name, kind in kinds().items()
    ]
    job = sum(1 for line in (SCRIPTS / "job.yaml").read_text().splitlines() if line.strip())
    trainers = [
        {
            "trainer": name,
            "bare script": str(len(list(code_lines(SCRIPTS / bare)))),
            "added lines": str(added(bare, full)) + (f", and a job file of {job}" if "scaler" in name else ""),
        }
        for name, bare, full in TRAINERS
    ]
    values = sorted(int(row["lines"]) for row in rows)
    summary = f"{len(values)} scripts: {values[0]} to {values[-1]} lines, the median is {values[len(values) // 2]}."
    return "\n\n".join([INTRODUCTION, table(rows), summary, COMPARISON, table(trainers)]) + "\n"


def run(script: str, folder: Path) -> None:
    """Run a full script in one process for an epoch and in two to the end, and check what it has recorded.

    Raises:
        AssertionError: a record or the report is missing, or a learning rate is not the planned one.
    """
    for processes, changes in ((1, {"STOP_AFTER": "0"}), (2, {})):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}
        subprocess.run([*launch, script, str(folder)], cwd=SCRIPTS, env=environment, check=True)
    rows = records(folder)
    sys.path.insert(0, str(SCRIPTS))
    from torch_full import lr_at

    steps: Counter[int] = Counter()
    for row in rows:
        steps[row["seen"]] += row["samples"]
    for row in rows:
        processes = 1 if row["seen"] < 1000 else 2
        planned = lr_at(row["seen"], steps[row["seen"]], 32 * processes)
        assert abs(row["lr"] - planned) < 1e-9, f"{script}: {row}, planned {planned}"
    # 6 epochs of 1,000 samples, the last 5 on two processes; accelerate and Transformers fill up the last batch.
    assert 6000 <= sum(steps.values()) <= 6120, f"{script}: {sum(steps.values())} samples"
    assert {(row["rank"], row["seen"] >= 1000) for row in rows} == {(0, False), (0, True), (1, True)}, script
    assert [path.stat().st_size > 200 for path in folder.rglob("report.md")] == [True], script


def records(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each step and process: of a script's own files, or of scaler's run."""
    own = [json.loads(line) for path in folder.glob("rank-*.jsonl") for line in path.read_text().splitlines()]
    if own:
        return own
    import scaler

    rows = scaler.read_run("last", storage=folder).records
    return [
        {"rank": int(row.rank), "seen": int(row.samples_seen), "samples": int(row.samples), "lr": row.lr}
        for row in rows.itertuples()
    ]


def main() -> None:
    """Count, and write the page."""
    if "--run" in sys.argv:
        for name, _, full in TRAINERS:
            with tempfile.TemporaryDirectory() as folder:
                run(full, Path(folder) / "run")
            print(f"{name}: as counted", file=sys.stderr)
    PAGE.write_text(page())
    print(page(), end="")


if __name__ == "__main__":
    main()
