"""Put known faults back into scaler, one at a time, and show the test that finds each.

Each fault is one that CHANGELOG.md or docs/decisions names, or that other libraries have (gradient accumulation
forgotten, a learning rate that stays stale after a resize ...). It is one replacement of a text in a copy of the
repository. The named tests must pass in the copy without a fault, and fail with each.

Run: python benchmarks/mutants.py [NAME ...]        names of mutants; without any, all
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from table import table

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("scaler", "tests", "benchmarks", "jobs", "docs", "pyproject.toml", "README.md")
NO_TESTS = 5  # pytest's exit code where nothing was selected


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A fault.

    Args:
        name: what the command line calls it.
        fault: what is wrong with it.
        folder: below ``scaler/``; one of its files has the text.
        old: the text, which must be there exactly once.
        new: what stands in its place.
        tests: names of test files, wherever they lie below ``tests/``.
        only: pytest's ``-k``; "": all tests of the files.
    """

    name: str
    fault: str
    folder: str
    old: str
    new: str
    tests: tuple[str, ...]
    only: str = ""


MUTANTS = (
    Mutant(
        name="workers",
        fault="lr_ratio comes from the number of workers, not from the global batch",
        folder="plan",
        old="scaling.at(batch.global_batch_size)",
        new="scaling.at(scaling.reference_batch_size * batch.global_batch_size "
        "// (batch.per_worker_batch_size * batch.grad_accum_steps))",
        tests=("test_make.py",),
    ),
    Mutant(
        name="accumulation",
        fault="the global batch leaves gradient accumulation out",
        folder="core",
        old="num_workers * per_worker_batch_size * grad_accum_steps",
        new="num_workers * per_worker_batch_size",
        tests=("test_batch.py", "test_make.py"),
    ),
    Mutant(
        name="average",
        fault="micro-batches count alike, however few samples they have",
        folder="training",
        old="else size / step_samples",
        new="else 1.0 / (steps * (dist.get_world_size() if dist.is_initialized() else 1))",
        tests=("test_gradients.py",),
    ),
    Mutant(
        name="checksum",
        fault="a checkpoint that was altered is loaded",
        folder="training",
        old='!= about.get("sha256")',
        new='== ""',
        tests=("test_checkpoint.py",),
    ),
    Mutant(
        name="load",
        fault="the learning rate of a checkpoint stays after optimizer.load_state_dict",
        folder="training",
        old="self.optimizer.register_load_state_dict_post_hook(loaded)",
        new="pass",
        tests=("test_scheduler.py",),
    ),
    Mutant(
        name="micro_steps",
        fault="the schedule moves with every micro-step",
        folder="training",
        old="self.plan.schedule.factor(self.progress)",
        new="self.plan.schedule.factor(self.progress * step.grad_accum_steps)",
        tests=("test_loop.py", "test_gradients.py"),
    ),
    Mutant(
        name="used_lr",
        fault="the record has the planned learning rate, not the one that the optimizer used",
        folder="training",
        old="return used_lr(self._optimizer, planned=lr)",
        new="return lr",
        tests=("test_loop.py",),
    ),
    Mutant(
        name="co_scale",
        fault="co-scaled weight decay and momentum count the ratio twice",
        folder="core",
        old="return 1.0 if rule.co_scale.momentum else batch_ratio / ratio",
        new="return batch_ratio / ratio",
        tests=("test_held_timescales.py",),
    ),
    Mutant(
        name="secrets",
        fault="secrets are written into events",
        folder="metrics",
        old="event = with_texts(event, mask_text)",
        new="pass",
        tests=("test_writer.py",),
    ),
    Mutant(
        name="twice",
        fault="a collector that was started again writes records a second time",
        folder="cluster",
        old="if not self._newest:",
        new="if self._newest is not None:",
        tests=("test_collector.py",),
    ),
    Mutant(
        name="sigterm",
        fault="a worker that got SIGTERM costs a restart",
        folder="cluster",
        old="if causes:",
        new="if not error:",
        tests=("test_ray_run.py",),
        only="sigterm",
    ),
    Mutant(
        name="compounded",
        fault="a resize scales the learning rate of the plan before, not the reference's",
        folder="cluster",
        old="return make_plan(job, world_size,",
        new='return make_plan(job.model_copy(update={"reference": job.reference.model_copy('
        'update={"lr": planned.peak_lr})}), world_size,',
        tests=("test_elastic.py",),
        only="sample",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(mutant.name for mutant in MUTANTS))
    names = parser.parse_args().names
    unknown = sorted(set(names) - {mutant.name for mutant in MUTANTS})
    if unknown:
        parser.error(f"no mutant is called {', '.join(unknown)}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy = Path(name)
        for part in COPIED:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, copy / part)
        for mutant in chosen:  # before hours are spent
            place_of(mutant, copy), files_of(mutant, copy)
        rows, survivors = [], []
        for mutant in chosen:
            rows.append(row_of(mutant, copy))
            if rows[-1]["found by"].startswith("NONE"):
                survivors.append(mutant.name)
            print(f"{mutant.name}: {rows[-1]['found by']}", file=sys.stderr, flush=True)
    print(table(rows))
    if survivors:
        sys.exit(f"No test finds: {', '.join(survivors)}.")


def place_of(mutant: Mutant, copy: Path) -> Path:
    """Return the file that has the mutant's text; end if it is not there exactly once."""
    places = [
        path
        for path in sorted((copy / "scaler" / mutant.folder).rglob("*.py"))
        for _ in range(path.read_text().count(mutant.old))
    ]
    if len(places) != 1:
        sys.exit(
            f"{mutant.name}: {mutant.old!r} is {len(places)} times in scaler/{mutant.folder}, and must be there once. "
            "Update benchmarks/mutants.py."
        )
    return places[0]


def files_of(mutant: Mutant, copy: Path) -> list[str]:
    """Return the paths of the mutant's test files; end if one is not there exactly once."""
    found = []
    for name in mutant.tests:
        places = list((copy / "tests").rglob(name))
        if len(places) != 1:
            sys.exit(f"{mutant.name}: tests/ has {len(places)} files {name}. Update benchmarks/mutants.py.")
        found.append(str(places[0].relative_to(copy)))
    return found


def row_of(mutant: Mutant, copy: Path) -> dict[str, str]:
    """Run the mutant's tests without and with the fault, and return its row of the table."""
    place, files = place_of(mutant, copy), files_of(mutant, copy)
    before = place.read_text()
    sound, _ = tested(files, mutant.only, copy)
    if sound is not None:
        sys.exit(f"{mutant.name}: {sound} fails without the fault.")
    place.write_text(before.replace(mutant.old, mutant.new))
    try:
        failed, seconds = tested(files, mutant.only, copy)
    finally:
        place.write_text(before)
    return {
        "mutant": mutant.name,
        "fault": mutant.fault,
        "found by": failed or f"NONE of {', '.join(mutant.tests)}",
        "seconds": f"{seconds:.0f}",
    }


def tested(files: Sequence[str], only: str, copy: Path) -> tuple[str | None, float]:
    """Run tests on the copy; return the first that fails, and the seconds until then."""
    began = monotonic()
    # Also the processes that a test starts import the copy, and not the scaler that is installed.
    environment = {
        **os.environ,
        "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'benchmarks'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    origin = [sys.executable, "-c", "import scaler; print(scaler.__file__)"]
    imported = subprocess.run(origin, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(imported.strip()).is_relative_to(copy), imported
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--no-header", *files, *(("-k", only) if only else ())]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == NO_TESTS:
        sys.exit(f"No test of {', '.join(files)} is selected by -k {only}. Update benchmarks/mutants.py.")
    if done.returncode == 0:
        return None, monotonic() - began
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::[^\n]*?)(?: - .*)?$", done.stdout, flags=re.MULTILINE)
    if failed is None:
        sys.exit(f"pytest {' '.join(files)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return failed[1].removeprefix("tests/"), monotonic() - began


if __name__ == "__main__":
    main()
