"""Mask secrets in everything that is written: job files, events, errors and addresses.

This protects against mistakes, not against attacks: what a recipe prints is written to the worker's log unchanged.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
SHORTEST_SECRET = 8  # characters of a secret in the environment; shorter values occur in ordinary text
SHORTEST_GIVEN = 4  # characters of a secret after "password="


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ALWAYS = _set(
    "password passwords passwd passphrase secret secrets credential credentials auth authorization "
    "apikey apikeys secretkey accesskey privatekey authtoken accesstoken"
)
# A name that ends in "key" is a secret if it contains one of these words.
_KEYS_TO = _set("api access secret private auth account encryption signing ssh master client service")
# A name that ends in "token" means a token of text, and no secret, if it contains one of these words.
_TOKENS_OF_TEXT = _set(
    "pad padding eos bos cls class sep unk mask special start stop end begin bot image per next first last new max "
    "min num register decoder text input output prompt target"
)
_PASSWORDS_OF = _set("db database user admin root proxy mail smtp ftp redis mysql postgres")
# A name that ends in one of these words describes a secret and is not one: auth_mode, password_file, token_count.
_ABOUT = _set(
    "mode type kind file files path dir folder sock socket url uri host name names env size count length len limit "
    "dim dims ttl timeout expiry index position policy provider method scheme enabled required rate weight loss"
)
_NO_SECRETS = _set("true false none null bearer basic")
_REFERENCE = re.compile(r"\$\{\w+\}")  # to an environment variable, in runtime_env.env_vars
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_IN_ADDRESS = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"']*):([^\s/@\"']+)@")
_IN_QUERY = re.compile(
    r"([?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid)=)[^&\s\"'#]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)([A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE)
_GIVEN = re.compile(
    r"""(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,99}?)(?P<between>["']?\s{0,3}[=:]\s{0,3})"""
    r"""(?:(?P<quote>["'])(?P<quoted>[^"'\n]+)(?P=quote)|(?P<bare>[^\s,;&"'()\[\]{}<>]++)(?![(\[]))"""
)


def looks_secret(name: str) -> bool:
    """Return whether the value of a key with this name is a secret, from the words in the name.

    Example:
        >>> [looks_secret(name) for name in ("api_key", "hfToken", "DB_PASSWORD", "auth")]
        [True, True, True, True]
        >>> [looks_secret(name) for name in ("tokenizer", "max_tokens", "pad_token", "sort_key", "author", "auth_mode")]
        [False, False, False, False, False, False]
    """
    words = _words(name)
    if not words or words[-1] in _ABOUT:
        return False
    before, last = words[:-1], words[-1]
    if not _ALWAYS.isdisjoint(words):
        return True
    if last in ("key", "keys") or words[-2:] == ["key", "id"]:
        return not _KEYS_TO.isdisjoint(before)
    if last == "token":
        return _TOKENS_OF_TEXT.isdisjoint(before)
    if last == "pass":
        return not _PASSWORDS_OF.isdisjoint(before)
    return last == "pwd" and (bool(before) or name == "pwd")  # PWD is the shell's working folder


def mask_text(text: str) -> str:
    """Return text with its secrets masked.

    Secrets are passwords in addresses, signatures in queries, values as in ``token=...``, and the values of environment
    variables with secret names.

    Example:
        >>> mask_text("ftp://me:hunter2@host/x failed; api_key: 'abcd1234'")
        "ftp://me:***@host/x failed; api_key: '***'"
    """
    for value in _secrets_of_the_environment():
        text = text.replace(value, MASK)
    text = _IN_ADDRESS.sub(rf"\1:{MASK}@", text)
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _GIVEN.sub(_without_value, text)


def mask_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which the values of secret keys, at any depth, are ``***``; ``mask_text`` masks other texts.

    true, false, null, empty texts and references such as ``${NAME}`` stay, because they are not secrets.

    Example:
        >>> mask_values({"lr": 0.1, "api_key": "abc", "login": {"user": "me", "password": 1234}, "use_auth": True})
        {'lr': 0.1, 'api_key': '***', 'login': {'user': 'me', 'password': '***'}, 'use_auth': True}
    """
    return {key: _masked(value, is_secret=looks_secret(str(key))) for key, value in values.items()}


def _masked(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(part, is_secret=is_secret or looks_secret(str(key))) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(part, is_secret=is_secret) for part in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if isinstance(value, str) and _REFERENCE.fullmatch(value):
        return value
    if is_secret:
        return MASK
    return mask_text(value) if isinstance(value, str) else value


def _words(name: str) -> list[str]:
    """Return the words of ``snake_case``, ``camelCase``, ``kebab-case`` and ``UPPER_CASE`` names, in lower case."""
    return [word.lower() for word in _WORDS.findall(name)]


def _secrets_of_the_environment() -> list[str]:
    """Return the values of environment variables with secret names, longest first, except paths of existing files."""
    found = [
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET
        and (looks_secret(name) or _words(name)[-1:] in (["key"], ["token"]))
        and name not in ("PWD", "OLDPWD")
        and not os.path.exists(value)
    ]
    return sorted(found, key=len, reverse=True)


def _without_value(match: re.Match[str]) -> str:
    """Return ``token=...`` with its value masked; unchanged if the name is not secret or the value too short."""
    value, quote = match["quoted"] or match["bare"], match["quote"] or ""
    kept = len(value) < SHORTEST_GIVEN or MASK in value or value.lower() in _NO_SECRETS
    if kept or not looks_secret(match["name"].rpartition(".")[2]):
        return match[0]
    return f"{match['name']}{match['between']}{quote}{MASK}{quote}"
