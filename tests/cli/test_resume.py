"""``scaler resume`` with one worker in this process: the whole stdout, stderr and exit code."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from in_process import Scaler, command_line

from scaler.cluster.progress_file import read_progress
from scaler.metrics.events import Resumed
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder, list_runs
from scaler.runs.find import NO_RUNS
from scaler.runs.lease import FILE
from scaler.training.checkpoints.files import complete_checkpoints
from scaler.training.checkpoints.state import load_checkpoint

HERE = ("--address", "none")
SCALER = str(Path(sys.executable).parent / "scaler")

RECIPE = """
import os, signal, time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler


def build(trouble="none", at_call=60, marker="", samples=1000, api_key=""):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 4, generator=generator)
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    calls = -1  # one batch is evaluated before the first step
    is_triggered = False

    def loss(model, batch):
        nonlocal calls, is_triggered
        calls += 1
        if is_triggered:
            time.sleep(0.01)  # until the run is asked to stop
        if calls == at_call and trouble != "none" and not Path(marker).exists():
            Path(marker).touch()
            is_triggered = True
            make_trouble(trouble)
        return cross_entropy(model(batch[0]), batch[1])

    return scaler.Recipe(
        model=nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)),
        train_data=data,
        eval_data=data,
        loss=loss,
        loss_over="micro_batch",
    )


def make_trouble(trouble):
    if trouble == "ctrl_c":
        signal.raise_signal(signal.SIGINT)
    elif trouble == "ctrl_c twice":
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    elif trouble == "sigterm":
        signal.raise_signal(signal.SIGTERM)
    elif trouble == "sighup":
        signal.raise_signal(signal.SIGHUP)
    elif trouble == "stop":
        scaler.stop("last")
    elif trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trouble == "raise":
        raise KeyError("boom")
    elif trouble == "wait":
        time.sleep(600)
