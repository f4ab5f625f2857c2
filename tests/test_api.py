"""The Python API: the functions that the command line calls, called from a script."""

import json
import subprocess
import sys
from dataclasses import replace
from inspect import Parameter, getdoc, signature
from pathlib import Path
from signal import SIGINT, raise_signal

import pytest
from run_folders import write_run
from synthetic import SYNTHETIC_JOB, SyntheticRun

import scaler
from scaler.cli import run as command_line
from scaler.plan import make_plan

REPOSITORY = Path(__file__).parents[1]
DIGITS = REPOSITORY / "jobs/digits"
SHORT = ("train.epochs=1",)
IN_PROCESS = {"workers": 1, "address": "none"}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def short_run(storage: Path) -> scaler.Run:
    """A run of one epoch, in this process."""
    return scaler.submit(DIGITS, overrides=SHORT, storage=storage, **IN_PROCESS)


def test_tab_shows_the_public_names_and_no_other() -> None:
    assert dir(scaler) == sorted(scaler.__all__)
    errors = {name for name in vars(scaler.errors) if name.endswith("Error")}  # type: ignore[attr-defined]
    assert errors <= set(scaler.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "submit",
        "resume",
        "plan_job",
        "find_lr",
        "probe",
        "compare",
        "read_run",
        "load_model",
        "export_model",
        "scale_lr",
        "SampleScheduler",
        "run_experiment",
        "plan_experiment",
        "read_experiment",
    ],
)
def test_options_are_named_one_by_one_and_documented(name: str) -> None:
    function = getattr(scaler, name)
    *_, first_options = signature(function).parameters.values()
    assert first_options.kind is Parameter.KEYWORD_ONLY
    for parameter in signature(function).parameters.values():
        assert parameter.kind is not Parameter.VAR_KEYWORD
        assert f"\n    {parameter.name}: " in str(getdoc(function))  # Python 3.13 has no indentation in __doc__


def test_python_m_scaler_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "scaler", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"scaler, version {scaler.__version__}\n"


def test_plan_job_returns_the_plan_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["plan", str(DIGITS), "--workers", "4", "--json"]) == 0
    printed = scaler.Plan.from_dict(json.loads(capsys.readouterr().out))
    assert scaler.plan_job(DIGITS, workers=4) == printed
    job = scaler.load_job(str(DIGITS / "job.yaml"), workers=4)
    assert scaler.plan_job(job) == make_plan(job) == printed


def test_plan_job_asks_the_recipe_where_the_job_does_not_say(tmp_path: Path) -> None:
    without_size = ["train.num_samples=null"]
    assert scaler.plan_job(DIGITS, overrides=without_size).num_samples == 1437
    job = scaler.load_job(DIGITS / "job.yaml", overrides=without_size)
    assert scaler.plan_job(job, recipe_folder=DIGITS).num_samples == 1437
    with pytest.raises(scaler.JobFileError, match="there is no"):
        scaler.plan_job(job.model_copy(update={"recipe": "no_such_recipe:build"}), recipe_folder=tmp_path)


def test_plan_job_asks_the_recipe_for_the_tokens_of_a_sample() -> None:
    job = DIGITS.parent / "charlm" / "tokens.yaml"
    given, asked = (scaler.plan_job(job, overrides=[f"train.tokens_per_sample={tokens}"]) for tokens in ("64", "null"))
    assert asked.memory is not None, "the recipe was built, so its parameters are known"
    assert replace(asked, memory=None) == given
    assert (asked.unit, asked.tokens_per_sample, asked.global_batch_size) == ("tokens", 64, 32)


