"""The one door to storage: how a place is reached, and what any filesystem's error is in our words.

Nothing else in scaler knows what s3fs, botocore or another filesystem raises: every call of one stands in a ``with
storage_errors(...)`` block, which leaves as a ``RunError`` that says what was wanted, where, why not, and what to type.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError, ScalerError
from scaler.masking import mask_text

# Kinds of errors by name, because their libraries need not be installed; a subclass counts as its base.
_CREDENTIALS = re.compile(
    "NoCredentials|PartialCredentials|CredentialRetrieval|TokenRetrieval|NoAuthToken|SSO|Login|ProfileNotFound|"
    "RefreshWithMFA|Metadata(Retrieval|Unsupported)|Unauthorized|DefaultCredentials|^RefreshError|ClientAuthentication"
)
_REFUSED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|InvalidClientTokenId|"
    r"RequestExpired|TokenRefreshRequired|\b40[13]\b|Forbidden|Unauthorized|Unable to locate credentials"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist|ContainerNotFound", re.IGNORECASE)
_NETWORK = re.compile(
    "HTTPClientError|ClientConnect|ServerDisconnected|ConnectionError|TimeoutError|gaierror|ServiceRequestError|"
    "TransportError|IncompleteRead|ResponseStreaming"
)

_LOGINS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_SAME_AS = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "r2"})
SEE_TO_IT = "See to the storage, then try again."


def inside(base: str, name: str) -> str:
    """Return the URI or path of something in ``base``, which may be a bare ``memory://``."""
    return base + name if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def located(place: str) -> str:
    """Return a URI as it is, and a path absolute, its ``~`` or ``~user`` replaced by the home folder.

    Raises:
        RunError: there is no such home folder.
    """
    if "://" in place:
        return place
    path = os.path.expanduser(place)
    if path.startswith("~"):
        home = path.split("/", 1)[0]
        raise RunError(f"{place}: there is no home folder {home}.", f"For a folder of that name here: ./{place}")
    return str(Path(path).absolute())


def reach(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI or path, and the path on it. Another process may write there: listings are new.

    Raises:
        RunError: nothing here can reach it.
    """
    if "://" not in uri:  # not for fsspec to read: a "::" in a path would be a chain of filesystems
        return LocalFileSystem(), str(Path(uri).absolute())
    remedy = "Use a folder or a URI of a kind that fsspec knows, and install what it asks for."
    with storage_errors(f"{mask_text(uri)}: cannot be reached", uri=uri, remedy=remedy):
        filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return filesystem, root


@contextmanager
def storage_errors(what: str, *, uri: str, remedy: str = SEE_TO_IT) -> Iterator[None]:
    """Turn whatever a filesystem raises in a ``with`` block into a ``RunError``.

    That a file is not there stays a ``FileNotFoundError``, for the caller to tell; a bucket that is not there does not.

    Args:
        what: what was wanted, and where: the error's text begins with it.
        uri: of the place; says whose credentials it takes.
        remedy: what to type where the error is of no known kind.
    """
    try:
        yield
    except ScalerError:
        raise
    except Exception as error:  # any filesystem's own
        if isinstance(error, FileNotFoundError) and not _is_about(error, _NO_BUCKET):
            raise
        why, known = _explain(error, uri)
        raise RunError(f"{what}: {why}.", known or remedy) from error


def reason(error: BaseException) -> str:
    """Why a filesystem or a reader refused, without the path, which the message names itself, or a full stop.

    Example:
        >>> reason(ValueError("this is no  parquet file."))
        'this is no parquet file'
    """
    told = getattr(error, "strerror", None) or mask_text(" ".join(_text(error).split()))
    return str(told).rstrip(".") or type(error).__name__


def names_in(uri: str, *, what: str) -> list[str]:
    """Return the names in a folder, sorted; none when it is not there.

    Raises:
        RunError: it cannot be listed, or its bucket is not there.
    """
    filesystem, root = reach(uri)
    if isinstance(filesystem, LocalFileSystem) and not Path(root).exists():
        return []
    try:
        with storage_errors(f"{what}: cannot be listed", uri=uri, remedy="Give the folder that holds the runs."):
            paths = filesystem.ls(root, detail=False)
    except FileNotFoundError:
        return []
    return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)


def not_made(storage: str, reason: str) -> RunError:
    """Return the error of a storage that takes no runs."""
    return RunError(f"{_no_run_in(storage)}: {reason}.", "Set storage to a folder that can be written.")


def make_folder(filesystem: Any, root: str, *, storage: str, uri: str) -> bool:
    """Make a new run's folder; return whether it is new.

    Raises:
        RunError: it cannot be made. A bucket that is not there is never made: its name may be a typing error.
    """
    try:
        with storage_errors(_no_run_in(storage), uri=uri, remedy="Set storage to a folder that can be written."):
            if not has_folders(filesystem):
                return not filesystem.ls(root, detail=False)
            try:
                filesystem.makedirs(root, exist_ok=False)
            except FileExistsError:
                return False
    except FileNotFoundError as error:
        if has_folders(filesystem):
            raise not_made(storage, reason(error)) from error
    return True


def has_folders(filesystem: Any) -> bool:
    """Whether folders must be made; in an object store they would be buckets."""
    protocol = filesystem.protocol
    return _BUCKETS.isdisjoint([protocol] if isinstance(protocol, str) else protocol)


def _no_run_in(storage: str) -> str:
    return f"storage = {mask_text(storage)}: no run can be made there"


def _explain(error: Exception, uri: str) -> tuple[str, str]:
    """Why storage refused, and what to type; the latter is empty where the error is of no known kind."""
    kinds = [kind.__name__ for link in _chain(error) for kind in type(link).__mro__]
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if _is_about(error, _NO_BUCKET):
        return "there is no such bucket", "Make the bucket, or correct its name."
    is_refused = isinstance(error, PermissionError) and getattr(error, "errno", None) is None
    if scheme and (any(map(_CREDENTIALS.search, kinds)) or is_refused or _is_about(error, _REFUSED)):
        login = _LOGINS.get(_SAME_AS.get(scheme, scheme), "its credentials")
        return (
            f"its credentials are missing or not accepted ({reason(error)})",
            f"Set {login} to those of an account that may read and write there.",
        )
    if scheme and any(map(_NETWORK.search, kinds)):
        endpoint = " and AWS_ENDPOINT_URL" if _SAME_AS.get(scheme, scheme) == "s3" else ""
        return f"it does not answer ({reason(error)})", f"Check the network{endpoint}, then try again."
    return reason(error), ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, as Python prints them."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _is_about(error: BaseException, sign: re.Pattern[str]) -> bool:
    return any(sign.search(f"{type(link).__name__} {_text(link)}") for link in _chain(error))


def _text(error: BaseException) -> str:
    """An error's text; some libraries' errors cannot be printed when they lack an argument."""
    try:
        return str(error)
    except Exception:
        return ""