"""


@pytest.fixture
def scaler_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Scaler]:
    """Run a command line in the test's own folder."""
    with command_line(capsys, monkeypatch, tmp_path) as command:
        yield command


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job of 300 steps in jobs/, a checkpoint every 30; its runs go to runs/."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "recipe_resume.py").write_text(RECIPE)
    path = folder / "job.yaml"
    values = {
        "name": "going",
        "recipe": "recipe_resume:build",
        "recipe_args": {"marker": str(tmp_path / "marker")},
        "reference": {"global_batch_size": 10, "lr": 0.05, "optimizer": {"name": "sgd", "momentum": 0.9}},
        "scale": {"per_worker_batch_size": 10},
        "schedule": {"name": "cosine", "warmup": {"steps": 20, "start": 0.1}},
        "train": {"epochs": 3, "num_samples": 1000},
        "checkpoint": {"every": {"samples": 300}, "keep": 100},
        "failures": {"divergence": None},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def options(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def newest_run() -> RunFolder:
    return list_runs("runs")[-1]


def weights(folder: RunFolder) -> dict[str, Any]:
    values: dict[str, Any] = load_checkpoint(folder, complete_checkpoints(folder)[-1])["model"]
    return values


def lrs(folder: RunFolder) -> list[tuple[int, float]]:
    """``samples_seen`` and learning rate of every step that is in the weights."""
    records = read_records(folder).to_pylist()
    return sorted((record["samples_seen"], record["lr"]) for record in records if not record["lost"])


def assert_the_same_training(resumed: RunFolder, calm: RunFolder) -> None:
    assert complete_checkpoints(resumed)[-1] == complete_checkpoints(calm)[-1]
    ours, theirs = weights(resumed), weights(calm)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lrs(resumed) == lrs(calm)


@pytest.fixture
def calm(scaler_command: Scaler, job: Path) -> RunFolder:
    """The same training without trouble, in a storage of its own."""
    code, _, err = scaler_command("submit", job, *HERE, "--quiet", "--set", "storage=calm")
    assert code == 0, err
    (folder,) = list_runs("calm")
    return folder


@pytest.mark.parametrize("trouble", ["ctrl_c", "sigterm", "sighup", "stop"])
def test_a_stopped_run_resumes_and_ends_with_the_same_weights(
    scaler_command: Scaler, job: Path, calm: RunFolder, trouble: str
) -> None:
    code, out, err = scaler_command("submit", job, *HERE, *options(f"recipe_args.trouble={trouble}"))
    folder = newest_run()
    assert code == 130
    assert out.startswith(f"{folder.run_id}  stopped\n")
    assert err.endswith(
        f"\nReport: runs/{folder.run_id}/report.html\nContinue with: scaler resume {folder.run_id}\n\nInterrupted.\n"
    )
    assert folder.state().value == "stopped"
    assert not folder.exists(FILE)
    reached = complete_checkpoints(folder)[-1]
    assert 600 <= reached < 3000
    started = folder.read_json("status.json")["started_at"]
    plan = folder.read("plan.json")

    code, out, err = scaler_command("resume", "last", *HERE)
    assert code == 0, err
    assert out.startswith(f"{folder.run_id}  succeeded\n")
    assert err.startswith("Plan of going\n")
    assert f"\nRun {folder.run_id}: resuming at {reached:,} of 3,000 samples\n" in err
    assert_the_same_training(folder, calm)
    assert folder.names("") == sorted({*calm.names("")})  # no job-1.yaml, no driver.json
    assert folder.read("plan.json") == plan
    status = folder.read_json("status.json")
    assert status["started_at"] == started
    assert 0 < status["idle_s"] < time.time() - started
    (resumed,) = [event for event in read_events(folder) if event.kind == "resumed"]
    assert resumed == Resumed(time=resumed.time, from_samples=reached, workers=1, changes=[], idle_s=status["idle_s"])
    report = folder.read_json("report.json")
    assert report["lr_audit"] == {"checked_steps": 300, "max_abs_error": 0.0, "as_planned": True}
    assert [(row["attempt"], row["start_samples"], row["end_samples"]) for row in report["attempts"]] == [
        (0, 0, reached),
        (1, reached, 3000),
    ]
    assert report["attempts"][0]["ended_by"] == "stopped"
    assert report["totals"]["wall_s"] == pytest.approx(
        status["ended_at"] - status["started_at"] - status["idle_s"], abs=1e-6
    )


def test_a_run_whose_driver_was_killed_resumes_at_once(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    command = [
        SCALER,
        "submit",
        str(job),
        *HERE,
        "--quiet",
        *options("recipe_args.trouble=kill", "recipe_args.at_call=130"),
    ]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = newest_run()
    assert folder.state().value == "running"
    lease = folder.read_json(FILE)
    seen = datetime.fromtimestamp(lease["beat"], UTC)
    gone = f"process {lease['pid']} on {lease['host']}, last seen {seen:%Y-%m-%d %H:%M:%S} UTC"
    done = read_progress(folder)  # written every second or two: a quick run may have been killed before
    share = f"  {done.share:.0%}" if done is not None and done.progress.samples_seen else ""
    listed = f"{folder.run_id}  lost{share}  no process runs it ({gone}): scaler resume {folder.run_id}\n"
    assert scaler_command("list", "--storage", "runs") == (0, listed, "")
    code, out, err = scaler_command("report", folder.run_id, "--json")
    lost = json.loads(out)
    assert (code, err, lost["state"], lost["attempts"][-1]["ended_by"]) == (0, "", "lost", "killed")
    (verdict,) = [verdict for verdict in lost["verdicts"] if verdict["code"] == "not_finished"]
    assert verdict["message"].startswith("The run is lost: its driver ended after ")
    assert verdict["evidence"].endswith(f" of 3,000 samples; {gone}")
    assert verdict["next"] == f"Continue the run from its newest checkpoint: scaler resume {folder.run_id}."
    code, _, err = scaler_command("resume", folder.run_id, *HERE, "--quiet")
    assert (code, err) == (0, f"Report: runs/{folder.run_id}/report.html\n")
    assert_the_same_training(folder, calm)
    report = folder.read_json("report.json")
    assert report["state"] == "succeeded"
    assert report["attempts"][0]["ended_by"] == "killed"
    assert not folder.exists(FILE)


def test_a_second_interrupt_ends_a_run_at_once_and_it_resumes_from_its_checkpoint(
    scaler_command: Scaler, job: Path, calm: RunFolder
) -> None:
    code, _, _ = scaler_command("submit", job, *HERE, "--quiet", *options("recipe_args.trouble=ctrl_c twice"))
    folder = newest_run()
    assert (code, folder.state().value) == (130, "stopped")
    assert complete_checkpoints(folder) == [300]  # at its 60th step
    assert scaler_command("resume", folder.uri, *HERE, "--quiet").code == 0
    assert_the_same_training(folder, calm)


def test_a_failed_run_resumes_when_the_cause_is_fixed(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    code, _, err = scaler_command("submit", job, *HERE, "--quiet", *options("recipe_args.trouble=raise"))
    folder = newest_run()
    assert (code, folder.state().value) == (4, "failed")
    assert "failure" in folder.read_json("status.json")
    code, out, err = scaler_command("resume", "last", *HERE, "--quiet", "--json")
    assert (code, err) == (0, f"Report: runs/{folder.run_id}/report.html\n")
    assert json.loads(out) == folder.read_json("report.json")
    assert "failure" not in folder.read_json("status.json")
    assert_the_same_training(folder, calm)


def test_a_run_without_a_checkpoint_starts_again(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    early = options("recipe_args.trouble=raise", "recipe_args.at_call=5")
    assert scaler_command("submit", job, *HERE, "--quiet", *early).code == 4
    code, _, err = scaler_command("resume", "last", *HERE)
    folder = newest_run()
    assert code == 0
    assert f"\nRun {folder.run_id}: there is no checkpoint, starting at the first sample\n" in err
    assert_the_same_training(folder, calm)


def stopped_run(scaler_command: Scaler, job: Path, *overrides: str) -> RunFolder:
    """A run that ended at its 60th step, with a checkpoint at 300 samples."""
    trouble = options("recipe_args.trouble=ctrl_c twice", *overrides)
    assert scaler_command("submit", job, *HERE, "--quiet", *trouble).code == 130
    return newest_run()


def test_changes_of_the_job_are_shown_saved_and_used(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    submitted = folder.read("job.yaml")
    edit = options("reference.lr=0.02", "train.epochs=4", "schedule.final_fraction=0.1")
    code, _, err = scaler_command("resume", "last", *HERE, *edit)
    assert code == 0, err
    assert err.startswith(
        f"Changes of {folder.run_id}\n"
        "  reference.lr: 0.05 -> 0.02\n"
        "  schedule.final_fraction: 0 -> 0.1\n"
        "  train.epochs: 3 -> 4\n"
        "  so the peak learning rate: 0.05 -> 0.02\n"
        "\n"
        "Plan of going\n"
    )
    assert f"\nRun {folder.run_id}: resuming at 300 of 4,000 samples\n" in err
    assert folder.read("job.yaml") == submitted
    edited = yaml.safe_load(folder.read("job-1.yaml"))
    assert (edited["reference"]["lr"], edited["train"]["epochs"]) == (0.02, 4.0)
    assert folder.read_json("plan.json")["base_lr"] == 0.02
    (resumed,) = [event for event in read_events(folder) if event.kind == "resumed"]
    assert resumed.changes == [
        ["reference.lr", "0.05", "0.02"],
        ["schedule.final_fraction", "0", "0.1"],
        ["train.epochs", "3", "4"],
    ]
    report = folder.read_json("report.json")
    assert report["totals"]["samples_seen"] == 4000
    assert report["lr_audit"] == {"checked_steps": 400, "max_abs_error": 0.0, "as_planned": True}
    assert [row["peak_lr"] for row in report["attempts"]] == [0.05, 0.02]
    # The newest job is what the next resume starts from.
    code, _, err = scaler_command("resume", "last", *HERE, *options("train.epochs=5"))
    assert code == 0
    assert err.startswith(f"Changes of {folder.run_id}\n  train.epochs: 4 -> 5\n\nPlan of going\n")
    assert list(folder.job_names()) == [0, 1, 2]
    assert folder.read_json("report.json")["totals"]["samples_seen"] == 5000


def test_an_edited_job_file_is_used(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    job.write_text(job.read_text().replace("epochs: 3", "epochs: 2"))
    code, _, err = scaler_command("resume", "last", "--job", job, *HERE)
    assert code == 0, err
    assert err.startswith(
        f"Changes of {folder.run_id}\n  recipe_args.trouble: ctrl_c twice -> null\n  train.epochs: 3 -> 2\n\nPlan"
    )
    assert folder.read_json("report.json")["totals"]["samples_seen"] == 2000


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            options("train.seed=1", "name=other", "train.epochs=9"),
            2,
            "a resumed run cannot change name, train.seed.\n"
            "  name: going -> other: the run's id begins with it.\n"
            "  train.seed: 0 -> 1: it decides the order of the data: samples would be used twice in an epoch, or "
            "never.\n"
            "  Undo: --set name=going --set train.seed=0\n"
            "  Or start a new run: scaler submit JOB.\n",
        ),
        (
            options("train.epochs=0.2"),
            2,
            "the job ends at 200 samples, and the run has seen 300.\n"
            "  Give a longer training: train.epochs, samples, tokens or steps.\n",
        ),
        (
            options("train.num_samples=null", "recipe_args.samples=900"),
            2,
            "the training set has 900 samples now, and had 1,000 in this run.\n"
            "  samples_seen counts passes over it. Use the same training set, or start a new run: scaler submit JOB.\n",
        ),
        (
            ["--workers", "2", *options("schedule.warmup={epochs: 1}")],
            2,
            "--address none runs one worker, and the job asks for 2.\n  Add --workers 1.\n",
        ),
        (
            ["--job", "nosuch.yaml"],
            2,
            "nosuch.yaml: cannot be read: No such file or directory.\n  scaler submit takes the path of a job file.\n",
        ),
        (options("train.epochs"), 2, "--set train.epochs is not KEY=VALUE.\n  Such as --set train.epochs=3.\n"),
    ],
)
def test_a_change_that_the_run_cannot_take_is_refused_and_nothing_is_written(
    scaler_command: Scaler, job: Path, arguments: list[str], code: int, text: str
) -> None:
    folder = stopped_run(scaler_command, job)
    before = {name: folder.read(name) for name in folder.names("") if "." in name}
    outcome = scaler_command("resume", "last", *HERE, "--quiet", *arguments)
    assert outcome == (code, "", f"Error: {text}")
    assert {name: folder.read(name) for name in folder.names("") if "." in name} == before


def test_a_finished_run_can_only_be_trained_longer(scaler_command: Scaler, calm: RunFolder) -> None:
    before = calm.read("status.json")
    code, out, err = scaler_command("resume", calm.uri, *HERE)
    assert (code, err) == (
        0,
        f"Run {calm.run_id} has finished; to train longer: --set train.epochs=...\n"
        f"Report: calm/{calm.run_id}/report.html\n",
    )
    assert out == scaler_command("report", calm.uri).out
    assert json.loads(scaler_command("resume", calm.uri, *HERE, "--json").out) == calm.read_json("report.json")
    assert calm.read("status.json") == before
    code, _, err = scaler_command("resume", calm.run_id, "--storage", "calm", *HERE, *options("train.epochs=4"))
    assert code == 0
    assert f"\nRun {calm.run_id}: resuming at 3,000 of 4,000 samples\n" in err
    assert calm.read_json("report.json")["totals"]["samples_seen"] == 4000


def test_submit_with_an_id_starts_resumes_and_reports(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    submit = ("submit", job, "--run-id", "mine", *HERE)
    code, out, err = scaler_command(*submit, *options("recipe_args.trouble=ctrl_c twice"))
    assert (code, out.split("\n")[0]) == (130, "mine  stopped")
    assert "\nRun mine: in this process\n" in err
    code, out, err = scaler_command(*submit)
    assert (code, out.split("\n")[0]) == (0, "mine  succeeded")
    assert "\nChanged since the run was last started: recipe_args.trouble: ctrl_c twice -> null\n" in err
    assert "\nRun mine: in this process\nResuming at 300 samples.\n" in err
    folder = newest_run()
    assert_the_same_training(folder, calm)
    before = folder.read("status.json")
    code, again, err = scaler_command(*submit)
    assert (code, again) == (0, out)
    assert err == ("Run mine has finished; to train longer: --set train.epochs=...\nReport: runs/mine/report.html\n")
    assert folder.read("status.json") == before
    assert [run.run_id for run in list_runs("runs")] == ["mine"]


def test_submit_with_an_id_starts_a_run_that_was_ended_before_it_had_a_status(
    scaler_command: Scaler, job: Path
) -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/job.yaml").write_text("name: ha")
    assert scaler_command("submit", job, "--run-id", "mine", *HERE, "--quiet", *options("train.epochs=0.1")).code == 0
    assert newest_run().run_id == "mine"


@pytest.mark.parametrize("run_id", ["../up", "last", "", "a b", "x" * 201])
def test_an_id_that_no_run_can_have_is_refused(scaler_command: Scaler, job: Path, run_id: str) -> None:
    assert scaler_command("submit", job, "--run-id", run_id, *HERE) == (
        2,
        "",
        f"Error: --run-id {run_id!r} is not the id of a run.\n"
        "  Use letters, digits, '.', '_' and '-', at most 200, and not the word last.\n",
    )
    assert not Path("runs").exists()


def test_submit_with_an_id_waits_for_the_lease_of_a_killed_driver_and_not_for_an_active_one(
    scaler_command: Scaler, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped_run(scaler_command, job)
    submit = ("submit", job, "--run-id", folder.run_id, *HERE, "--quiet", *options("train.epochs=1"))
    beat = time.time() - 58
    folder.write_json(FILE, {"token": "t", "host": "elsewhere", "pid": 77, "beat": beat})
    assert scaler_command(*submit).code == 0
    assert time.time() > beat + 60
    folder.write_json(FILE, {"token": "t", "host": "elsewhere", "pid": 77, "beat": time.time() - 9})

    def beats(seconds: float) -> None:
        folder.write_json(FILE, {"token": "t", "host": "elsewhere", "pid": 77, "beat": time.time()})

    monkeypatch.setattr("scaler.runs.lease.sleep", beats)
    code, _, err = scaler_command(*submit, *options("train.epochs=2"))
    assert (code, err.split(", seen")[0]) == (5, f"Error: run {folder.run_id} is being run by process 77 on elsewhere")


def test_a_run_that_another_process_runs_is_not_touched(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    beat = time.time() - 12
    folder.write_json(FILE, {"token": "t", "host": "elsewhere", "pid": 77, "beat": beat})
    code, out, err = scaler_command("resume", "last", *HERE)
    assert (code, out) == (5, "")
    assert err == (
        f"Error: run {folder.run_id} is being run by process 77 on elsewhere, seen 12 s ago.\n"
        "  Stop it first (Ctrl-C there), or wait 60 s after it has ended.\n"
    )
    assert folder.read_json(FILE)["beat"] == beat


def test_of_two_processes_that_resume_at_once_one_trains(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    command = [SCALER, "resume", "last", *HERE, "--quiet"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = [(*process.communicate(), process.returncode) for process in both]
    codes = sorted(code for _, _, code in outcomes)
    assert codes in ([0, 5], [0, 0])  # the second one may come when the first has finished
    assert len([event for event in read_events(folder) if event.kind == "resumed"]) == 1


def test_a_process_that_lost_its_run_ends_and_writes_nothing_more(
    scaler_command: Scaler, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.runs.lease.BEAT_S", 0.05)
    recipe = job.parent / "recipe_resume.py"
    takes = f"""
    if trouble == "taken":
        import json, glob
        (status,) = glob.glob("runs/*/status.json")
        other = {{"token": "theirs", "host": "elsewhere", "pid": 77, "beat": time.time()}}
        written = Path(status).with_name("theirs")
        written.write_text(json.dumps(other))
        written.replace(Path(status).with_name("{FILE}"))  # never half written, like scaler's own
        Path(status).write_text(json.dumps({{**json.loads(Path(status).read_text()), "note": "theirs"}}))
"""
    recipe.write_text(recipe.read_text() + takes)
    long = options("recipe_args.trouble=taken", "train.epochs=50")
    code, out, err = scaler_command("submit", job, *HERE, "--quiet", *long)
    folder = newest_run()
    assert (code, out, err) == (
        5,
        "",
        f"Error: run {folder.run_id} was taken over by process 77 on elsewhere.\n"
        "  The run continues there; this process writes nothing more to it.\n",
    )
    status = folder.read_json("status.json")
    assert (status["state"], status["note"]) == ("running", "theirs")
    assert folder.read_json(FILE)["token"] == "theirs"
    assert not folder.exists("report.json")


def test_a_copied_folder_is_reported_and_resumes_in_its_new_place(
    scaler_command: Scaler, job: Path, calm: RunFolder, tmp_path: Path
) -> None:
    folder = stopped_run(scaler_command, job)
    folder.write_json(FILE, {"token": "t", "host": "elsewhere", "pid": 77, "beat": time.time() - 3600})
    shutil.copytree(folder.uri, tmp_path / "copies" / "a copy")
    shutil.rmtree(folder.uri)
    assert scaler_command("report", "copies/a copy").out.startswith("a copy  stopped\n")
    assert scaler_command("resume", "copies/a copy", *HERE, "--quiet") == (
        2,
        "",
        f"Error: run a copy was made in {folder.uri} and is now in another place, so scaler does not run the recipe "
        "that it names.\n"
        "  Give a job file of your own, with its recipe beside it: scaler resume 'copies/a copy' --job JOB\n",
    )
    trouble = options("recipe_args.trouble=ctrl_c twice")
    for _ in range(2):  # the second time the folder is where the run resumed
        code, _, err = scaler_command("resume", "copies/a copy", "--job", job, *HERE, "--quiet", *trouble)
        assert (code, err.splitlines()[-1]) == (0, "Report: copies/a copy/report.html")
        trouble = []
        job = Path("copies/a copy/job.yaml")
        shutil.copy(tmp_path / "jobs" / "recipe_resume.py", "copies/a copy")
    copy = RunFolder(str(tmp_path / "copies" / "a copy"))
    assert_the_same_training(copy, calm)
    assert copy.read_json("status.json")["run_id"] == "a copy"
    assert not Path(folder.uri).exists()


@pytest.mark.parametrize(
    ("edit", "doubt"),
    [
        ({"place": None}, "does not say where it was made"),
        ({"recipe_folder": "recipes"}, "has its recipe in recipes, which is not an absolute path"),
        ({"recipe_folder": "{folder}/code"}, "has its recipe in its own folder"),
        ({"recipe_folder": "{folder}/../../code"}, "has its recipe in its own folder"),  # a link, into it
    ],
)
def test_code_that_came_with_a_run_is_not_run(
    scaler_command: Scaler, job: Path, tmp_path: Path, edit: dict[str, str | None], doubt: str
) -> None:
    folder = stopped_run(scaler_command, job)
    code = Path(folder.uri) / "code"
    code.mkdir()
    (code / "recipe_resume.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + RECIPE)
    (tmp_path / "code").symlink_to(code)
    changed = {key: value and value.format(folder=folder.uri) for key, value in edit.items()}
    status = {**folder.read_json("status.json"), **changed}
    folder.write_json("status.json", {key: value for key, value in status.items() if value is not None})
    assert scaler_command("resume", "last", *HERE, "--quiet") == (
        2,
        "",
        f"Error: run {folder.run_id} {doubt}, so scaler does not run the recipe that it names.\n"
        f"  Give a job file of your own, with its recipe beside it: scaler resume {folder.run_id} --job JOB\n",
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_recipe_whose_path_leads_into_the_run_is_not_run(
    scaler_command: Scaler, job: Path, tmp_path: Path, is_relative: bool
) -> None:
    folder = stopped_run(scaler_command, job)
    (Path(folder.uri) / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + RECIPE)
    path = os.path.relpath(folder.uri, job.parent) if is_relative else folder.uri
    values = yaml.safe_load(folder.read("job.yaml")) | {"recipe": f"{path}/evil.py:build"}
    folder.write("job.yaml", yaml.safe_dump(values))
    code, out, err = scaler_command("resume", "last", *HERE, "--quiet")
    assert (code, out) == (2, "")
    assert "has its recipe in its own folder, so scaler does not run the recipe that it names." in err
    assert not (tmp_path / "ran").exists()


def test_damaged_records_are_found_before_anything_is_trained(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    name = f"metrics/{folder.names('metrics')[0]}"
    whole = folder.read(name)
    folder.write(name, whole[: len(whole) // 2])
    before = {name: folder.read(name) for name in folder.names("") if "." in name}
    code, out, err = scaler_command("resume", "last", *HERE)
    assert (code, out) == (5, "")
    assert err == (
        f"Error: run {folder.run_id}: {name} holds no records: Parquet "
        "magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.\n"
        f"  Move runs/{folder.run_id}/{name} out of that folder to continue without its records.\n"
    )
    assert {name: folder.read(name) for name in folder.names("") if "." in name} == before
    shutil.move(Path(folder.uri) / name, Path(folder.uri).parent)
    assert scaler_command("resume", "last", *HERE, "--quiet").code == 0


def test_a_missing_job_file_is_found_before_anything_is_trained(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    folder.write("job-1.yaml", folder.read("job.yaml"))
    folder.remove("job.yaml")
    assert scaler_command("resume", "last", *HERE) == (
        5,
        "",
        f"Error: run {folder.run_id} has no job.yaml in runs/{folder.run_id}.\n"
        "  It is written when the run starts; scaler list shows the existing runs.\n",
    )


def test_a_damaged_checkpoint_is_reported_and_skipped(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job, "recipe_args.at_call=100")
    assert complete_checkpoints(folder) == [300, 600, 900]
    folder.write("checkpoints/000000000000900/model-00000.bin", b"torn")
    code, _, err = scaler_command("resume", "last", *HERE)
    assert code == 0, err
    reason = next(line for line in err.splitlines() if line.startswith("Passed over: ")).removeprefix("Passed over: ")
    assert "checkpoint 900 is incomplete: model-00000.bin has 4 bytes of " in reason
    assert f"\nRun {folder.run_id}: resuming at 600 of 3,000 samples\n" in err
    events = read_events(folder)
    (passed,) = [event for event in events if event.kind == "checkpoint_passed_over"]
    assert (passed.attempt, passed.samples_seen, passed.reason) == (1, 900, reason)
    (resumed,) = [event for event in events if event.kind == "resumed"]
    assert resumed.from_samples == 600
    rows = [(row["attempt"], row["start_samples"]) for row in folder.read_json("report.json")["attempts"]]
    assert rows == [(0, 0), (1, 600)]


def test_attempts_are_counted_on_where_the_events_are_lost(scaler_command: Scaler, job: Path) -> None:
    folder = stopped_run(scaler_command, job)
    folder.write("events.jsonl", "")
    code, _, err = scaler_command("resume", "last", *HERE, "--quiet")
    assert code == 0, err
    assert {event.attempt for event in read_events(folder) if event.kind == "attempt_started"} == {1}
    assert set(read_records(folder)["attempt"].to_pylist()) == {0, 1}


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        (["reference.lr=0.5"], "reference.lr = 0.5"),
        (["train.epochs=2", "schedule.final_fraction=0.1"], "schedule.final_fraction = 0.1, train.epochs = 2"),
    ],
)
def test_changes_of_a_finished_training_are_refused(
    scaler_command: Scaler, calm: RunFolder, overrides: list[str], change: str
) -> None:
    assert scaler_command("resume", calm.uri, *HERE, *options(*overrides)) == (
        2,
        "",
        f"Error: run {calm.run_id} has finished its training; {change} would change nothing.\n"
        "  Give a longer training: --set train.epochs=...\n",
    )


def test_a_driver_that_was_stopped_while_another_finished_its_run_writes_nothing(
    scaler_command: Scaler, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.runs.lease.UNSURE_S", 0.3)  # no beat within the test: a process that was stopped
    recipe = job.parent / "recipe_resume.py"
    finishes = f"""
    if trouble == "finished":
        import json, glob
        (status,) = glob.glob("runs/*/status.json")
        Path(status).write_text(json.dumps({{**json.loads(Path(status).read_text()), "state": "succeeded"}}))
        Path(status).with_name("{FILE}").unlink()
        time.sleep(0.5)
"""
    recipe.write_text(recipe.read_text() + finishes)
    code, out, err = scaler_command("submit", job, *HERE, "--quiet", *options("recipe_args.trouble=finished"))
    folder = newest_run()
    assert (code, out, err) == (
        5,
        "",
        f"Error: run {folder.run_id} was taken over: its {FILE} was removed.\n"
        "  Another process resumed the run, or the file was changed; this process writes nothing more to it.\n",
    )
    assert folder.state().value == "succeeded"
    assert {event.samples_seen for event in read_events(folder) if hasattr(event, "samples_seen")} <= set(range(600))
    assert complete_checkpoints(folder)[-1:] in ([300], [])
    assert not folder.exists(FILE)
    assert not folder.exists("report.json")


def test_a_missing_recipe_is_asked_for(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    folder = stopped_run(scaler_command, job)
    moved = job.parent.rename(job.parent.with_name("moved"))
    assert scaler_command("resume", "last", *HERE) == (
        2,
        "",
        f"Error: run {folder.run_id} has its recipe in {job.parent}, which is not on this machine.\n"
        f"  Give the job file beside the recipe: scaler resume {folder.run_id} --job JOB\n",
    )
    trouble = options("recipe_args.trouble=ctrl_c twice")
    assert scaler_command("resume", "last", "--job", moved / "job.yaml", *HERE, "--quiet", *trouble).code == 0
    assert folder.read_json("status.json")["recipe_folder"] == str(moved)
    assert_the_same_training(folder, calm)


def test_a_masked_secret_must_be_given_again(scaler_command: Scaler, job: Path, calm: RunFolder) -> None:
    folder = stopped_run(scaler_command, job, "recipe_args.api_key=opensesame")
    assert scaler_command("resume", "last", *HERE) == (
        2,
        "",
        "Error: recipe_args.api_key is masked in the run's folder.\n  Give it again: --set recipe_args.api_key=...\n",
    )
    again = options("recipe_args.api_key=opensesame")
    assert scaler_command("resume", "last", *HERE, "--quiet", *again).code == 0
    assert list(folder.job_names()) == [0]
    assert_the_same_training(folder, calm)
    assert folder.local_path is not None
    kept = [path for path in folder.local_path.rglob("*") if path.is_file() and b"opensesame" in path.read_bytes()]
    assert kept == []


def test_a_range_test_cannot_be_resumed(scaler_command: Scaler, job: Path) -> None:
    assert scaler_command("find-lr", job, *HERE, "--steps", "20", "--quiet").code == 0
    folder = newest_run()
    assert scaler_command("resume", "last", *HERE) == (
        5,
        "",
        f"Error: run {folder.run_id} is a range test, which cannot be resumed.\n  Start another: scaler find-lr JOB\n",
    )


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("status.json", "{", "status.json is not JSON: "),
        ("plan.json", "{}", "plan.json is not a plan: "),
        ("job.yaml", "name: [", "job.yaml: line 1"),
    ],
)
def test_a_run_with_altered_files_cannot_be_resumed(
    scaler_command: Scaler, job: Path, name: str, content: str, text: str
) -> None:
    folder = stopped_run(scaler_command, job)
    folder.write(name, content)
    code, out, err = scaler_command("resume", folder.uri, *HERE)
    assert (code, out) == (5, "")
    assert text in err
    assert "bug" not in err


def test_a_run_that_is_not_there_exits_5(scaler_command: Scaler) -> None:
    assert scaler_command("resume", "nosuch") == (
        5,
        "",
        f"Error: there is no run nosuch, neither at this path nor in runs.\n  {NO_RUNS}\n",
    )


# Storage and signals of the driver.


def test_storage_that_fills_up_ends_the_run_with_its_reason(
    scaler_command: Scaler, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunFolder._append
    appended: list[str] = []

    def full(folder: RunFolder, name: str, data: bytes) -> None:
        appended.append(name)
        if len(appended) > 1:
            with folder._errors(name, "written"):
                raise OSError(28, "No space left on device")
        append(folder, name, data)

    monkeypatch.setattr(RunFolder, "_append", full)
    code, _, err = scaler_command("submit", job, *HERE, "--quiet")
    folder = newest_run()
    assert (code, err.splitlines()[-2:]) == (
        5,
        [
            f"Error: run {folder.run_id}: events.jsonl cannot be written in runs/{folder.run_id}: No space left on "
            "device.",
            "  Free space there, or check the storage.",
        ],
    )
    assert folder.state().value == "failed"
    monkeypatch.undo()


@pytest.mark.parametrize(("storage", "reason"), [("file", "Not a directory"), ("file/below", "Not a directory")])
def test_storage_where_no_run_can_be_made_exits_5(
    scaler_command: Scaler, job: Path, tmp_path: Path, storage: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    assert scaler_command("submit", job, *HERE, "--quiet", *options(f"storage={storage}")) == (
        5,
        "",
        f"Error: storage = {storage}: no run can be made there: {reason}.\n"
        "  Set storage to a folder that can be written.\n",
    )


def test_storage_that_is_read_only_exits_5(scaler_command: Scaler, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("fsspec.implementations.local.LocalFileSystem.makedirs", refused)
        assert scaler_command("submit", job, *HERE, "--quiet") == (
            5,
            "",
            "Error: storage = runs: no run can be made there: Read-only file system.\n"
            "  Set storage to a folder that can be written.\n",
        )


def test_sigterm_stops_a_run_that_a_shell_started_in_the_background(job: Path, tmp_path: Path) -> None:
    """There Ctrl-C is ignored. The first SIGTERM asks; a recipe that hangs in a step hears the second."""
    waits = options("recipe_args.trouble=wait")
    process = subprocess.Popen(
        [SCALER, "submit", str(job), *HERE, "--quiet", *waits],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    until = time.monotonic() + 60
    while not (tmp_path / "marker").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    _, err = process.communicate(timeout=60)
    (folder,) = list_runs(str(tmp_path / "runs"))
    assert (process.returncode, err.splitlines()[-1]) == (130, "Interrupted.")
    assert folder.state().value == "stopped"
    assert not folder.exists(FILE)


def test_the_lease_names_this_process_while_it_runs(scaler_command: Scaler, job: Path) -> None:
    recipe = job.parent / "recipe_resume.py"
    recipe.write_text(
        recipe.read_text()
        + f"""
    if trouble == "look":
        import glob, shutil
        (lease,) = glob.glob("runs/*/{FILE}")
        shutil.copy(lease, "seen.json")
"""
    )
    assert scaler_command("submit", job, *HERE, "--quiet", *options("recipe_args.trouble=look")).code == 0
    seen = json.loads(Path("seen.json").read_text())
    assert (seen["pid"], seen["host"]) == (os.getpid(), socket.gethostname())
