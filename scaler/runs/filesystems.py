"""Reach a filesystem by its path or URI, and turn the errors of any filesystem into ``RunError``.

Every call of fsspec is inside a ``with storage_errors(...)`` block. The ``RunError`` says what was to be done,
where, why it failed, and what to type. No other module knows the errors of s3fs, botocore or another filesystem.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError, ScalerError
from scaler.masking import mask_text

# Exceptions by name, because their libraries may not be installed. The names of base classes are compared, too.
_CREDENTIALS = re.compile(
    "NoCredentials|PartialCredentials|CredentialRetrieval|TokenRetrieval|NoAuthToken|SSO|Login|ProfileNotFound|"
    "RefreshWithMFA|Metadata(Retrieval|Unsupported)|Unauthorized|DefaultCredentials|^RefreshError|ClientAuthentication"
)
_REFUSED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|InvalidClientTokenId|"
    r"RequestExpired|TokenRefreshRequired|\b40[13]\b|Forbidden|Unauthorized|Unable to locate credentials|"
    "account_name with credentials"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist|ContainerNotFound", re.IGNORECASE)
_NETWORK = re.compile(
    "HTTPClientError|ClientConnect|ServerDisconnected|ConnectionError|TimeoutError|gaierror|ServiceRequestError|"
    "TransportError|IncompleteRead|ResponseStreaming"
)

_BUSY = re.compile(
    r"\b50[0234]\b|SlowDown|InternalError|ServiceUnavailable|RequestTimeout|Throttl|TooManyRequests|\b429\b|"
    "reduce your request",
    re.IGNORECASE,
)

CONNECTIONS = 32  # to one storage: readers of many files send as many requests at a time
STORAGE_PATIENCE_S = 60.0  # a run survives that its storage is away for this long
RETRY_S = 1.0

_LOGINS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_EXTRAS = {"s3": "s3", "gs": "gs", "az": "abfs"}  # of pyproject.toml, with the package for the kind of URI
_SAME_AS = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "r2"})
T = TypeVar("T")
CHECK_STORAGE = "Check the storage, then try again."


def inside(base: str, name: str) -> str:
    """Return the URI or path of a name in the folder ``base``, which may be a bare ``memory://``."""
    return base + name if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def located(uri: str) -> str:
    """Return an absolute path, with ``~`` or ``~user`` replaced by the home folder; a URI is returned unchanged.

    Raises:
        RunError: there is no such home folder.
    """
    if "://" in uri:
        return uri
    path = os.path.expanduser(uri)
    if path.startswith("~"):
        home = path.split("/", 1)[0]
        raise RunError(f"{uri}: there is no home folder {home}.", f"To name a folder in the current folder: ./{uri}")
    return str(Path(path).absolute())


