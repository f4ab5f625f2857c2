"""What is refused before anything is sent to a cluster, the choice of the address, and headers."""

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

from scaler.cli import run as command_line
from scaler.cluster.address import Address, choose_address
from scaler.cluster.jobs_client import JobsClient
from scaler.cluster.ray_jobs import RemoteRun, Submission, end_error
from scaler.cluster.remote_package import not_sent_text, write_package
from scaler.cluster.remote_submit import driver_environment
from scaler.errors import ClusterError, JobFileError, TrainingError
from scaler.job import load_job
from scaler.job.runtime_env import RuntimeEnv
from scaler.runs import RunState

DIGITS = Path(__file__).parents[2] / "jobs/digits/job.yaml"
VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")

pytestmark = pytest.mark.usefixtures("unset")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: None) -> None:
    """No cluster in the environment. Ray is imported with the token of the tests' cluster, as in ``test_shipment``."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A person's folder with a job."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("job.yaml", "recipe.py"):
        (folder / name).write_text((DIGITS.parent / name).read_text())
    return folder


@pytest.fixture
def submit(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Submit to an address where nothing listens; returns the exit code and stderr."""

    def command(*options: str, address: str | None = "http://127.0.0.1:9") -> tuple[int, str]:
        where = ["--address", address] if address is not None else []
        code = command_line(["submit", str(folder), *where, *options])
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return command


def test_the_address_is_the_given_one_or_that_of_rays_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_address(None) == choose_address("local") == Address(value=None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert choose_address(None) == Address(value="head:6379", variable="RAY_ADDRESS")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "head:8265")
    assert choose_address(None) == Address(value="http://head:8265", variable="RAY_API_SERVER_ADDRESS")
    assert choose_address(None).shown == "http://head:8265 (RAY_API_SERVER_ADDRESS)"
    assert choose_address(None).is_http
    for given, value in (
        ("auto", "auto"),
        ("none", "none"),
        ("local", None),
        ("https://u:pw@h:1/", "https://u:pw@h:1"),
    ):
        assert choose_address(given) == Address(value=value)
    assert choose_address("https://u:pw@h:1").shown == "https://u:***@h:1"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("ray://head:10001", "--address ray://head:10001 is Ray Client, which scaler does not use."),
        ("spark://head:1", "--address spark://head:1 is not an address of Ray."),
    ],
)
def test_other_kinds_of_addresses_are_refused_with_what_to_use(
    submit: Callable[..., tuple[int, str]], address: str, text: str
) -> None:
    assert submit(address=address) == (
        2,
        f"Error: {text}\n"
        "  From outside the cluster, through Ray Jobs: --address http://head:8265\n"
        "  On a node of the cluster: --address auto\n",
    )


