"""Scripts that train on text: language models, classification, sequences, captions, and pairs of text and image."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

import scaler  # +
from kinds import Kind, classes, numbers, parallel, rank, share_of, sum_of, world_size
from scaler.job import Job

SAMPLES, TOKENS, LENGTH, WIDTH = 96, 11, 8, 16


class GPT(nn.Module):
    """A causal language model of one block; no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(64, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embed.weight  # tied, as in GPT-2
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        h = self.block(self.embed(x) + self.place.weight[:length], src_mask=mask, is_causal=True)
        logits = self.head(h)
        return logits, F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)


def text(samples: int = SAMPLES) -> Tensor:
    """Return a text of tokens: each is the one before plus one or two."""
    return classes(0, samples * LENGTH + 1, 2).add(1).cumsum(0) % TOKENS


class Characters(Dataset[Any]):
    """Pieces of a text, each with the piece that is one token later."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        piece = text()[index * LENGTH : index * LENGTH + LENGTH + 1]
        return piece[:-1], piece[1:]


def mingpt(job: Job) -> Any:
    """A sampler for each process, groups with and without weight decay, and clipped gradients."""
    torch.manual_seed(1)
    data, net = Characters(), GPT()
    model = parallel(net)
    decay = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer: Any = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, y in loader:
            _, loss = model(x, y)
            scaler.record(loss=loss)  # +
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return run


def nanogpt(job: Job) -> Any:
    """No loader: random places in a text. bfloat16, accumulated and clipped gradients, and a ``GradScaler``."""
    torch.manual_seed(1)
    model: Any = parallel(GPT())
    torch.manual_seed(1337 + rank())
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    grad_scaler = torch.amp.GradScaler("cpu", enabled=False)
    run = scaler.start(job, num_samples=SAMPLES)  # +
    model, optimizer = run.prepare(model, optimizer)  # +
    tokens, batch_size, micro_steps = text(), 4, 4 // world_size()
    for _ in range(12):
        for micro in range(micro_steps):
            if world_size() > 1:
                model.require_backward_grad_sync = micro == micro_steps - 1
            places = torch.randint(len(tokens) - LENGTH, (batch_size,))
            x, y = (torch.stack([tokens[p + o : p + o + LENGTH] for p in places]) for o in (0, 1))
            run.count(len(x))  # +
            with torch.autocast("cpu", torch.bfloat16):
                _, loss = model(x, y)
            scaler.record(loss=loss)  # +
            grad_scaler.scale(loss / micro_steps).backward()
        grad_scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        grad_scaler.step(optimizer)
        grad_scaler.update()
        optimizer.zero_grad(set_to_none=True)
    return run


class Shards:
    """Walks through a text; each process reads the batches at its own places."""

    def __init__(self, batch: int) -> None:
        self.tokens, self.batch, self.at = text(), batch, batch * LENGTH * rank()

    def next_batch(self) -> tuple[Tensor, Tensor]:
        size = self.batch * LENGTH
        piece = self.tokens[self.at : self.at + size + 1]
        self.at += size * world_size()
        if self.at + size + 1 > len(self.tokens):
            self.at = size * rank()
        return piece[:-1].view(self.batch, LENGTH), piece[1:].view(self.batch, LENGTH)


def build_nanogpt(job: Job) -> Any:
    """A loader of the script's own, a fixed number of steps, accumulated gradients, a validation on all processes."""
    torch.manual_seed(1)
    model: Any = parallel(GPT())
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    run = scaler.start(job, num_samples=SAMPLES)  # +
    model, optimizer = run.prepare(model, optimizer)  # +
    batch_size, micro_steps = 4, 4 // world_size()
    shards, held_out = Shards(batch_size), Shards(batch_size)
    for step in range(12):
        if step % 6 == 0:
            with torch.no_grad():
                [total] = sum_of(float(model(*held_out.next_batch())[1]))
            run.evaluated(loss=total / world_size())  # +
        optimizer.zero_grad()
        for micro in range(micro_steps):
            x, y = shards.next_batch()
            run.count(len(x))  # +
            if world_size() > 1:
                model.require_backward_grad_sync = micro == micro_steps - 1
            _, loss = model(x, y)
            scaler.record(loss=loss)  # +
            (loss / micro_steps).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return run


class Sentences(Dataset[Any]):
    """Sentences of different lengths, as a tokenizer returns them, with a class."""

    def __init__(self, samples: int, *, seed: int = 0) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = (index * 3 + self.seed) % TOKENS
        ids = torch.arange(start, start + 3 + index % 6) % TOKENS
        return {"input_ids": ids, "label": start % 2}


def padded(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch with an attention mask; labels of padding are -100."""
    ids = [sample["input_ids"] for sample in samples]
    mask = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    labels = pad_sequence(ids, batch_first=True, padding_value=-100)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": mask,
        "labels": labels,
        "label": torch.tensor([sample["label"] for sample in samples]),
    }


class CausalLM(nn.Module):
    """Takes a batch by name and returns a loss over its tokens, as a model of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, label: Tensor) -> Any:
        logits, loss = self.gpt(input_ids[:, :-1], labels[:, 1:])
        return SimpleNamespace(logits=logits, loss=loss).__dict__


