"""``scaler find-lr`` with one worker in this process: the whole stdout, stderr and exit code."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from in_process import Outcome, command_line
from real_verdicts import codes

from scaler.runs import RunFolder, list_runs

JOB = "jobs/digits/job.yaml"
HERE = ("--address", "none", "--workers", "1")


FindLr = Callable[..., Outcome]


@pytest.fixture
def find_lr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, digits_path: Path, tmp_path: Path
) -> Iterator[FindLr]:
    """Run the command at the repository's root; its runs go to the test's own folder."""
    with command_line(capsys, monkeypatch, digits_path.parents[2]) as command:
        yield lambda *arguments: command("find-lr", *arguments, "--set", f"storage={tmp_path}/runs")


def only_run(tmp_path: Path) -> RunFolder:
    (folder,) = list_runs(str(tmp_path / "runs"))
    return folder


def test_a_range_test_from_end_to_end(find_lr: FindLr, tmp_path: Path) -> None:
    code, out, err = find_lr(JOB, *HERE)
    assert code == 0, err
    folder = only_run(tmp_path)
    assert re.fullmatch(r"digits-find-lr-\d{8}-\d{6}-[0-9a-f]{4}", folder.run_id)
    # The result, and nothing but it, on stdout.
    assert out.startswith(
        "Range test of digits: 100 steps, 1 worker, batch 128, lr 1e-05 to 10\n\nLoss, over the learning rate"
    )
    assert re.search(r"^valley +0\.\d+ +0\.0\d+  the loss is halfway down its fall$", out, re.MULTILINE)
    assert re.search(r"^reference:\n  lr: 0\.0\d+  # valley of a range test; was 0.01$", out, re.MULTILINE)
    assert err.startswith(f"Run {folder.run_id}: in this process\n")
    # The learning rate in use is the planned one, and the run's report shows it.
    plan = folder.read_json("plan.json")
    assert plan["schedule"]["name"] == "ramp"
    report = folder.read_json("report.json")
    assert report["lr_audit"] == {"checked_steps": 100, "max_abs_error": 0.0, "as_planned": True}
    assert codes(report) == []
    assert report["noise"] is None
    assert report["series"]["eval_samples_seen"] == [report["totals"]["samples_seen"]]


def test_the_known_learning_rate_of_the_digits_is_found_to_a_factor_of_three(find_lr: FindLr) -> None:
    code, out, err = find_lr(JOB, *HERE, "--json", "--quiet", "--set", "scale.per_worker_batch_size=256")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["global_batch_size"], found["lr_ratio"], found["base_lr"]) == (256, 16.0, 0.01)
    assert found["chosen"] == "valley"
    assert found["reference_lr"] == pytest.approx(found["suggestions"]["valley"] / 16.0)
    lrs = [lr for lr in found["reference_suggestions"].values() if lr is not None]
    assert len(lrs) >= 2, "this loss rises, and may not rise far enough to count as diverged"
    for lr in lrs:
        assert 0.01 / 3 < lr < 0.01 * 3


def test_the_page_is_written_beside_the_text(find_lr: FindLr, tmp_path: Path) -> None:
    page = tmp_path / "range.html"
    code, out, err = find_lr(JOB, *HERE, "--html", page, "--steps", "20", "--quiet", "--linear", "--min", "0.01")
    assert (code, err) == (0, f"Written: {page}\n")
    assert out.startswith("Range test of digits: 20 steps, 1 worker, batch 128, lr 0.01 to 10\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_that_cannot_be_written_does_not_lose_the_result(find_lr: FindLr, tmp_path: Path) -> None:
    code, out, err = find_lr(JOB, *HERE, "--html", tmp_path / "no" / "range.html", "--steps", "20", "--quiet")
    assert code == 2
    assert err == (
        f"Error: {tmp_path}/no/range.html: cannot be written: No such file or directory.\n"
        "  Give a file in a folder that exists.\n"
    )
    assert out.startswith("Range test of digits: 20 steps")


@pytest.mark.parametrize(
    "overrides",
    [
        ("scale.rule=adascale", "scale.grad_accum_steps=2"),
        ("schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95, plateau: {metric: loss}}",),
        ("scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 512}",),
        ("failures.divergence={then: go_back}", "train.ema={decay: 0.9}"),
        ('groups=[{match: "4.*", lr_ratio: 2, freeze: {epochs: 1}}]', "train.num_samples=null"),
    ],
)
def test_the_reactions_of_a_job_are_left_out(find_lr: FindLr, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    options = [part for override in overrides for part in ("--set", override)]
    code, out, err = find_lr(JOB, *HERE, "--steps", "30", "--json", "--quiet", *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(found["lrs"]) == 30
    assert found["lrs"][-1] == pytest.approx(10.0)
    report = only_run(tmp_path).read_json("report.json")
    assert report["lr_audit"]["as_planned"] is True
    assert len(report["attempts"]) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--min", "1", "--max", "0.1"), "--min 1 is not below --max 0.1.\n  Such as --min 1e-5 --max 10.\n"),
        (("--min", "0"), ("--min 0 is not a learning rate above 0.\n  Such as --min 1e-5.\n")),
        (("--max", "inf"), ("--max inf is not a finite learning rate.\n  Such as --min 1e-5 --max 10.\n")),
        (
            ("--steps", "5"),
            "Invalid value for '--steps': 5 is not in the range x>=20.\n"
            "  scaler find-lr --help shows how it is used.\n",
        ),
        (
            ("--set", "scale.num_workers={min: 1, max: 4}"),
            ("find-lr tests learning rates at one batch size, and the job is elastic.\n  Give --workers N.\n"),
        ),
        (("--address", "none"), "--address none runs one worker, and the job asks for 2.\n  Add --workers 1.\n"),
        (
            ("--set", "recipe=recipe_nosuch:build", *HERE),
            "recipe = recipe_nosuch:build: there is no module recipe_nosuch.\n"
            f'  Did you mean "recipe:build"? Python searches {Path(JOB).parent.absolute()}, PYTHONPATH and the '
            "installed packages.\n",
        ),
    ],
)
def test_input_that_cannot_be_used_exits_2_and_makes_no_run(
    find_lr: FindLr, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    assert find_lr(JOB, *arguments) == (2, "", f"Error: {text}")
    assert list_runs(str(tmp_path / "runs")) == []


RECIPE = """
import torch, scaler
from torch import nn
from torch.utils.data import TensorDataset