def test_submit_runs_a_job_and_reports_in_its_callbacks(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    seen: list[int] = []
    run = scaler.submit(
        scaler.load_job(DIGITS / "job.yaml"),
        recipe_folder=DIGITS,
        overrides=SHORT,
        storage=storage,
        on_plan=lambda job, plan: calls.append(f"plan of {plan.total_samples}"),
        on_start=lambda folder: calls.append(f"start {folder.state()}"),
        on_progress=lambda now: seen.append(now.samples_seen),
        on_report=lambda report: calls.append(f"report {report.state}"),
        **IN_PROCESS,
    )
    assert calls == ["plan of 1437", "start starting", "report succeeded"]
    assert seen[-1] == 1437
    assert json.loads(json.dumps(run.report.to_dict())) == run.folder.read_json("report.json")
    assert run.folder.local_path == storage / run.run_id
    assert capsys.readouterr() == ("", "")


def test_a_job_that_fails_raises_and_leaves_a_report(tmp_path: Path) -> None:
    (tmp_path / "recipe_fails.py").write_text("def build():\n    raise KeyError('boom')\n")
    job = scaler.load_job(DIGITS / "job.yaml").model_copy(update={"recipe": "recipe_fails:build", "recipe_args": {}})
    with pytest.raises(scaler.RecipeError, match="boom"):
        scaler.submit(job, recipe_folder=tmp_path, storage=tmp_path / "runs", **IN_PROCESS)
    assert scaler.read_run("last", storage=tmp_path / "runs").report.state == "failed"


def test_a_refused_job_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(scaler.JobFileError, match=r"--address none runs one worker, and the job asks for 2\."):
        scaler.submit(DIGITS, address="none", storage=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_saves_and_raises_and_the_run_resumes(tmp_path: Path) -> None:
    def interrupt(now: object) -> None:
        if not done:
            done.append(True)
            raise_signal(SIGINT)

    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        scaler.submit(DIGITS, storage=tmp_path, on_progress=interrupt, **IN_PROCESS)
    stopped = scaler.read_run("last", storage=tmp_path)
    assert stopped.report.state == "stopped"
    starts: list[int | None] = []
    run = scaler.resume(stopped, on_start=lambda folder, samples, unusable: starts.append(samples), **IN_PROCESS)
    assert starts == [stopped.report.totals.samples_seen]
    assert (run.run_id, run.report.state) == (stopped.run_id, "succeeded")


def test_resume_trains_longer_or_returns_a_finished_run_as_it_is(short_run: scaler.Run, storage: Path) -> None:
    before = short_run.folder.read("status.json")
    called: list[object] = []
    same = scaler.resume(short_run, on_plan=lambda *values: called.append(values), **IN_PROCESS)
    assert (same.run_id, called, short_run.folder.read("status.json")) == (short_run.run_id, [], before)
    with pytest.raises(
        scaler.JobFileError, match=r"has finished its training; reference\.lr = 0\.02 would change nothing"
    ):
        scaler.resume(short_run.run_id, storage=storage, overrides=["reference.lr=0.02"], **IN_PROCESS)
    changes: list[str] = []
    longer = scaler.resume(
        short_run.run_id,
        storage=str(storage),
        overrides=["train.epochs=2"],
        on_plan=lambda job, plan, found, folder: changes.extend(map(str, found)),
        **IN_PROCESS,
    )
    assert changes == ["train.epochs: 1 -> 2"]
    assert longer.report.totals.samples_seen == 2 * 1437


def test_compare_takes_runs_and_their_names(tmp_path: Path) -> None:
    for run_id, lr in (("one", 0.01), ("two", 0.02)):
        job = scaler.load_job(DIGITS / "job.yaml", overrides=[*SYNTHETIC_JOB, f"reference.lr={lr}"])
        write_run(str(tmp_path), run_id, SyntheticRun(job=job, plan=make_plan(job)).attempt(0))
    found = scaler.compare("one", scaler.read_run(tmp_path / "two"), storage=tmp_path)
    assert [(change.key, change.value) for change in found.arms[1].changes] == [("reference.lr", "0.02")]
    with pytest.raises(scaler.RunError, match="there is no run three"):
        scaler.compare("one", "three", storage=tmp_path)


SCRIPT = f"""
import scaler
for rule in ("linear", "none"):
    run = scaler.submit(
        {str(DIGITS)!r}, overrides=["train.epochs=1", "resources.cpus_per_worker=0.5", f"scale.rule={{rule}}"]
    )
    print(run.report.state, run.plan.world_size, run.report.totals.samples_seen)
"""


def test_a_plain_script_submits_twice_on_embedded_clusters(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "succeeded 2 1437\n" * 2), done.stderr