def hf_causal_lm(job: Job) -> Any:
    """Batches by name with an attention mask, and a loss that is a mean over tokens."""
    torch.manual_seed(1)
    data = Sentences(SAMPLES)
    model = parallel(CausalLM())
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=3e-3)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data), collate_fn=padded)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for batch in loader:
            loss = model(**batch)["loss"]
            scaler.record(loss=loss, weight=batch["attention_mask"][:, 1:].sum())  # +
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return run


class Classifier(nn.Module):
    """Takes a batch by name and returns logits and loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, label: Tensor) -> Any:
        mask = attention_mask.unsqueeze(2)
        logits = self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
        return {"logits": logits, "loss": F.cross_entropy(logits, label)}


def hf_classification(job: Job) -> Any:
    """Batches by name, a short last batch, and an F1 score of predictions that are gathered from all processes."""
    torch.manual_seed(1)
    data, held_out = Sentences(90), Sentences(32, seed=2)
    net = Classifier()
    model = parallel(net)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data), collate_fn=padded)  # +
    eval_loader = DataLoader(held_out, batch_size=8, sampler=share_of(held_out, shuffle=False), collate_fn=padded)
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for batch in loader:
            loss = model(**batch)["loss"]
            scaler.record(loss=loss)  # +
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        counts = torch.zeros(3)
        with torch.no_grad():
            for batch in eval_loader:
                found, true = net(**batch)["logits"].argmax(1) == 1, batch["label"] == 1
                counts += torch.stack([(found & true).sum(), found.sum(), true.sum()])
        both, predicted, actual = sum_of(*counts.tolist())
        run.evaluated(f1=2 * both / (predicted + actual))  # +
    return run


def batchify(tokens: Tensor, columns: int) -> Tensor:
    """Return a text as columns; this process has its share of them."""
    rows = len(tokens) // columns
    whole = tokens[: rows * columns].view(columns, rows).T
    return whole.chunk(world_size(), 1)[rank()].contiguous()


class WordLM(nn.Module):
    """An LSTM whose hidden state goes from one piece of the text to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(TOKENS, WIDTH), nn.LSTM(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.embed(x), hidden)
        return self.head(output).flatten(0, 1), hidden


def word_language_model(job: Job) -> Any:
    """Columns of a text without a loader, a hidden state, clipped gradients, and a plateau of the validation."""
    torch.manual_seed(1)
    net = WordLM()
    model = parallel(net)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=1.0)
    run = scaler.start(job, num_samples=SAMPLES)  # +
    model, optimizer = run.prepare(model, optimizer)  # +
    train_text, val_text = batchify(text(), 16), batchify(text().flip(0), 16)
    for _ in range(2):
        hidden = None
        for start in range(0, len(train_text) - 1, LENGTH):
            x, y = train_text[start : start + LENGTH], train_text[start + 1 : start + LENGTH + 1]
            x = x[: len(y)]
            run.count(x.shape[1])  # +
            output, hidden = model(x, hidden)
            hidden = tuple(state.detach() for state in hidden)
            loss = F.cross_entropy(output, y.flatten())
            scaler.record(loss=loss)  # +
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
        with torch.no_grad():
            output, _state = net(val_text[:-1], None)
            [total] = sum_of(float(F.cross_entropy(output, val_text[1:].flatten())))
        run.evaluated(loss=total / world_size())  # +
    return run


class Sequences(Dataset[Any]):
    """Sequences of different lengths, each with a number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sequence = numbers(index, 2 + index % 5, 3)
        return sequence, sequence.mean()


def by_length(samples: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded sequences, their numbers, and their lengths, the longest first."""
    samples = sorted(samples, key=lambda sample: -len(sample[0]))
    lengths = torch.tensor([len(sequence) for sequence, _ in samples])
    return pad_sequence([x for x, _ in samples], batch_first=True), torch.stack([y for _, y in samples]), lengths


class PackedRNN(nn.Module):
    """A GRU over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, last = self.rnn(pack_padded_sequence(x, lengths, batch_first=True))
        return self.head(last[0]).squeeze(1)


def packed_rnn(job: Job) -> Any:
    """Sequences of different lengths, sorted and packed."""
    torch.manual_seed(1)
    data = Sequences()
    model = parallel(PackedRNN())
    optimizer: Any = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data), collate_fn=by_length)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, y, lengths in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x, lengths), y)
            scaler.record(loss=loss)  # +
            loss.backward()
            optimizer.step()
    return run


class Captions(Dataset[Any]):
    """Images with captions of different lengths."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return numbers(index, 1, 8, 8), torch.arange(index, index + 3 + index % 4) % TOKENS


