"""Kill workers with SIGKILL at random moments, and let nodes come and go: is anything lost, repeated, or different?

Runs of the digits (2 workers x 16 samples, some thousand steps, a checkpoint every 100 steps) are struck at random
moments of their lives: while the model is built, while it trains, while a checkpoint is written. Each must finish, with
weights bitwise those of the run that nobody disturbed. What was trained on is taken from the batches that workers asked
for. A plain Ray Train loop with checkpoints is struck while it trains, to compare the seconds until training goes on;
faults after which another came before the next step have no such seconds.

Then a cluster of one-CPU nodes grows and shrinks under an elastic run: 1 -> 3 -> 2 workers.

Run: python benchmarks/chaos.py [--runs 5] [--faults 4] [--seed 0] [--epochs 90] [--seeds 5] [--only faults|resizes]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, median, stdev
from time import sleep, time
from typing import Any

from kill_workers import HERE, Outcome, environment_of_workers, is_whole, run, samples_lost_and_repeated, write_job
from nodes import Step, cluster_of, outcome, run_through, runs_with
from noted_digits import read_notes
from table import table

PLAIN_FAULTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="struck runs (default 5)")
    parser.add_argument("--faults", type=int, default=4, help="faults in each (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--epochs", type=int, default=90, help="of 45 steps each (default 90)")
    parser.add_argument("--seeds", type=int, default=5, help="calm runs that the resized one is compared with")
    parser.add_argument("--nodes-for", nargs=2, metavar=("FOLDER", "ON_RESIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("faults", "resizes"), help="half of it")
    arguments = parser.parse_args()
    if arguments.nodes_for is not None:
        resize(Path(arguments.nodes_for[0]), arguments.nodes_for[1])
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder, good = Path(name), True
        if arguments.only != "resizes":
            good = faults(folder / "faults", arguments)
        if arguments.only != "faults":
            good = resizes(folder / "resizes", arguments) and good
    sys.exit(0 if good else 1)


def faults(folder: Path, arguments: argparse.Namespace) -> bool:
    """Strike runs, print the table, and return whether all is well."""
    calm = run(write_job(folder / "calm", epochs=arguments.epochs, overrides={}))
    assert calm.exit_code == 0, (calm.folder.parents[1] / "output.log").read_text()
    say(f"calm: {calm.report['totals']['steps']} steps")
    struck = []
    for number in range(arguments.runs):
        rng = random.Random(f"{arguments.seed} {number}")
        job = write_job(folder / f"struck-{number}", epochs=arguments.epochs, overrides={})
        struck.append(run(job, faults=arguments.faults, rng=rng))
        lives = len(struck[-1].report["attempts"])
        say(f"struck {number + 1}/{arguments.runs}: {len(struck[-1].faults)} faults, {lives} lives")
    plain_s = plain_restarts(folder / "plain", random.Random(f"{arguments.seed} plain"), epochs=arguments.epochs)
    rows = [described(f"run {number}", [one], calm) for number, one in enumerate(struck)]
    print(table([*rows, described("all", struck, calm), plain_row(plain_s)]))
    print()
    return all(is_well(one, calm) for one in struck)


def is_well(one: Outcome, calm: Outcome) -> bool:
    """Whether a struck run is the calm run."""
    return (
        one.exit_code == 0
        and one.weights == calm.weights
        and samples_lost_and_repeated(one) == (0, 0)
        and is_whole(one.report["attempts"])
        and one.report["lr_audit"]["max_abs_error"] == 0.0
        and one.report["totals"]["steps"] == calm.report["totals"]["steps"]
    )


def described(name: str, runs: Sequence[Outcome], calm: Outcome) -> dict[str, str]:
    """A row of the table."""
    seconds = [f.seconds_to_next_step for one in runs for f in one.faults if f.seconds_to_next_step is not None]
    counts = [samples_lost_and_repeated(one) for one in runs if one.exit_code == 0]
    return {
        "": name,
        "faults": str(sum(len(one.faults) for one in runs)),
        "survived": f"{sum(one.exit_code == 0 for one in runs)} of {len(runs)}",
        "weights as calm": "yes" if all(one.weights == calm.weights for one in runs) else "NO",
        "samples lost": str(sum(lost for lost, _ in counts)),
        "samples repeated": str(sum(repeated for _, repeated in counts)),
        "LR audit error": f"{max(one.report['lr_audit']['max_abs_error'] for one in runs):g}",
        "work done again, samples": f"{sum(one.report['totals']['redone_samples'] for one in runs):,}",
        "fault to next step, s": spread(seconds),
    }


def plain_row(seconds: Sequence[float]) -> dict[str, str]:
    """The row of plain Ray Train, of which only the seconds are compared."""
    empty = dict.fromkeys(("survived", "weights as calm", "samples lost", "samples repeated", "LR audit error"), "–")
    return {
        "": "plain Ray Train",
        "faults": str(len(seconds)),
        **empty,
        "work done again, samples": "–",
        "fault to next step, s": spread(seconds),
    }


def spread(values: Sequence[float]) -> str:
    """A median and a range."""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})" if values else "–"


def plain_restarts(folder: Path, rng: random.Random, *, epochs: int) -> list[float]:
    """Strike the plain loop; return the seconds from each fault to the next batch that a new worker asks for."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    settings = {"config": {"notes": str(notes), "epochs": 10 * epochs}, "storage": str(folder / "results")}
    (folder / "plain.json").write_text(json.dumps(settings))
    command = [sys.executable, str(HERE / "plain_restart.py"), str(folder / "plain.json")]
    seconds: list[float] = []
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment_of_workers())
        known: set[int] = set()
        try:
            for _ in range(PLAIN_FAULTS):
                fresh = wait_for_workers(process, notes, known)
                sleep(rng.uniform(0.0, 4.0))
                known |= set(fresh)
                os.kill(rng.choice(fresh), signal.SIGKILL)
                struck_at = time()
                wait_for_workers(process, notes, known)
                begun = min(read_notes(notes)[pid][0][0] for pid in set(read_notes(notes)) - known)
                seconds.append(begun - struck_at)
                say(f"plain: {seconds[-1]:.1f} s from fault to next step")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
    return seconds