def reach(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI or path, and the path on it. Listings are not cached: other processes write too.

    Raises:
        RunError: fsspec does not know the kind of URI, or lacks the package for it.
    """
    if "://" not in uri:  # not through fsspec, which takes a "::" in a path for a chain of filesystems
        return LocalFileSystem(), str(Path(uri).absolute())
    remedy = "Use a folder or a URI that fsspec knows, and install the package that it asks for."
    with storage_errors(f"{mask_text(uri)}: cannot be reached", uri=uri, remedy=remedy):
        try:
            filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False, **_connections(uri))
        except ImportError as error:
            scheme = uri.partition("://")[0]
            if extra := _EXTRAS.get(_SAME_AS.get(scheme, scheme)):
                remedy = f"On this machine and every node of the cluster: pip install 'scaler[{extra}]'"
                raise RunError(f"{mask_text(uri)}: the package for {scheme}:// is not installed.", remedy) from error
            raise
    return filesystem, root


def _connections(uri: str) -> dict[str, Any]:
    """Return the option that lets s3fs send more than ten requests at a time, unless fsspec's configuration has it."""
    scheme = uri.partition("://")[0]
    if _SAME_AS.get(scheme, scheme) != "s3" or "config_kwargs" in fsspec.config.conf.get(scheme, {}):
        return {}
    return {"config_kwargs": {"max_pool_connections": CONNECTIONS}}


@contextmanager
def storage_errors(what: str, *, uri: str, remedy: str = CHECK_STORAGE) -> Iterator[None]:
    """Turn every error that a filesystem raises in a ``with`` block into a ``RunError``.

    A missing file stays a ``FileNotFoundError``, which the caller handles; a missing bucket becomes a ``RunError``.

    Args:
        what: what cannot be done, and where; the start of the error's text.
        uri: of the storage; its scheme tells which credentials it needs.
        remedy: what to type, for errors of an unknown kind.
    """
    try:
        yield
    except ScalerError:
        raise
    except Exception as error:  # filesystems raise exceptions of their own
        if isinstance(error, FileNotFoundError) and not _is_about(error, _NO_BUCKET):
            raise
        why, known = _explain(error, uri)
        raise RunError(f"{what}: {why}.", known or remedy) from error


def may_pass(error: BaseException) -> bool:
    """Return whether an error of a storage may pass: no answer, or an answer that says to try again later."""
    kinds = [kind.__name__ for link in error_chain(error) for kind in type(link).__mro__]
    return any(map(_NETWORK.search, kinds)) or _is_about(error, _BUSY)


def patiently(action: Callable[[], T], *, give_up: Callable[[], bool] = lambda: False) -> T:
    """Return what ``action`` returns; while the storage is away, try again for ``STORAGE_PATIENCE_S``.

    Args:
        action: reads or writes; may be called several times.
        give_up: asked after each failure; True: do not try again.

    Raises:
        ScalerError: what ``action`` raised last.
    """
    began = monotonic()
    while True:
        try:
            return action()
        except ScalerError as error:
            if not may_pass(error) or give_up() or monotonic() - began > STORAGE_PATIENCE_S:
                raise
        sleep(RETRY_S)


def reason(error: BaseException) -> str:
    """Return the reason of an error, without the path, which the message has already, and without a full stop.

    Example:
        >>> reason(ValueError("this is no  parquet file."))
        'this is no parquet file'
    """
    text = getattr(error, "strerror", None) or mask_text(" ".join(message_of(error).split()))
    return str(text).rstrip(".") or type(error).__name__


def names_in(uri: str, *, what: str) -> list[str]:
    """Return the names in a folder, sorted; an empty list where there is no such folder.

    Raises:
        RunError: it cannot be listed, or there is no such bucket.
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
    """Return the error of a storage in which no run can be made."""
    return RunError(f"{_no_run_in(storage)}: {reason}.", "Set storage to a folder that can be written.")


def make_folder(filesystem: Any, root: str, *, storage: str, uri: str) -> bool:
    """Make a new run's folder; return whether it is new.

    Raises:
        RunError: it cannot be made. A missing bucket is never made, because its name may be a typing error.
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
    """Return whether folders must be made before files; an object store would make buckets of them."""
    protocol = filesystem.protocol
    return _BUCKETS.isdisjoint([protocol] if isinstance(protocol, str) else protocol)


def _no_run_in(storage: str) -> str:
    return f"storage = {mask_text(storage)}: no run can be made there"


def _explain(error: Exception, uri: str) -> tuple[str, str]:
    """Return the reason of an error, and what to type; for an unknown kind of error, the second text is empty."""
    kinds = [kind.__name__ for link in error_chain(error) for kind in type(link).__mro__]
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
    if scheme and _is_about(error, _BUSY):
        return f"it answers with an error of its own ({reason(error)})", "Try again later."
    return reason(error), ""


def error_chain(error: BaseException, *, contexts: bool = False) -> Iterator[BaseException]:
    """Yield an error and its causes, each once.

    Args:
        error: the newest.
        contexts: without a ``__cause__``, follow ``__context__``: the error that was handled when the next was raised.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (link.__context__ if contexts else None)


def _is_about(error: BaseException, sign: re.Pattern[str]) -> bool:
    return any(sign.search(f"{type(link).__name__} {message_of(link)}") for link in error_chain(error))


def message_of(error: BaseException) -> str:
    """Return an error's message; empty if ``str(error)`` fails, as it does for some errors of libraries."""
    try:
        return str(error)
    except Exception:
        return ""
