"""What is checked before a run trains on a running cluster: versions, storage, recipe, free resources."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_script import outcomes_of

from scaler.cluster.preflight import begin_storage_check, require_shared
from scaler.cluster.versions import Versions, differences, installed_versions, require_same_as_driver
from scaler.errors import ClusterError, RunError
from scaler.runs import RunFolder

SCRIPT = Path(__file__).parent / "preflight_cluster.py"
HERE = Versions(python="3.11.7", ray="2.58.0", torch="2.13.0+cpu", scaler="0.1.0")


def other(**versions: str | None) -> Versions:
    return Versions(**{**HERE.to_dict(), **versions})  # type: ignore[arg-type]


def test_versions_are_read_without_importing_torch_or_ray() -> None:
    command = "import sys; from scaler.cluster.versions import installed_versions as found; print(found().torch, "
    command += "sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == f"{installed_versions().torch} []\n"
    assert installed_versions().torch is not None


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        (
            {"python": "3.12.7"},
            "Python 3.12.7, and the run driver has 3.11.7: what one pickles, the other may not read",
        ),
        ({"ray": "2.59.0"}, "Ray 2.59.0, and the run driver has 2.58.0: their messages differ"),
        ({"scaler": "0.2.0"}, "scaler 0.2.0, and the run driver has 0.1.0: their messages differ"),
        ({"torch": None}, "no torch, which trains the model"),
    ],
)
def test_a_node_that_cannot_work_with_the_driver_is_refused(versions: dict[str, str | None], problem: str) -> None:
    with pytest.raises(ClusterError) as caught:
        require_same_as_driver(other(**versions), HERE, node="n1")
    assert str(caught.value) == (
        f"the node n1 has {problem}.\n  Install on every node: Python 3.11, ray==2.58.0, scaler==0.1.0 and torch."
    )


def test_what_has_no_consequence_is_not_named() -> None:
    require_same_as_driver(other(python="3.11.9", torch="2.1.0"), HERE, node="n1")
    build = other(torch="2.13.0+cu128")
    assert differences(HERE, HERE, build, node="n1", first_node="n0") == []
    assert len(differences(build, HERE, HERE, node="n1", first_node="n0")) == 1
    assert "this process has none" in differences(HERE, HERE, other(torch=None), node="n1", first_node="n0")[0]


def test_the_storage_check_leaves_nothing_and_creates_nothing(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    with pytest.raises(ClusterError, match="does not exist on the node"):
        require_shared(run)
    assert list(tmp_path.iterdir()) == []
    run.write("status.json", "{}")
    require_shared(run)
    begin_storage_check(run, rank=3).result()
    assert run.names("") == ["status.json"]


def test_a_storage_that_cannot_be_written_is_refused_with_node_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(str(tmp_path))

    def fail(name: str, content: bytes) -> None:
        raise RunError(f"{name} cannot be written: Read-only file system.", "Free space there.")

    monkeypatch.setattr(RunFolder, "write", lambda self, name, content: fail(name, content))
    with pytest.raises(ClusterError) as caught:
        begin_storage_check(run, rank=0).result()
    assert str(caught.value) == (
        f"the storage cannot be used on the node {os.uname().nodename}: .storage-check-0 cannot be written: Read-only "
        "file system.\n  Set storage to a folder that every node shares, or to a URI such as s3://bucket/prefix."
    )


def test_a_storage_that_gives_back_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(str(tmp_path))
    monkeypatch.setattr(RunFolder, "read", lambda self, name: b"of another")
    with pytest.raises(ClusterError, match="has other content than what was just written there"):
        begin_storage_check(run, rank=0).result()


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened in each scenario of the script."""
    values = outcomes_of(SCRIPT, tmp_path_factory.mktemp("preflight"))
    bugs = {name: outcome["bug"] for name, outcome in values.items() if outcome and "bug" in outcome}
    assert bugs == {}
    return values


def test_a_node_with_another_release_of_torch_is_refused_and_named(happened: dict[str, Any]) -> None:
    error, host = happened["another_release"]["error"], os.uname().nodename
    ours, theirs = installed_versions().torch, "2.1.0"
    first, second = (ours, theirs) if error.startswith(f"the node {host} has torch {ours}") else (theirs, ours)
    assert error.startswith(f"the node {host} has torch {first}, and the node {host} of rank 0 has {second}: ")
    assert "workers of two releases of torch compute different gradients" in error
    assert happened["another_release"]["versions"] == [], "no worker trains"


def test_a_node_with_another_patch_of_torch_is_named_and_the_run_trains(happened: dict[str, Any]) -> None:
    found = happened["in_use"]["freed"]
    assert found["error"] == ""
    assert {versions["torch"].endswith(".99") for versions in found["versions"]} == {True, False}
    notices = [notice for notice in found["notices"] if "torch" in notice]
    assert any(notice.startswith("The workers have torch") for notice in notices)
    assert any(notice.startswith(f"The node {os.uname().nodename} has torch") for notice in notices)
    assert len(notices) == len(set(notices))


def test_a_folder_that_only_the_head_sees_is_refused_with_what_to_use(happened: dict[str, Any]) -> None:
    if happened["only_here"] is None:
        pytest.skip("another view of the file system needs root")
    error = happened["only_here"]["error"]
    assert f"does not exist on the node {os.uname().nodename}.\n  Set storage to a folder that every node" in error


def test_a_recipe_that_cannot_be_imported_there_is_refused_with_node_and_cause(happened: dict[str, Any]) -> None:
    error = happened["no_module"]["error"]
    host = os.uname().nodename
    assert f"cannot be imported on the node {host}: there is no module PIL_of_nobody.\n" in error
    assert "  Have Ray install its package there: --set 'runtime_env.pip=[PIL_of_nobody]', or send your own:" in error
    assert "import PIL_of_nobody.Image" in error, "the traceback says who needs it"


def test_a_run_waits_for_resources_that_others_use_and_says_so(happened: dict[str, Any]) -> None:
    late, freed = happened["in_use"]["late"], happened["in_use"]["freed"]
    waits = (
        r"2 workers need 2 CPU, and [01] of 2 CPU of the cluster are free"  # a new node reports late that it is free
    )
    assert re.fullmatch(
        rf"{waits}; the run has waited for 2 s.\n"
        r"  Submit again when other programs have finished, with fewer --workers, or wait longer: "
        r"--set resources.wait_s=3600.",
        late["error"],
    )
    assert late["versions"] == []
    assert re.fullmatch(rf"Waiting: {waits}. The run fails after 600 s \(resources.wait_s\).", freed["notices"][0])
    assert (freed["error"], len(freed["versions"])) == ("", 2)