def wait_for_workers(process: subprocess.Popen[bytes], notes: Path, known: set[int]) -> list[int]:
    """Wait until two workers that are not known yet have asked for a batch."""
    while process.poll() is None:
        fresh = sorted(int(path.stem) for path in notes.glob("*.jsonl") if int(path.stem) not in known)
        if len(fresh) >= 2:
            return fresh
        sleep(0.05)
    raise RuntimeError("the plain loop ended before its time")


def resizes(folder: Path, arguments: argparse.Namespace) -> bool:
    """Let nodes come and go under an elastic run, and compare its loss with that of calm runs of several seeds."""
    folder.mkdir(parents=True)
    calm = []
    for seed in range(arguments.seeds):
        overrides = {"train.seed": seed, "scale.num_workers": 2}
        calm.append(run(write_job(folder / f"seed-{seed}", epochs=arguments.epochs // 2, overrides=overrides)))
        say(f"calm, seed {seed}: train loss {final_loss(calm[-1].report):.4g}")
    losses = [final_loss(one.report) for one in calm]
    low, high = mean(losses) - 3 * stdev(losses), mean(losses) + 3 * stdev(losses)
    rows, good = [], True
    for on_resize in ("scale_with_batch", "hold_global_batch"):
        found = resized(folder / on_resize, on_resize, epochs=arguments.epochs // 2)
        loss = found["final"]["train_loss_mean"]
        is_good = found["sizes"][0] == 1 and found["sizes"][-2:] == [3, 2]  # nodes may come one by one
        is_good = is_good and found["every_sample_once"] and found["lr_audit"]["max_abs_error"] == 0.0
        is_good = is_good and loss <= high
        good = good and is_good
        rows.append(
            {
                "": on_resize,
                "sizes": " -> ".join(map(str, found["sizes"])),
                "every sample once": "yes" if found["every_sample_once"] else "NO",
                "LR audit error": f"{found['lr_audit']['max_abs_error']:g}",
                "samples done again": ", ".join(str(row["redone_samples"]) for row in found["attempts"]),
                "seconds without training": ", ".join(
                    f"{row['restart_s']:.1f}" for row in found["attempts"] if row["restart_s"] is not None
                ),
                "train loss": f"{loss:.4g}",
                f"calm, {len(losses)} seeds, ± 3 sd": f"{max(low, 0.0):.4g} to {high:.4g}",
            }
        )
    print(table(rows))
    return good


def resized(folder: Path, on_resize: str, *, epochs: int) -> Mapping[str, Any]:
    """Run 1 -> 3 -> 2 workers in a process of its own, for a process has one Ray; return what became of it."""
    job = write_job(folder, epochs=epochs, overrides={})
    command = [sys.executable, __file__, "--nodes-for", str(job.parent), on_resize]
    done = subprocess.run(command, env=environment_of_workers(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-4000:])
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def resize(folder: Path, on_resize: str) -> None:
    """Let two nodes join a run of one worker, and kill one of the three; print what became of it as JSON."""
    overrides = ["scale.num_workers={min: 1, max: 3}", f"scale.on_resize={on_resize}", "recipe_args.sleep_s=0.01"]
    steps: list[Step] = [
        (runs_with(1), lambda nodes: nodes.join(2)),
        (runs_with(3), lambda nodes: nodes.kill()),
        (runs_with(2), lambda nodes: None),
    ]
    with redirect_stdout(sys.stderr), cluster_of(1) as nodes:  # Ray tells of dead nodes on stdout
        run_folder = run_through(nodes, folder / "runs", overrides, steps, job_folder=folder)
    print(json.dumps(outcome(run_folder)))


def final_loss(report: Mapping[str, Any]) -> float:
    """The mean training loss over the last epoch."""
    return float(report["final"]["train_loss_mean"])


def say(text: str) -> None:
    """Tell who waits how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
