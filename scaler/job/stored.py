"""Compare jobs by the text that ``dump_job`` wrote, without reading its YAML, which takes milliseconds a job."""

from collections.abc import Callable, Iterator


def stored_lines(text: str, *, keep: Callable[[str], bool]) -> str:
    """Return the lines of a dumped job that belong to some keys.

    Two jobs with the same lines have the same values of these keys. Jobs with other lines may still mean the same, such
    as an optimizer's default that only one of them gives.

    Args:
        text: what ``dump_job`` returned.
        keep: whether a dotted key, such as ``train.seed``, is compared; asked for every line.

    Example:
        >>> text = "name: digits\\ntrain:\\n  epochs: 3.0\\n  seed: 0\\ngroups:\\n- match: bias\\n"
        >>> stored_lines(text, keep=lambda key: key.startswith(("train.seed", "groups")))
        '  seed: 0\\ngroups:\\n- match: bias'
    """
    return "\n".join(line for key, line in _keys_and_lines(text) if keep(key))


def stored_keys(text: str) -> frozenset[str]:
    """Return the dotted keys of a dumped job; an older scaler wrote fewer than this one.

    Example:
        >>> sorted(stored_keys("name: digits\\ntrain:\\n  epochs: 3.0\\n"))
        ['name', 'train', 'train.epochs']
    """
    return frozenset(key for key, _ in _keys_and_lines(text))


def _keys_and_lines(text: str) -> Iterator[tuple[str, str]]:
    path = [""]
    for line in text.splitlines():
        inner = line.lstrip(" ")
        if not inner.startswith("- ") and (key := inner.partition(":"))[1]:
            path = [*path[: (len(line) - len(inner)) // 2], key[0]]
        yield ".".join(path), line