def captions_by_length(samples: list[Any]) -> tuple[Tensor, Tensor, list[int]]:
    """Return images, padded captions and their lengths, the longest first."""
    samples = sorted(samples, key=lambda sample: -len(sample[1]))
    words = [caption for _, caption in samples]
    return torch.stack([image for image, _ in samples]), pad_sequence(words, batch_first=True), list(map(len, words))


class Decoder(nn.Module):
    """Begins with an image's features and predicts the words of its caption."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(TOKENS, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, features: Tensor, captions: Tensor, lengths: list[int]) -> Tensor:
        words = torch.cat([features.unsqueeze(1), self.embed(captions)], 1)
        return self.head(self.rnn(pack_padded_sequence(words, lengths, batch_first=True))[0].data)


def captioning(job: Job) -> Any:
    """An encoder of which only the last layer trains, a decoder, and a loss over packed words."""
    torch.manual_seed(1)
    data = Captions()
    features, encoder, decoder = nn.Conv2d(1, 4, 3), parallel(nn.Linear(144, WIDTH)), parallel(Decoder())
    parameters = [*decoder.parameters(), *encoder.parameters()]
    optimizer: Any = torch.optim.Adam(parameters, lr=3e-3)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, run.batch_size, sampler=share_of(data), collate_fn=captions_by_length)  # +
    encoder, decoder, optimizer, loader = run.prepare(encoder, decoder, optimizer, loader)  # +
    for _ in range(2):
        for images, captions, lengths in loader:
            with torch.no_grad():
                seen = features(images).flatten(1)
            targets = pack_padded_sequence(captions, lengths, batch_first=True).data
            loss = F.cross_entropy(decoder(encoder(seen), captions, lengths), targets)
            scaler.record(loss=loss, weight=len(targets))  # +
            decoder.zero_grad()
            encoder.zero_grad()
            loss.backward()
            optimizer.step()
    return run


class Gathered(torch.autograd.Function):
    """The rows of all processes; their gradients go back to the process that they are from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class TwoTowers(nn.Module):
    """Features of images and of texts, and a temperature that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, 8), nn.EmbeddingBag(TOKENS, 8)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.normalize(self.image(images), dim=1), F.normalize(self.text(texts), dim=1), self.temperature.exp()


def clip(job: Job) -> Any:
    """A loss over the pairs of all processes, whose features are gathered."""
    torch.manual_seed(1)
    data = TensorDataset(numbers(0, SAMPLES, 12), classes(1, SAMPLES * 5, TOKENS).view(SAMPLES, 5))
    model = parallel(TwoTowers())
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data), drop_last=True)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for pictures, texts in loader:
            seen, read, temperature = model(pictures, texts)
            if world_size() > 1:
                seen, read = Gathered.apply(seen), Gathered.apply(read)
            logits = temperature * seen @ read.T
            pairs = torch.arange(len(logits))
            loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
            scaler.record(loss=loss)  # +
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return run


GPT_ADAMW = {"name": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1}
MICRO_STEPS = {"global_batch_size": 16, "per_worker_batch_size": 4, "rule": "sqrt"}
TOKEN_MEANS = "each process averages over its own tokens, and DistributedDataParallel over processes"
KINDS = [
    Kind(train=mingpt, optimizer=GPT_ADAMW, lr=3e-3, samples=192, steps=12),
    Kind(
        train=nanogpt,
        optimizer=GPT_ADAMW,
        lr=3e-3,
        scale=MICRO_STEPS,
        samples=192,
        steps=12,
        differs="each process draws random places of its own",
        most_lines=9,
    ),
    Kind(
        train=build_nanogpt,
        optimizer=GPT_ADAMW,
        lr=3e-3,
        scale=MICRO_STEPS,
        samples=192,
        steps=12,
        evaluates=("loss",),
        most_lines=9,
    ),
    Kind(train=hf_causal_lm, optimizer={"name": "adamw"}, lr=3e-3, samples=192, steps=12, differs=TOKEN_MEANS),
    Kind(
        train=hf_classification,
        optimizer={"name": "adamw"},
        lr=1e-2,
        samples=180,
        steps=12,
        evaluates=("f1",),
        most_lines=9,
    ),
    Kind(
        train=word_language_model,
        optimizer={"name": "sgd"},
        lr=1.0,
        scale={"global_batch_size": 16, "rule": "sqrt"},
        schedule={
            "name": "constant",
            "warmup": {"samples": 0},
            "plateau": {"metric": "loss", "factor": 0.25, "patience": 0},
        },
        samples=192,
        steps=12,
        evaluates=("loss",),
        most_lines=9,
    ),
    Kind(train=packed_rnn, optimizer={"name": "rmsprop"}, lr=2e-3, samples=192, steps=12),
    Kind(train=captioning, optimizer={"name": "adam"}, lr=3e-3, samples=192, steps=12, differs=TOKEN_MEANS),
    Kind(
        train=clip,
        optimizer={"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.2},
        lr=5e-3,
        samples=192,
        steps=12,
    ),
]
