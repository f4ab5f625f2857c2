"""Whether a GPU computes in fp32 or in TF32, which has fp32's range and 10 bits of mantissa instead of 23."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def allow_tf32(allowed: bool) -> None:
    """Let matrix multiplications and convolutions of fp32 tensors use TF32 in this process, or forbid it.

    The names are those of torch before 2.9, because torch's compiler reads them.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """Compute fp32 in full on a GPU inside a ``with`` block, so that two ways to compute a value can be compared.

    By default torch uses TF32 for convolutions. The settings are restored afterwards.

    Args:
        device: of the model; nothing is done on the CPU.
    """
    switches = _switches() if device.type == "cuda" else []
    before = [getattr(owner, name) for owner, name, _ in switches]
    for owner, name, off in switches:
        setattr(owner, name, off)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Return each setting of torch: its owner, its name and the value without TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # from torch 2.9 on; the older names raise once a recipe has used the newer ones
        return [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return [(owner, "allow_tf32", False) for owner in (matmul, cudnn)]
