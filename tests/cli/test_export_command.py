"""``scaler export``: what it writes and prints."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from in_process import Scaler, command_line

from scaler import __version__

NEW_ID = re.compile(r"digits-\d{8}-\d{6}-[0-9a-f]{4}")


@pytest.fixture
def job_folder(tmp_path: Path, digits_path: Path) -> Path:
    folder = tmp_path / "my job"
    folder.mkdir()
    (folder / "job.yaml").write_text(digits_path.read_text())
    return folder


@pytest.fixture
def scaler_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, job_folder: Path
) -> Iterator[Scaler]:
    with command_line(capsys, monkeypatch, job_folder.parent) as command:
        yield command


def test_files_are_written_next_to_the_job_with_the_commands_that_follow(
    scaler_command: Scaler, job_folder: Path
) -> None:
    code, out, err = scaler_command("export", "compose", "my job", "--run-id", "digits-1")
    assert (code, out) == (0, "my job/deploy/compose.yaml\n")
    assert err == (
        "Next:\n"
        "  scaler export docker 'my job'\n"
        "  docker build --file 'my job/deploy/Dockerfile' --tag digits 'my job'\n"
        "  docker compose --file 'my job/deploy/compose.yaml' up --detach\n"
        "  docker compose --file 'my job/deploy/compose.yaml' run --rm submit\n"
        "  docker compose --file 'my job/deploy/compose.yaml' cp head:/home/scaler/runs .\n"
        "At the end:\n"
        "  docker compose --file 'my job/deploy/compose.yaml' down\n"
    )
    text = (job_folder / "deploy" / "compose.yaml").read_text()
    assert text.startswith("# Written by: scaler export compose 'my job/job.yaml' --run-id digits-1\n")


def test_an_image_has_its_wheel_and_versions_beside_it(scaler_command: Scaler, job_folder: Path) -> None:
    (job_folder / "requirements.txt").write_text("einops\n")
    code, out, _ = scaler_command("export", "docker", "my job")
    assert (code, out) == (0, "my job/deploy/Dockerfile\nmy job/deploy/Dockerfile.dockerignore\n")
    names = {path.name for path in (job_folder / "deploy").iterdir()}
    assert names == {
        "Dockerfile",
        "Dockerfile.dockerignore",
        "constraints.txt",
        f"scaler-{__version__}-py3-none-any.whl",
    }
    lines = (job_folder / "deploy" / "constraints.txt").read_text().splitlines()
    assert any(line.startswith("ray==") for line in lines)
    assert not any("+" in line or line.startswith("scaler==") for line in lines)
    dockerfile = (job_folder / "deploy" / "Dockerfile").read_text()
    ignored = (job_folder / "deploy" / "Dockerfile.dockerignore").read_text()
    wheel = f"!deploy/scaler-{__version__}-py3-none-any.whl"
    assert ignored.endswith(f"\ndeploy/*\n!deploy/constraints.txt\n{wheel}\n"), "the build needs these two only"
    for bound in ("deploy/constraints.txt", f"deploy/scaler-{__version__}-py3-none-any.whl", "requirements.txt"):
        assert f"--mount=type=bind,source={bound}," in dockerfile
        assert (job_folder / bound).exists()


def test_a_run_id_is_new_each_time_and_typed_again_gives_the_same_file(scaler_command: Scaler) -> None:
    texts = [scaler_command("export", "kuberay", "my job", "--output", "-").out for _ in range(2)]
    ids = [set(NEW_ID.findall(text)) for text in texts]
    assert [len(one) for one in ids] == [1, 1]
    assert ids[0] != ids[1]
    (run_id,) = ids[0]
    again = scaler_command("export", "kuberay", "my job", "--run-id", run_id, "--output", "-")
    assert again.out == texts[0]
    assert next(yaml.safe_load_all(again.out))["spec"]["jobId"] == run_id
    assert "ReadWriteMany" in again.err


def test_slurm_has_absolute_paths(scaler_command: Scaler, job_folder: Path) -> None:
    _, out, err = scaler_command("export", "slurm", "my job", "--output", "-")
    assert f"\ncd '{job_folder}'\n" in out
    assert err.startswith(
        f"The runs are kept in {job_folder}/runs, which must be in a file system that all nodes share.\n"
        "The file asks for 2 nodes with 1 worker on each; --workers-per-node N puts N on a node.\n"
        "Its time limit is 24 h: change --time in the file to what the partition allows.\n"
        f"It uses the Python in {Path(sys.executable).parent} and the job in {job_folder}: export it where the nodes' "
        "file systems are, such as on the login node.\n"
        "Next:\n"
    )
    assert err.endswith("At the end:\n  scancel --name digits\n")


def test_edited_files_are_replaced_only_with_overwrite(scaler_command: Scaler, job_folder: Path) -> None:
    assert scaler_command("export", "docker", "my job").code == 0
    assert scaler_command("export", "docker", "my job").code == 0, "the same files again"
    assert scaler_command("export", "kuberay", "my job").code == 0
    written = job_folder / "deploy" / "rayjob.yaml"
    first = written.read_text()
    assert scaler_command("export", "kuberay", "my job").code == 0, "only the id of the new run differs"
    assert written.read_text() != first
    ids = NEW_ID.findall(written.read_text())
    resumed = written.read_text().replace(f'jobId: "{ids[0]}"', 'jobId: "digits-20200101-000000-abcd"')
    for edited in (f"{first}# mine\n", resumed):
        written.write_text(edited)
        assert scaler_command("export", "kuberay", "my job") == (
            2,
            "",
            "Error: in my job/deploy, files have another content than this export: rayjob.yaml.\n"
            "  --overwrite replaces them; --output DIR writes into another folder.\n",
        )
        assert written.read_text() == edited
    assert scaler_command("export", "kuberay", "my job", "--output", "other").code == 0
    assert scaler_command("export", "kuberay", "my job", "--overwrite").code == 0
    assert "# mine" not in written.read_text()
    for name in ("Dockerfile", "constraints.txt"):
        (job_folder / "deploy" / name).write_text("mine\n")
    _, _, err = scaler_command("export", "docker", "my job")
    assert err.startswith(
        "Error: in my job/deploy, files have another content than this export: Dockerfile, constraints"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("export", "docker", "my job", "--output", "elsewhere"),
            2,
            "Error: elsewhere/constraints.txt is outside my job, the folder that docker build sends.\n"
            "  Such as --output 'my job/deploy'.\n",
        ),
        (
            ("export", "aws", "my job"),
            2,
            "Error: storage = runs is a folder, and the machines of aws share none.\n"
            "  Give a URI: --set storage=s3://BUCKET/PREFIX.\n",
        ),
        (
            ("export", "compose", "my job", "--output", "my job/job.yaml"),
            2,
            "Error: my job/job.yaml: cannot be written: File exists.\n  Give a folder that can be written.\n",
        ),
    ],
)
def test_what_cannot_be_is_an_error(
    scaler_command: Scaler, job_folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(job_folder.parent.rglob("*"))
    assert scaler_command(*arguments) == (code, "", message)
    assert sorted(job_folder.parent.rglob("*")) == before


def test_an_unknown_kind_is_named_with_the_known_ones(scaler_command: Scaler) -> None:
    code, out, err = scaler_command("export", "kubernetes", "my job")
    assert (code, out) == (2, "")
    assert "'kubernetes' is not one of 'docker', 'compose', 'kuberay'" in err
