"""Find the token that a running Ray cluster asks for, and explain a refusal.

Ray reads the token from the first of RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, and
``~/.ray/auth_token``. It sends the token only with RAY_AUTH_MODE=token. scaler sets that mode when the variable is not
set, there is a token, and the cluster asks for one. With RAY_ENABLE_K8S_TOKEN_AUTH, Ray finds the token in Kubernetes,
and scaler does nothing.

Source: https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaler.errors import ClusterError

ANSWER_S = 3.0  # a head answers in milliseconds
# A call that every head answers, also with an empty message: it asks for all nodes.
ANY_CALL = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
_DEFAULT_FILE = "~/.ray/auth_token"
_SET_TOKEN = (
    "Set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file that holds it.\n"
    "On the head's machine, ray get-auth-token prints it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """The token that Ray would send, and where it comes from."""

    value: str = field(repr=False)  # empty: the source is missing or empty
    source: str  # for messages, such as "RAY_AUTH_TOKEN"


def find_token() -> Token:
    """Return the token of this process's environment, from the first source in Ray's order."""
    if value := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Token(value=value, source="RAY_AUTH_TOKEN")
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Token(value=_content(Path(path)), source=f"the file {path}, which RAY_AUTH_TOKEN_PATH names,")
    return Token(value=_content(Path(_DEFAULT_FILE).expanduser()), source=f"the file {_DEFAULT_FILE}")


def token_environment(address: str) -> Mapping[str, str]:
    """Return the variables to set, before Ray is imported, so that it sends the token that a cluster asks for.

    Args:
        address: ``host:port`` of a running cluster; any other address is left to Ray. With the mode set, a cluster
            without authentication lets this process connect, but ends its actors.
    """
    if "RAY_AUTH_MODE" in os.environ or _is_left_to_ray() or not find_token().value:
        return {}
    return {"RAY_AUTH_MODE": "token"} if ":" in address and _refuses(address, "") else {}


def asks_for_token(address: str) -> bool:
    """Return whether the cluster at ``host:port`` refuses calls without a token; False for any other address."""
    return ":" in address and _refuses(address, "")


def require_accepted(address: str) -> None:
    """Refuse a cluster that does not accept this process's token; Ray itself would try for 20 s.

    Args:
        address: ``host:port`` of a running cluster.

    Raises:
        ClusterError: the token is missing or wrong.
    """
    if _is_left_to_ray() or not _refuses(address, ""):
        return
    token = find_token().value if _mode() in ("token", "") else ""
    if not token or _refuses(address, token):
        raise token_refused(address)


def token_refused(address: str) -> ClusterError:
    """Return the error for a cluster for which this process has no token, or the wrong token."""
    token, mode = find_token(), _mode()
    if mode not in ("token", ""):
        return ClusterError(
            f"the Ray cluster at {address} asks for a token, but with RAY_AUTH_MODE = {mode} Ray sends none.",
            f"Set RAY_AUTH_MODE=token.\n{_SET_TOKEN}",
        )
    if token.value:
        source = token.source.rstrip(",")
        return ClusterError(f"the Ray cluster at {address} does not accept the token of {source}.", _SET_TOKEN)
    unset = "" if "RAY_AUTH_TOKEN_PATH" in os.environ else "RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH are not set, and "
    return ClusterError(
        f"there is no token for the Ray cluster at {address}: {unset}{token.source} is missing or empty.", _SET_TOKEN
    )


def _mode() -> str:
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def _is_left_to_ray() -> bool:
    return os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "").lower() in ("1", "true")


def _refuses(address: str, token: str) -> bool:
    """Return whether a head refuses calls with this token; False where it does not answer, for example with TLS."""
    import grpc  # with Ray; loading it takes 0.1 s

    metadata = (("authorization", f"Bearer {token}"),) if token else None
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(ANY_CALL)(b"", timeout=ANSWER_S, metadata=metadata)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _content(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
