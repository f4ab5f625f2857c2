"""What Ray sends to the nodes of a running cluster; the tests need no cluster."""

import json
from pathlib import Path

import pytest

import scaler
from scaler.cluster.shipment import JOB_CONFIG, left_out_text, pack
from scaler.errors import ClusterError

# Ray's list of what is ignored is Ray's, and is imported with the token of the tests' cluster.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("cluster")]

PACKAGE = Path(scaler.__file__).parent  # which has a folder called runs, too


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "job"
    for name in ("job.yaml", "recipe.py", "vocabulary.txt", "data/a.txt", "runs/old/checkpoints/1.pt", ".git/HEAD"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    return folder


def sent(folder: Path, excludes: list[str]) -> list[str]:
    """Return the files that Ray packs."""
    from zipfile import ZipFile

    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    package = Path.cwd().parent / "package.zip"
    package.unlink(missing_ok=True)
    create_package(
        str(folder),
        package,
        include_gitignore=True,
        include_parent_dir=False,
        excludes=[*get_runtime_env_default_excludes(), *excludes],
    )
    return sorted(ZipFile(package).namelist())


@pytest.mark.parametrize("runs", ["runs", "out [1]*", "#runs", "a/b c", "!x"])
def test_runs_below_the_jobs_folder_are_not_sent(job: Path, runs: str) -> None:
    (job / "runs").rename(job / "r")
    (job / runs).parent.mkdir(exist_ok=True)
    (job / "r").rename(job / runs)
    shipment = pack(job, storage=runs, packages=[PACKAGE])
    assert shipment.recipe_folder == "."
    assert list(shipment.left_out) == []
    assert shipment.runtime_env["working_dir"] == str(job)
    assert shipment.runtime_env["py_modules"] == [str(PACKAGE)]
    names = sent(job, shipment.runtime_env["excludes"])
    whole = [name for name in sent(PACKAGE, []) if "__pycache__" not in name]
    assert [name for name in sent(PACKAGE, shipment.runtime_env["excludes"]) if "__pycache__" not in name] == whole
    assert [name for name in names if not name.endswith("/")] == [
        "data/a.txt",
        "job.yaml",
        "recipe.py",
        "vocabulary.txt",
    ]


def test_runs_beside_the_job_file_are_left_out_one_by_one(job: Path) -> None:
    (job / "digits-20260101-120000-aaaa").mkdir()
    (job / "digits-20260101-120000-aaaa" / "status.json").write_text("{}")
    shipment = pack(job, storage=".", packages=[PACKAGE])
    assert shipment.runtime_env["excludes"] == ["/digits-20260101-120000-aaaa"]


@pytest.mark.parametrize("storage", ["s3://bucket/runs", "/elsewhere/runs", ".."])
def test_runs_elsewhere_need_no_pattern(job: Path, storage: str) -> None:
    assert "excludes" not in pack(job, storage=storage, packages=[PACKAGE]).runtime_env


def test_what_gitignore_leaves_out_is_reported_and_what_rayignore_leaves_out_is_not(job: Path) -> None:
    (job / ".gitignore").write_text("*.txt\nruns/\n")
    (job / ".rayignore").write_text("data/\n")
    assert pack(job, storage="runs", packages=[PACKAGE]).left_out == ["vocabulary.txt"]
    assert left_out_text(["vocabulary.txt"]) == (
        "Not sent to the nodes, because .gitignore names them: vocabulary.txt."
    )


def test_a_folder_that_is_too_large_is_refused_with_what_is_large_in_it(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.cluster.ray_packaging.GCS_STORAGE_MAX_SIZE", 3 * 2**20)
    (job / "weights.bin").write_bytes(bytes(3 * 2**20))
    (job / "data/b.bin").write_bytes(bytes(2**20))
    with pytest.raises(ClusterError) as caught:
        pack(job, storage="runs", packages=[PACKAGE])
    assert str(caught.value) == (
        f"the job's folder {job} has 4 MiB, and Ray sends its nodes less than 3 MiB. "
        "The largest in it: weights.bin (3 MiB), data/b.bin (1 MiB), vocabulary.txt (0 MiB), data/a.txt (0 MiB), "
        "recipe.py (0 MiB), job.yaml (0 MiB).\n"
        f"  Leave out what the workers do not need: echo weights.bin >> {job}/.rayignore\n"
        "  Put data where every node can read it."
    )
    (job / ".rayignore").write_text("weights.bin\n")
    pack(job, storage="runs", packages=[PACKAGE])


def test_a_ray_job_brings_its_own_folder(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}))
    (job / "sub").mkdir()
    for folder, seen in ((job, "."), (job / "sub", "sub")):
        shipment = pack(folder, storage="runs", packages=[PACKAGE])
        assert (shipment.recipe_folder, shipment.runtime_env) == (seen, {"py_modules": [str(PACKAGE)]})
    monkeypatch.setenv(
        JOB_CONFIG, json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip", "py_modules": ["gcs://2.zip"]}})
    )
    assert pack(job, storage="runs", packages=[PACKAGE]).runtime_env == {}
    with pytest.raises(ClusterError) as caught:
        pack(job.parent, storage="runs", packages=[PACKAGE])
    assert str(caught.value) == (
        f"this Ray job has the working directory {job}, and the job file is in {job.parent}.\n"
        f"  Submit with the job file's folder: ray job submit --working-dir {job.parent} -- scaler submit JOB"
    )


@pytest.mark.parametrize("config", ["", "{", "[]", '{"runtime_env": null}', '{"runtime_env": {"pip": ["x"]}}'])
def test_a_ray_job_without_a_folder_gets_the_jobs(job: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    monkeypatch.setenv(JOB_CONFIG, config)
    assert pack(job, storage="runs", packages=[PACKAGE]).runtime_env["working_dir"] == str(job)
