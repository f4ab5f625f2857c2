"""Recipes of the kinds that public training scripts have, small: their data, batches, losses and evaluations."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import Dataset, IterableDataset

from scaler import Eval, Recipe
from scaler.training.recipe.load import load_recipe

JOBS = Path(__file__).parents[2] / "jobs"

SIZE, HELD_OUT, WORDS = 52, 13, 12  # no multiple of any batch
Made = tuple[Recipe, list[int]]  # and the list that notes the samples that the loss has used


def note(used: list[int], numbers: list[int]) -> None:
    if torch.is_grad_enabled():  # not in evaluations
        used.extend(numbers)


class Texts(Dataset[Any]):
    """Token sequences of different lengths; the label is whether most tokens are high."""

    def __init__(self, size: int, *, first: int = 0) -> None:
        self.size, self.first = size, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.first + index)
        length = int(torch.randint(3, 9, (), generator=generator))
        tokens = torch.randint(1, WORDS, (length,), generator=generator)
        return {"ids": tokens, "label": int(tokens.float().mean() > WORDS / 2), "number": index}


class ByLength:
    """The indices sorted by length in chunks, which are drawn anew in each epoch."""

    def __init__(self, data: Texts) -> None:
        self.lengths = [len(data[index]["ids"]) for index in range(len(data))]

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        for chunk in torch.randperm(len(self.lengths)).split(20):
            yield from sorted(chunk.tolist(), key=self.lengths.__getitem__)


def packed_rnn() -> Made:
    """An LSTM on packed sequences, in batches of similar lengths."""
    used: list[int] = []
    data = Texts(SIZE)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.out = nn.Embedding(WORDS, 8), nn.LSTM(8, 8), nn.Linear(8, 2)

        def forward(self, packed: PackedSequence) -> Tensor:
            _, (hidden, _) = self.rnn(packed._replace(data=self.embed(packed.data)))
            found: Tensor = self.out(hidden[-1])
            return found

    def collate(samples: list[dict[str, Any]]) -> Any:
        packed = pack_sequence([sample["ids"] for sample in samples], enforce_sorted=False)
        return packed, torch.tensor([sample["label"] for sample in samples]), [one["number"] for one in samples]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        note(used, batch[2])
        return cross_entropy(model(batch[0]), batch[1])

    return Recipe(
        model=Net(),
        train_data=data,
        sampler=ByLength(data),
        eval_data=Texts(HELD_OUT, first=1000),
        loss=loss,
        collate=collate,
    ), used


def captioning() -> Made:
    """Captions that are sampled token by token in the evaluation, and scored over all samples."""
    used: list[int] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.embed = nn.Linear(2, 8), nn.Embedding(WORDS, 8)
            self.out = nn.Linear(8, WORDS)

        def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
            found: Tensor = self.out(torch.tanh(self.image(image).unsqueeze(1) + self.embed(tokens)))
            return found

        def generate(self, image: Tensor) -> Tensor:
            """Return a caption of random length: it ends with token 0, or after 8 tokens."""
            tokens = [torch.tensor(1)]
            while len(tokens) < 8 and tokens[-1] > 0:
                logits = self(image.unsqueeze(0), tokens[-1].reshape(1, 1))[0, 0]
                tokens.append(torch.multinomial(logits.softmax(0), 1)[0])
            return torch.stack(tokens)

    def collate(samples: list[dict[str, Any]]) -> Any:
        ids = pad_sequence([sample["ids"] for sample in samples], batch_first=True)
        images = torch.tensor([[sample["label"], len(sample["ids"]) / 8] for sample in samples])
        return images, ids, [sample["number"] for sample in samples]

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        images, ids, numbers = batch
        note(used, numbers)
        logits, targets = model(images, ids[:, :-1]), ids[:, 1:]
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0, reduction="sum")
        return total, (targets > 0).sum()

    def evaluate(model: Any, batch: Any) -> dict[str, Any]:
        images, ids, _ = batch
        return {"generated": [model.generate(image) for image in images], "true": list(ids)}

    def metrics(generated: list[Tensor], true: list[Tensor]) -> dict[str, float]:
        shared = [len(set(ours.tolist()) & set(one.tolist())) for ours, one in zip(generated, true, strict=True)]
        return {"shared": sum(shared) / len(shared), "length": sum(map(len, generated)) / len(generated)}

    held_out = Eval(data=Texts(HELD_OUT, first=1000), batch_size=3)
    return Recipe(
        model=Net(),
        train_data=Texts(SIZE),
        evals={"captions": held_out},
        loss=loss,
        evaluate=evaluate,
        metrics=metrics,
        collate=collate,
    ), used


class Windows(Dataset[Any]):
    """Windows of one long text, as backpropagation through time reads it."""

    def __init__(self, count: int) -> None:
        self.text = torch.randint(0, WORDS, (count * 5 + 1,), generator=torch.Generator().manual_seed(4))

    def __len__(self) -> int:
        return (len(self.text) - 1) // 5

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.text[5 * index : 5 * index + 5], self.text[5 * index + 1 : 5 * index + 6], index


def word_model() -> Made:
    """A word language model: the text is cut into lanes, and a step has the next window of each lane."""
    used: list[int] = []
    lanes = 13
    order = [lane * (SIZE // lanes) + window for window in range(SIZE // lanes) for lane in range(lanes)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.out = nn.Embedding(WORDS, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, WORDS)

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.out(self.rnn(self.embed(ids))[0])
            return found

    def sums(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), reduction="sum"), batch[1].numel()

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        note(used, batch[2].tolist())
        return sums(model, batch)

    return Recipe(
        model=Net(),
        train_data=Windows(SIZE),
        sampler=order,
        eval_data=Windows(HELD_OUT),
        loss=loss,
        evaluate=lambda model, batch: {"nll": sums(model, batch)},
        metrics=lambda nll: {"perplexity": math.exp(nll)},
    ), used


def classification() -> Made:
    """Padded dict batches as a transformer gets them, and an F1 on two sets."""
    used: list[int] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
            mask = attention_mask.unsqueeze(2)
            logits = self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
            return {"loss": cross_entropy(logits, labels), "logits": logits}

    def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = pad_sequence([sample["ids"] for sample in samples], batch_first=True)
        labels, numbers = (torch.tensor([sample[name] for sample in samples]) for name in ("label", "number"))
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels, "numbers": numbers}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        numbers = batch.pop("numbers")
        note(used, numbers.tolist())
        found: Tensor = model(**batch)["loss"]
        return found

    def evaluate(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
        batch.pop("numbers", None)
        found = model(**batch)
        return {"loss": found["loss"], "predictions": found["logits"].argmax(1), "labels": batch["labels"]}

    def f1(predictions: Tensor, labels: Tensor) -> dict[str, float]:
        right = int(((predictions == 1) & (labels == 1)).sum())
        return {"f1": 2 * right / max(1, int(predictions.sum() + labels.sum()))}

    return Recipe(
        model=Net(),
        train_data=Texts(SIZE),
        evals={"matched": Texts(HELD_OUT, first=1000), "mismatched": Texts(3, first=2000)},
        loss=loss,
        evaluate=evaluate,
        metrics=f1,
        collate=collate,
    ), used


class Images(Dataset[Any]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, 8, 8, generator=generator)
        return image + index % 4, index % 4, index


def images() -> Made:
    """A convolutional network whose BatchNorm is frozen; the job drops the last, short batch of an epoch."""
    used: list[int] = []
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6).eval(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )

    def loss(model: nn.Module, batch: Any) -> Tensor:
        note(used, batch[2].tolist())
        assert [module.training for module in model][:3] == [model[0].training, False, model[2].training]
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        top = model(batch[0]).topk(2, dim=1).indices
        return {"top2": (top == batch[1].unsqueeze(1)).any(1).float().mean()}

    held_out = Eval(data=Images(HELD_OUT), batch_size=5)
    return Recipe(
        model=model, train_data=Images(SIZE), evals={"val": held_out}, loss=loss, evaluate=evaluate, keep_modes=True
    ), used


class Forward(IterableDataset[Any]):
    """A source that is read forward; it can save its place, and be read in parts."""

    def __init__(self, size: int = SIZE, *, step: int = 1, first: int = 0) -> None:
        self.numbers = range(first, size, step)
        self.epoch, self.position, self.yielded = 0, 0, 0

    def __len__(self) -> int:
        return len(self.numbers)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def shard(self, num_shards: int, index: int) -> "Forward":
        return Forward(self.numbers.stop, step=num_shards, first=index)

    def __iter__(self) -> Iterator[Any]:
        for self.position in range(self.position + 1, len(self.numbers) + 1):  # noqa: B020
            self.yielded += 1
            number = self.numbers[self.position - 1]
            values = torch.tensor([float(number % 5), float(number % 3)])
            yield values, number % 2, number + self.epoch * self.numbers.stop
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def stream() -> Made:
    used: list[int] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        note(used, (batch[2] % SIZE).tolist())
        return cross_entropy(model(batch[0]), batch[1])

    return Recipe(model=nn.Linear(2, 2), train_data=Forward(), loss=loss), used


def detection() -> Made:
    """The job of detection: images and boxes in lists, and an average precision over all images."""
    used: list[int] = []
    job = load_recipe("recipe:build", folder=JOBS / "detection", arguments={"width": 4, "num_samples": SIZE})
    squares = type(job.train_data)
    numbers = {float(job.train_data[number][0].sum()): number for number in range(SIZE)}

    def loss(model: nn.Module, batch: Any) -> Any:
        note(used, [numbers[float(image.sum())] for image in batch[0]])
        return job.loss(model, batch)

    held_out = squares(HELD_OUT, first=10**6)  # type: ignore[call-arg]
    return replace(job, loss=loss, evals={"few": held_out, "cut": Eval(data=held_out, batch_size=5)}), used


KINDS = {
    "detection": detection,
    "packed_rnn": packed_rnn,
    "captioning": captioning,
    "word_model": word_model,
    "classification": classification,
    "images": images,
    "stream": stream,
}
