"""The token of a running cluster, and the errors of one that refuses it; the tests' own cluster asks for a token."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from scaler.cluster.auth_token import find_token, require_accepted, token_environment, token_refused
from scaler.cluster.running import resolve_address
from scaler.errors import ClusterError

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = "a" * 64, "b" * 64
SET_TOKEN = (
    "  Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it.\n"
    "  On the head's machine, ray get-auth-token prints it."
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and an environment without one."""
    for name in list(os.environ):
        if name.startswith("RAY_AUTH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def default_file(home: Path, token: str) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(f"{token}\n")


def test_the_token_is_found_in_rays_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token().value == ""
    default_file(home, "of the file")
    assert find_token().value == "of the file"
    (home / "token").write_text("of the path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "token"))
    assert find_token().value == "of the path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert find_token().value == "of the variable"
    assert "of the variable" not in repr(find_token())


def refusal(address: str = "head:6379") -> str:
    error = token_refused(address)
    assert error.exit_code == 3
    assert RIGHT not in str(error)
    return str(error)


def test_a_refusal_names_the_source_of_the_token_and_never_the_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal() == (
        "there is no token for the Ray cluster at head:6379: RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH are not set, and "
        f"the file ~/.ray/auth_token is missing or empty.\n{SET_TOKEN}"
    )
    default_file(home, RIGHT)
    refused = "the Ray cluster at head:6379 does not accept the token of"
    assert refusal() == f"{refused} the file ~/.ray/auth_token.\n{SET_TOKEN}"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/ray/none")
    assert refusal() == (
        "there is no token for the Ray cluster at head:6379: the file /etc/ray/none, which RAY_AUTH_TOKEN_PATH names, "
        f"is missing or empty.\n{SET_TOKEN}"
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN", RIGHT)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert refusal() == f"{refused} RAY_AUTH_TOKEN.\n{SET_TOKEN}"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert refusal() == (
        "the Ray cluster at head:6379 asks for a token, but with RAY_AUTH_MODE = disabled Ray sends none.\n"
        f"  Set RAY_AUTH_MODE=token.\n{SET_TOKEN}"
    )


@pytest.fixture
def guarded(cluster: None) -> tuple[str, str]:
    """The address and the token of the tests' own cluster."""
    import ray

    return ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]


def test_a_cluster_that_asks_for_a_token_gets_the_one_that_is_there(
    guarded: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = guarded
    assert token_environment(address) == {}, "there is no token"
    default_file(home, token)
    assert token_environment(address) == {"RAY_AUTH_MODE": "token"}
    assert token_environment("auto") == {}, "it is not known whether that cluster asks for a token"
    require_accepted(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_environment(address) == {}, "what the user has set stays"
    with pytest.raises(ClusterError, match="with RAY_AUTH_MODE = disabled Ray sends none"):
        require_accepted(address)


def test_a_token_is_not_sent_where_none_is_asked_for(home: Path) -> None:
    default_file(home, RIGHT)
    assert token_environment("127.0.0.1:1") == {}


def test_auto_is_the_cluster_that_ray_has_noted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(home))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert resolve_address("auto") == "auto"
    (home / "ray").mkdir()
    (home / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert resolve_address("auto") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "head:6380")
    assert resolve_address("auto") == "head:6380"
    assert resolve_address("other:1") == "other:1"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert resolve_address("auto") == "auto"


def test_kubernetes_tokens_are_left_to_ray(
    guarded: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_K8S_TOKEN_AUTH", "1")
    default_file(home, WRONG)
    assert token_environment(guarded[0]) == {}
    require_accepted(guarded[0])


def submit(address: str, storage: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``scaler submit`` of a process that has nothing of the tests' cluster in its environment."""
    inherited: Mapping[str, str] = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", "from scaler.cli import main; main()", "submit", "jobs/digits/job.yaml"]
    return subprocess.run(
        [*command, "--address", address, "--workers", "1", "--set", f"storage={storage}", "--set", "train.epochs=1"],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_submit_to_a_cluster_that_asks_for_a_token(guarded: tuple[str, str], home: Path, tmp_path: Path) -> None:
    address, token = guarded
    storage = tmp_path / "runs"
    refused = submit(address, storage, RAY_AUTH_TOKEN=WRONG)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.endswith(
        f"Error: the Ray cluster at {address} does not accept the token of RAY_AUTH_TOKEN.\n{SET_TOKEN}\n"
    )
    assert not storage.exists(), "it is refused before anything is written"
    accepted = submit(address, storage, RAY_AUTH_TOKEN=token)  # without RAY_AUTH_MODE
    assert accepted.returncode == 0, accepted.stderr
    assert "  succeeded\n" in accepted.stdout
    written = b"".join(path.read_bytes() for path in storage.rglob("*") if path.is_file())
    assert token.encode() not in written