def build():
    data = TensorDataset(torch.zeros(20, 2), torch.zeros(20, 1))
    return scaler.Recipe(model=nn.Linear(2, 1), train_data=data, loss=lambda model, batch: {loss})
"""


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a job of 20 samples with a loss; returns the job file."""

    def make(name: str, loss: str) -> Path:
        (tmp_path / f"recipe_range_{name}.py").write_text(RECIPE.format(loss=loss))
        job = {
            "name": name,
            "recipe": f"recipe_range_{name}:build",
            "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd"}},
            "scale": {"per_worker_batch_size": 4},
            "train": {"epochs": 2, "num_samples": 20},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return make


def test_a_loss_that_is_nan_from_the_start_exits_4(find_lr: FindLr, make_job: Callable[[str, str], Path]) -> None:
    path = make_job("nan", "(model(batch[0]) * float('nan')).mean()")
    assert find_lr(path, *HERE, "--quiet") == (
        4,
        "",
        "Error: the loss of the first step is nan, before any learning rate was used.\n"
        "  Check the recipe's loss and data; the learning rate is not the cause.\n",
    )


def test_a_recipe_that_raises_exits_4_with_its_own_traceback(
    find_lr: FindLr, make_job: Callable[[str, str], Path]
) -> None:
    code, out, err = find_lr(make_job("raises", "{}['boom']"), *HERE, "--quiet")
    assert (code, out) == (4, "")
    assert err.startswith("Error: rank 0 failed: KeyError: 'boom'\n")


def test_a_loss_that_does_not_change_suggests_nothing(find_lr: FindLr, make_job: Callable[[str, str], Path]) -> None:
    path = make_job("flat", "(model(batch[0]) * 0.0).sum() + 2.0")
    code, out, err = find_lr(path, *HERE, "--quiet")
    assert (code, err) == (0, "")
    assert "\nThe loss does not fall by more than its noise: raise --max, or take more\n--steps.\n" in out
    assert "reference:\n" not in out


def test_ctrl_c_exits_130_and_the_run_is_stopped(
    find_lr: FindLr, make_job: Callable[[str, str], Path], tmp_path: Path
) -> None:
    path = make_job("stop", "[__import__('signal').raise_signal(2) for time in range(2)]")  # a second one does not wait
    code, out, err = find_lr(path, *HERE)
    assert (code, out) == (130, "")
    assert err.endswith("Interrupted.\n")
    assert only_run(tmp_path).state().value == "stopped"