def test_the_variable_that_names_a_refused_address_is_in_the_error(
    submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    code, err = submit(address=None)
    assert (code, err.split("\n")[0]) == (
        2,
        "Error: RAY_ADDRESS = ray://head:10001 is Ray Client, which scaler does not use.",
    )


def test_a_storage_that_only_this_machine_knows_is_refused(submit: Callable[..., tuple[int, str]]) -> None:
    assert submit() == (
        2,
        "Error: storage = runs is a folder of this machine, and the run is on the cluster at http://127.0.0.1:9.\n"
        "  Use a URI: --set storage=s3://bucket/runs\n"
        "  Or the absolute path of a folder that every node of the cluster mounts: --set storage=/mnt/shared/runs\n",
    )


def test_options_for_http_are_refused_elsewhere(submit: Callable[..., tuple[int, str]]) -> None:
    assert submit("--detach", address="auto") == (
        2,
        "Error: --detach is for a cluster that is reached over HTTP, and the address is auto.\n"
        "  Give the address of the cluster's dashboard: --address http://HOST:8265\n",
    )


@pytest.mark.parametrize("command", ["find-lr", "resume"])
def test_commands_that_do_not_send_a_run_say_what_to_use(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "status.json").write_text("{}")
    assert command_line([command, str(folder), "--address", "http://head:8265"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "Error: the address is http://head:8265, and this command does not send its run to a cluster.\n"
    )
    expected = f"resume {folder} --job JOB --address http://head:8265" if command == "resume" else "JOB --address auto"
    assert expected in err


def test_a_cluster_that_does_not_answer_is_named(submit: Callable[..., tuple[int, str]]) -> None:
    code, err = submit("--set", "storage=/mnt/runs")
    assert (code, err.split("\n")[0]) == (3, "Error: no Ray cluster answers at http://127.0.0.1:9.")


def test_the_package_has_the_effective_job_and_neither_runs_nor_data(folder: Path, tmp_path: Path) -> None:
    for name in ("runs/a", "data/b", "checkpoints/c", "models/d.py", "e.txt", "f.log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("*.log\n")
    job = load_job(folder / "job.yaml", overrides=["train.epochs=7", "recipe_args.api_key=abc"])

    def packed() -> tuple[list[str], list[str]]:
        left_out = write_package(tmp_path / "job.zip", job, recipe_folder=folder, job_name="job.yaml")
        return sorted(ZipFile(tmp_path / "job.zip").namelist()), left_out

    assert packed() == (
        [".gitignore", "e.txt", "job.yaml", "models/d.py", "recipe.py"],
        ["checkpoints/", "data/", "f.log", "runs/"],
    )
    once = (tmp_path / "job.zip").read_bytes()
    packed()
    assert (tmp_path / "job.zip").read_bytes() == once, "the same job is sent once"
    assert not_sent_text(["f.log"]) == "Not sent to the cluster: f.log."
    ZipFile(tmp_path / "job.zip").extract("job.yaml", tmp_path)
    assert load_job(tmp_path / "job.yaml") == job
    (folder / ".rayignore").write_text("!data\nmodels\n")
    (folder / "checkpoints/code.py").touch()
    names, left_out = packed()
    assert left_out == ["f.log", "runs/"]
    assert {"data/b", "checkpoints/c"} <= set(names)
    assert "models/d.py" not in names


def test_a_folder_that_is_too_large_is_refused_with_the_ten_largest_paths(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.cluster.ray_packaging.MAX_HTTP_BYTES", 2**20)
    for number in range(12):
        (folder / "images" / f"part-{number:02}").mkdir(parents=True)
        (folder / "images" / f"part-{number:02}" / "x.bin").write_bytes(bytes(2**17 - number))
    with pytest.raises(ClusterError) as caught:
        write_package(tmp_path / "job.zip", load_job(folder / "job.yaml"), recipe_folder=folder, job_name="job.yaml")
    shown = ", ".join(f"images/part-{number:02} (0 MiB)" for number in range(10))
    assert str(caught.value) == (
        f"the job's folder {folder} has 2 MiB, and a cluster takes over HTTP less than 1 MiB. "
        f"The largest in it: {shown}.\n"
        f"  Leave out what the workers do not need: echo images/part-00 >> {folder}/.rayignore\n"
        "  Put data where every node can read it."
    )
    assert not (tmp_path / "job.zip").exists()


class Dashboard(BaseHTTPRequestHandler):
    """A cluster's HTTP server, as far as a client needs it.

    ``wanted`` is the header that it asks for, ``jobs`` are the Ray jobs that it knows, ``log`` is what each printed.
    """

    wanted: "tuple[str, str] | None" = None
    jobs: tuple[dict[str, object], ...] = ()
    log = ""
    failure = ""  # what it answers to every call, with code 500

    def do_GET(self) -> None:
        if self.failure:
            self.send_response(500)
            self.end_headers()
            self.wfile.write(self.failure.encode())
            return
        is_right = self.wanted is None or self.headers.get(self.wanted[0]) == self.wanted[1]
        values: object = list(self.jobs)
        if "version" in self.path:
            values = {"version": "4", "ray_version": "2.58.0"}
        elif self.path.endswith("/logs"):
            values = {"logs": self.log}
        self.send_response(200 if is_right else 403 if self.headers.get("Authorization") else 401)
        self.end_headers()
        self.wfile.write(json.dumps(values).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_headers_and_tokens_reach_the_cluster(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "wanted", ("X-Team", "vision"))
    with pytest.raises(ClusterError, match="there is no token for the Ray cluster"):
        JobsClient(dashboard)
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Team": "vision"}')
    assert JobsClient(dashboard).call("list_jobs") == []
    monkeypatch.setattr(Dashboard, "wanted", ("Authorization", "Bearer right-token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right-token")
    assert JobsClient(dashboard).call("list_jobs") == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-token")
    with pytest.raises(ClusterError) as caught:
        JobsClient(dashboard)
    assert caught.value.problem == f"the Ray cluster at {dashboard} does not accept the token of RAY_AUTH_TOKEN."
    monkeypatch.setenv("RAY_JOB_HEADERS", "secret")
    with pytest.raises(JobFileError) as unusable:
        JobsClient(dashboard)
    assert str(unusable.value) == (
        'RAY_JOB_HEADERS is not a JSON object of texts.\n  Such as RAY_JOB_HEADERS=\'{"Authorization": "Bearer ..."}\''
    )


def test_where_the_folder_cannot_be_read_every_printed_command_works(
    dashboard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def of(run_id: str, status: str, code: int | None, **times: int) -> dict[str, object]:
        about = {"type": "SUBMISSION", "entrypoint": "python", "submission_id": run_id, "status": status}
        metadata = {"run": run_id, "folder": f"/nowhere/our runs/{run_id}"}
        return {**about, "driver_exit_code": code, "metadata": metadata, **times}

    def shown(*words: str) -> tuple[int, list[str], str]:
        code = command_line(words)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    def commands(lines: list[str]) -> dict[str, list[str]]:
        """The commands that a status prints, by their labels."""
        found = (line.partition(":") for line in lines if ": " in line and " scaler " in line)
        return {label: shlex.split(command)[1:] for label, _, command in found}

    monkeypatch.chdir(tmp_path)
    ended = of("b", "FAILED", 130, start_time=2000, end_time=9000)
    monkeypatch.setattr(Dashboard, "jobs", (of("a", "RUNNING", None, start_time=1000), ended))
    monkeypatch.setattr(Dashboard, "log", "10%  loss 2\nb  stopped\n")
    code, lines, _ = shown("status", "a", "--address", dashboard)
    assert (code, lines[0].split("  ")[:2]) == (0, ["a", "running"])
    assert commands(lines).keys() == {"Follow", "Logs", "Stop"}
    assert "The run's folder /nowhere/our runs/a does not exist on this machine. The end of the driver's log:" in lines
    logs = commands(lines)["Logs"]
    logs.remove("-f")  # it would follow the run
    assert shown(*logs) == (
        0,
        ["10%  loss 2", "b  stopped"],
        "Run a: its folder /nowhere/our runs/a, which has the logs of the workers, does not exist on this machine. "
        "This is what the driver prints.\n",
    )
    code, lines, _ = shown("status", "b", "--address", dashboard)
    assert commands(lines) == {
        "Report": ["logs", "b", "--address", dashboard],
        "Continue": ["submit", "JOB", "--run-id", "b", "--address", dashboard, "--set", "storage=/nowhere/our runs"],
    }
    with monkeypatch.context() as variables:
        variables.setenv("RAY_API_SERVER_ADDRESS", dashboard)
        assert shown("status", "last")[1] == lines, "the newest run of the cluster, where the storage has none"
    assert shown("report", "b", "--address", dashboard) == (
        5,
        [],
        "Error: run b: its folder /nowhere/our runs/b does not exist on this machine.\n  What the driver prints comes "
        f"over HTTP, with the report at its end: scaler logs b --address {dashboard}\n",
    )
    code, _, err = shown("logs", "b", "--rank", "1", "--address", dashboard)
    assert (code, err.splitlines()[1]) == (
        5,
        f"  What the driver prints comes over HTTP: scaler logs b --address {dashboard}",
    )


def test_a_resume_over_http_keeps_the_runs_storage(
    dashboard: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The job file may name another storage, where the run would be started anew."""
    sent: list[tuple[str, tuple[str, ...]]] = []

    def send(job_path: Path, *, run_id: str, overrides: tuple[str, ...], **_: object) -> int:
        sent.append((run_id, overrides))
        return 0

    monkeypatch.setattr("scaler.cli.submit_over_http.submit_over_http", send)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept" / "a").mkdir(parents=True)
    (tmp_path / "kept" / "a" / "status.json").write_text("{}")
    about = {"type": "SUBMISSION", "entrypoint": "python", "submission_id": "b", "status": "FAILED"}
    b = {**about, "driver_exit_code": 4, "metadata": {"run": "b", "folder": "/nowhere/runs/b"}}
    monkeypatch.setattr(Dashboard, "jobs", (b,))
    for run in ("a", "b"):
        options = ("--storage", "kept", "--address", dashboard, "--job", str(folder), "--set", "train.seed=1")
        assert command_line(["resume", run, *options]) == 0
    assert sent == [
        ("a", (f"storage={tmp_path}/kept", "train.seed=1")),
        ("b", ("storage=/nowhere/runs", "train.seed=1")),
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_detached_submit_prints_what_names_the_run(
    dashboard: str,
    folder: Path,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sent = RemoteRun(dashboard, "a"), load_job(folder / "job.yaml", overrides=["storage=s3://bucket/our runs"])
    monkeypatch.setattr("scaler.cli.submit_over_http.start_remote", lambda *_, **__: sent)
    assert command_line(["submit", str(folder), "--address", dashboard, "--detach", *options]) == 0
    out, err = capsys.readouterr()
    named = {"run_id": "a", "uri": "s3://bucket/our runs/a", "address": dashboard}
    assert (json.loads(out) if options else out) == (named if options else "a\n")
    commands = [line.strip() for line in err.splitlines() if line.startswith("  scaler ")]
    where = f"--storage 's3://bucket/our runs' --address {dashboard}"
    assert commands == [
        f"scaler {name} a{flags} {where}"
        for name, flags in (("status", ""), ("logs", " -f"), ("wait", ""), ("stop", ""), ("report", ""))
    ]


def ended(status: str, code: int | None, message: str = "") -> Submission:
    about = {"run_id": "a", "submission_id": "a", "folder_uri": "/r/a"}
    return Submission(**about, status=status, driver_exit_code=code, message=message, started=1, ended=2)


@pytest.mark.parametrize(
    ("status", "code", "state", "exit_code"),
    [
        ("SUCCEEDED", 0, RunState.SUCCEEDED, 0),
        ("STOPPED", None, RunState.STOPPED, 130),
        ("FAILED", 130, RunState.STOPPED, 130),  # stopped by its folder, not by Ray Jobs
        ("FAILED", 4, RunState.FAILED, 4),
        ("FAILED", -9, RunState.LOST, 3),  # killed
        ("FAILED", None, RunState.LOST, 3),  # its node is gone, or it never started
    ],
)
def test_the_state_and_exit_code_of_a_run_that_ended(
    status: str, code: int | None, state: RunState, exit_code: int
) -> None:
    assert (ended(status, code).state, ended(status, code).exit_code) == (state, exit_code)


def test_the_error_of_a_run_is_the_one_that_its_driver_printed(dashboard: str) -> None:
    remote = RemoteRun(dashboard, "a")
    error = end_error(remote, ended("FAILED", 4), ["x", "Error: rank 0 failed: boom.", "  Its log: l", "", "tail"])
    assert (type(error), str(error)) == (TrainingError, "rank 0 failed: boom.\n  Its log: l")
    missing = end_error(remote, ended("FAILED", 1), ["ModuleNotFoundError: No module named 'plotille'"])
    assert missing.problem == f"run a: the Python of the cluster at {dashboard} has no package plotille."
    killed = end_error(remote, ended("FAILED", None, "Traceback\nnode died.\n"), ["50%"])
    assert str(killed) == (
        f"run a: its driver on the cluster at {dashboard} ended without a result: node died.\n"
        f"  Continue from the newest checkpoint: scaler submit JOB --run-id a --address {dashboard} --set storage=/r"
    )


def test_the_driver_reads_what_the_ray_job_has_already(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    asked = RuntimeEnv(
        env_vars={"HF_TOKEN": "${MY_TOKEN}", "MODE": "fast"},
        py_modules=["../elsewhere", "models", "s3://b/p.zip"],
        pip="../requirements.txt",
    )
    assert driver_environment(asked, recipe_folder=folder) == RuntimeEnv(
        env_vars={"HF_TOKEN": "${HF_TOKEN}", "MODE": "fast"}, py_modules=["models", "s3://b/p.zip"]
    )


def test_a_head_without_an_agent_is_not_an_address_that_is_wrong(
    dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = JobsClient(dashboard)
    monkeypatch.setattr(Dashboard, "failure", "No available agent to submit job, please try again later.")
    with pytest.raises(ClusterError) as caught:
        client.call("list_jobs")
    assert caught.value.problem == f"Ray Jobs at {dashboard} has no agent on the head that could start a run."
    assert "dashboard_agent.log" in caught.value.remedy
    assert "52365" in caught.value.remedy
