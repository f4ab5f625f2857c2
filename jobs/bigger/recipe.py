"""A language model in the form of Llama 2, built without memory for its weights: scaler creates them block by block."""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu
from torch.utils.data import Dataset

import scaler

STD = 0.02  # of the first weights
ROTATION_BASE = 10_000.0


def build(
    data: str | None = None,
    context: int = 4096,
    vocabulary: int = 32_000,
    width: int = 5120,
    layers: int = 40,
    heads: int = 40,
    hidden: int = 13_824,
) -> scaler.Recipe:
    """Return a decoder and its text. The sizes are those of Llama 2 13B (Touvron et al. 2023).

    Args:
        data: a file of token numbers, two bytes each (numpy's ``uint16``), one text after the other. None: the bytes of
            the help texts of Python's own ``help()``, to try the job out.
        context: tokens of a sample.
        vocabulary: numbers of tokens.
        width: of a token's vector; a multiple of twice the heads.
        layers: blocks.
        heads: of the attention.
        hidden: width inside a block's perceptron.
    """
    tokens = _help_texts() if data is None else np.memmap(Path(data), dtype=np.uint16, mode="r")
    with torch.device("meta"):
        model = Decoder(vocabulary=vocabulary, width=width, layers=layers, heads=heads, hidden=hidden)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return scaler.Recipe(
        model=model,
        initialize=initialize,
        train_data=Sequences(tokens, context),
        loss=loss,
        tokens_per_sample=context,
        flops_per_sample=6.0 * context * (parameters + layers * width * context),  # attention sees half of the context
    )


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean loss of each next token, in nats."""
    logits = model(batch[:, :-1])
    return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def initialize(module: nn.Module) -> None:
    """Set the first weights of a module: normal numbers; those that add to the residual path are smaller."""
    if isinstance(module, nn.RMSNorm):
        nn.init.ones_(module.weight)
    elif isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD / getattr(module, "std_divisor", 1.0))


class Sequences(Dataset[Tensor]):
    """The text in samples of ``context`` tokens and the one that follows them."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self._tokens, self._context = tokens, context

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context

    def __getitem__(self, index: int) -> Tensor:
        start = index * self._context
        return torch.from_numpy(self._tokens[start : start + self._context + 1].astype(np.int64))


class Decoder(nn.Module):
    """Tokens in, logits of the next tokens out."""

    def __init__(self, *, vocabulary: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, hidden=hidden, layers=layers) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(samples, tokens, vocabulary)`` of ``(samples, tokens)``."""
        x = self.token(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Causal attention with rotated positions, and a gated perceptron, each beside a residual path."""

    def __init__(self, *, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.mix.std_divisor = self.down.std_divisor = (2 * layers) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape: (samples, tokens, width)."""
        parts = self.queries_keys_values(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(-2))
        gate, up = self.gate_up(self.perceptron_norm(x)).chunk(2, dim=-1)
        return x + self.down(silu(gate) * up)


def rotated(x: Tensor) -> Tensor:
    """Return vectors rotated by their positions (RoPE, Su et al. 2021): (samples, heads, tokens, size of a head).

    The angles are computed in float32 here: bf16 cannot tell positions above 256 apart.
    """
    half = x.shape[-1] // 2
    speeds = ROTATION_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * speeds
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def _help_texts() -> np.ndarray:
    text = "".join(topics[name] for name in sorted(topics)).encode()
    return np.frombuffer(text, dtype=np.uint8)
