"""A small causal language model on generated text: enough arithmetic per step for a step to be mostly torch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.data import TensorDataset

import scaler

VOCABULARY = 64


class Block(nn.Module):
    """Attention over what came before, then a feed-forward layer, each beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape ``[batch, tokens, width]`` that came in."""
        batch, tokens, width = x.shape
        parts = self.queries_keys_values(self.norm_attention(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.feed(self.norm_feed(x))


class LanguageModel(nn.Module):
    """Tokens in, logits of the next token out."""

    def __init__(self, *, width: int, heads: int, blocks: int, tokens: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[batch, tokens, VOCABULARY]`` for ``[batch, tokens]``."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return self.logits(self.norm(self.blocks(x)))


def text(num_samples: int, tokens: int) -> Tensor:
    """Return ``[num_samples, tokens]`` drawn from one fixed Markov chain, so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    chain = torch.softmax(3.0 * torch.randn(VOCABULARY, VOCABULARY, generator=generator), dim=1)
    drawn = torch.zeros(num_samples, tokens, dtype=torch.int64)
    for place in range(1, tokens):
        drawn[:, place] = torch.multinomial(chain[drawn[:, place - 1]], 1, generator=generator).squeeze(1)
    return drawn


def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Return the mean cross entropy of every next token."""
    (tokens,) = batch
    return cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def build(
    width: int = 128, heads: int = 4, blocks: int = 4, tokens: int = 64, num_samples: int = 1024
) -> scaler.Recipe:
    """Return the model and its text."""
    return scaler.Recipe(
        model=LanguageModel(width=width, heads=heads, blocks=blocks, tokens=tokens),
        train_data=TensorDataset(text(num_samples, tokens + 1)),
        loss=loss,
    )
