"""A small GPT on characters: the help texts of Python's own ``help()``, which every Python has."""

from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, scaled_dot_product_attention
from torch.utils.data import TensorDataset

import scaler

EVAL_EVERY = 8  # one topic of so many is for evaluation
TRAIN_SIZE, EVAL_SIZE = 6400, 576  # blocks; the texts grow from one Python to the next, so the rest is left out
NO_TARGET = -100  # what cross_entropy leaves out


def build(context: int = 64, width: int = 64, layers: int = 2, heads: int = 4) -> scaler.Recipe:
    """Return a GPT and the help texts, cut into blocks.

    Args:
        context: characters that the model sees, and the length of a block. The last block of a text is shorter and
            padded; the loss is weighted by the characters that are there.
        width: of the embedding; a multiple of ``heads``.
        layers: transformer blocks.
        heads: of the attention.
    """
    names = sorted(topics)
    alphabet = sorted(set("".join(topics.values())))
    numbers = {character: number for number, character in enumerate(alphabet)}
    train = [name for place, name in enumerate(names) if place % EVAL_EVERY]
    evaluation = [name for place, name in enumerate(names) if place % EVAL_EVERY == 0]
    return scaler.Recipe(
        model=GPT(characters=len(alphabet), context=context, width=width, layers=layers, heads=heads),
        train_data=_blocks(train, numbers, context, most=TRAIN_SIZE),
        eval_data=_blocks(evaluation, numbers, context, most=EVAL_SIZE),
        loss=loss,
        evaluate=lambda model, batch: {"loss": loss(model, batch)},
        tokens_per_sample=context,
        sequence_length=shorter,
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of a batch's characters in nats, and their number, which is its weight."""
    characters, targets = batch
    logits = model(characters)
    total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    return total, (targets != NO_TARGET).sum()


def shorter(batch: tuple[Tensor, Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    """Return the first characters of each block, and the characters that follow them."""
    characters, targets = batch
    return characters[:, :tokens], targets[:, :tokens]


class GPT(nn.Module):
    """A transformer that predicts the next character; layer norm first, no dropout, positions learnt."""

    def __init__(self, *, characters: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(characters, width)
        self.position = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Block(width=width, heads=heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits of the next characters: (samples, length, alphabet) of (samples, length <= context)."""
        return self.head(self.norm(self.blocks(self.token(characters) + self.position[: characters.shape[1]])))


class Block(nn.Module):
    """Causal attention and a two-layer perceptron, each beside a residual path."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape: (samples, context, width)."""
        parts = self.queries_keys_values(self.norms[0](x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(-2))
        return x + self.perceptron(self.norms[1](x))


def _blocks(names: list[str], numbers: dict[str, int], context: int, *, most: int) -> TensorDataset:
    """Return the first blocks of the texts of some topics: their characters, and the characters that follow them."""
    inputs, targets = [], []
    for name in names:
        text = torch.tensor([numbers[character] for character in topics[name]])
        for part in text[:-1].split(context):
            inputs.append(pad(part, (0, context - len(part))))
        for part in text[1:].split(context):
            targets.append(pad(part, (0, context - len(part)), value=NO_TARGET))
    return TensorDataset(torch.stack(inputs[:most]), torch.stack(targets[:most]))
