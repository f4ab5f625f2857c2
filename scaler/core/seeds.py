"""Seeds for the several streams of random numbers of one job."""

from hashlib import blake2b


def stream_seed(seed: int, stream: str, index: int) -> int:
    """Return the seed of one stream, in [0, 2**32).

    torch's generator on the CPU keeps only the low 32 bits of a seed, so packing several numbers into 64 would lose
    some of them without a word; a hash uses all of each.

    Args:
        seed: the job's.
        stream: what it is for, such as ``order`` or ``rank``.
        index: which one: the epoch, the rank.

    Example:
        >>> stream_seed(0, "order", 1) == stream_seed(0, "order", 1) != stream_seed(1, "order", 1)
        True
    """
    return int.from_bytes(blake2b(f"{stream} {seed} {index}".encode(), digest_size=4).digest(), "big")
