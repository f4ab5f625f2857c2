"""Seeds for the independent streams of random numbers of a job."""

from hashlib import blake2b


def stream_seed(seed: int, stream: str, index: int) -> int:
    """Return the seed of one stream, in [0, 2**32).

    The seed is a hash of all three arguments. torch's generator on the CPU keeps only the low 32 bits of a seed, so a
    combination of several numbers into 64 bits would silently lose some.

    Args:
        seed: the job's seed.
        stream: the purpose of the stream, such as ``order`` or ``rank``.
        index: number within the stream: the epoch or the rank.

    Example:
        >>> stream_seed(0, "order", 1) == stream_seed(0, "order", 1) != stream_seed(1, "order", 1)
        True
    """
    return int.from_bytes(blake2b(f"{stream} {seed} {index}".encode(), digest_size=4).digest(), "big")
