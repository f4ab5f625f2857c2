"""Every error of a filesystem becomes a ``RunError`` with what failed, where, and what to type."""

import errno
import inspect
from collections.abc import Callable
from datetime import datetime
from secrets import token_hex
from typing import Any

import fsspec.exceptions
import pytest

from scaler.errors import RunError
from scaler.metrics.next_attempt import next_attempt
from scaler.runs import RunFolder, RunState, find_run, list_runs
from scaler.runs.filesystems import storage_errors
from scaler.runs.lease import Lease, present_state

NOON = datetime(2026, 1, 2, 12, 0, 5)


def subclasses(of: type[BaseException]) -> set[type[BaseException]]:
    found = set(of.__subclasses__())
    return found.union(*(subclasses(kind) for kind in found)) | {of}


def made(kind: type[BaseException]) -> BaseException:
    """An exception of a class, whatever its constructor wants."""
    for arguments in ((), ("boom",), (errno.EIO, "boom")):
        try:
            return kind(*arguments)
        except Exception:  # it wants something else
            continue
    return kind.__new__(kind, "boom")


def storage_exceptions() -> list[type[Exception]]:
    """Every class of the installed botocore and fsspec, of Python's own errors of files and networks, and aiohttp's."""
    found: set[type[BaseException]] = {kind for kind in subclasses(OSError) if kind.__module__ == "builtins"}
    found |= {value for value in vars(fsspec.exceptions).values() if inspect.isclass(value)}
    found |= {Exception, ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError, EOFError}
    botocore = pytest.importorskip("botocore.exceptions")
    found |= {value for value in vars(botocore).values() if inspect.isclass(value)}
    aiohttp = pytest.importorskip("aiohttp")
    found |= {value for value in vars(aiohttp).values() if inspect.isclass(value)}
    raised = [kind for kind in found if issubclass(kind, Exception) and not issubclass(kind, Warning)]
    return sorted(raised, key=lambda kind: (kind.__module__, kind.__name__))


KINDS = storage_exceptions()

USES: dict[str, Callable[[RunFolder], Any]] = {
    "write": lambda folder: folder.write("plan.json", "{}"),
    "append": lambda folder: folder.append_json("events.jsonl", [{"n": 1}]),
    "read": lambda folder: folder.read("status.json"),
    "rows": lambda folder: list(folder.rows("events.jsonl")),
    "state": lambda folder: present_state(folder),
    "set_state": lambda folder: folder.set_state(RunState.FAILED),
    "names": lambda folder: folder.names("metrics"),
    "size": lambda folder: folder.size("status.json"),
    "exists": lambda folder: folder.exists("status.json"),
    "rename": lambda folder: folder.rename("status.json", "other"),
    "remove": lambda folder: folder.remove("status.json"),
    "remove_folder": lambda folder: folder.remove_folder("metrics"),
    "attempts": next_attempt,
    "claim": lambda folder: Lease.claim(folder),
    "list": lambda folder: list_runs(folder.uri.rpartition("/")[0]),
    "find": lambda folder: find_run(folder.uri),
    "create": lambda folder: RunFolder.create(folder.uri.rpartition("/")[0], name="new", now=NOON),
}
CALLS = ("open", "ls", "info", "size", "makedirs", "mv", "cp_file", "rm_file", "rm", "cat_file", "pipe_file")


@pytest.mark.parametrize("use", USES)
def test_every_error_of_a_filesystem_becomes_a_run_error(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.runs.lease.SETTLE_S", 0.0)
    folder = RunFolder.create(f"memory://{token_hex(8)}/runs", name="digits", now=NOON)
    folder.set_state(RunState.RUNNING)
    folder.append_json("events.jsonl", [{"n": 0}])
    folder.write("metrics/00000000-00000000.parquet", b"PAR1")
    filesystem, _ = folder.filesystem("")
    escaped = []
    for kind in KINDS:
        error = made(kind)

        def refuse(*_: object, raised: BaseException = error, **__: object) -> None:
            raise raised

        with monkeypatch.context() as patched:
            for call in CALLS:
                patched.setattr(type(filesystem), call, refuse)
            try:
                USES[use](folder)
            except BaseException as raised:
                ours = isinstance(raised, RunError) and raised.problem and raised.remedy and raised.exit_code == 5
                escaped += [] if ours else [(kind, raised)]
            else:  # an answer: there is no such file
                assert isinstance(error, FileNotFoundError), kind
    assert escaped == []
    assert len(KINDS) > 150


S3 = "s3://runs/team"
LOGIN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to those of an account that may read and write "
    "there."
)


def text_of(error: Exception, *, cause: Exception | None = None, uri: str = S3) -> str:
    with pytest.raises(RunError) as caught, storage_errors("storage = s3://runs/team: cannot be listed", uri=uri):
        raise error from cause
    return str(caught.value).removeprefix("storage = s3://runs/team: cannot be listed: ")


def test_missing_wrong_and_revoked_credentials_have_one_message() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    denied = exceptions.ClientError({"Error": {"Code": "ExpiredToken", "Message": "expired"}}, "ListObjectsV2")
    for error, why in (
        (exceptions.NoCredentialsError(), "Unable to locate credentials"),
        (
            exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY",
        ),
        (exceptions.ProfileNotFound(profile="nosuch"), "The config profile (nosuch) could not be found"),
        (PermissionError("Forbidden"), "Forbidden"),
        (denied, "An error occurred (ExpiredToken) when calling the ListObjectsV2 operation: expired"),
        (OSError(errno.EINVAL, "The provided token is malformed (InvalidToken)"), None),
    ):
        text = text_of(error)
        assert text.startswith("its credentials are missing or not accepted (")
        assert text.endswith(f").\n  {LOGIN}")
        assert why is None or f"({why})" in text


def test_a_missing_bucket_and_a_missing_file_are_different_errors() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    cause = exceptions.ClientError({"Error": {"Code": "NoSuchBucket", "Message": "none"}}, "ListObjectsV2")
    missing = FileNotFoundError("The specified bucket does not exist")
    assert text_of(missing, cause=cause) == "there is no such bucket.\n  Make the bucket, or correct its name."
    with pytest.raises(FileNotFoundError), storage_errors("x", uri=S3):
        raise FileNotFoundError("runs/team/status.json")


def test_an_endpoint_that_does_not_answer_is_named_with_what_to_check() -> None:
    exceptions = pytest.importorskip("botocore.exceptions")
    error = exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9/")
    assert text_of(error) == (
        'it does not answer (Could not connect to the endpoint URL: "http://127.0.0.1:9/").\n'
        "  Check the network and AWS_ENDPOINT_URL, then try again."
    )
    assert (
        text_of(TimeoutError(), uri="gs://runs")
        == "it does not answer (TimeoutError).\n  Check the network, then try again."
    )


def test_each_kind_of_storage_names_its_credentials() -> None:
    remedies = {
        uri: text_of(PermissionError("Forbidden"), uri=uri).splitlines()[1].split(" to those")[0]
        for uri in ("gs://b/x", "gcs://b/x", "abfs://b/x", "s3a://b/x", "ftp://host/x")
    }
    assert remedies == {
        "gs://b/x": "  Set GOOGLE_APPLICATION_CREDENTIALS",
        "gcs://b/x": "  Set GOOGLE_APPLICATION_CREDENTIALS",
        "abfs://b/x": "  Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        "s3a://b/x": "  Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,",
        "ftp://host/x": "  Set its credentials",
    }
