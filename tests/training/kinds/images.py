"""Scripts that train on images: classification, detection, generation, and pairs of views."""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import scaler  # +
from kinds import Kind, classes, numbers, parallel, share_of, sum_of
from scaler.job import Job

SAMPLES, CLASSES = 96, 4


def images(samples: int = SAMPLES, *, seed: int = 0) -> TensorDataset:
    """Return images of 1 x 8 x 8 whose class shows in their brightness."""
    labels = classes(seed, samples, CLASSES)
    return TensorDataset(numbers(seed + 1, samples, 1, 8, 8) + labels.view(-1, 1, 1, 1).float(), labels)


def mnist(job: Job) -> Any:
    """BatchNorm, dropout, a test after each epoch, and Adadelta."""
    torch.manual_seed(1)
    data, test = images(), images(40, seed=5)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25), nn.Linear(144, CLASSES)
    )
    model = parallel(net)
    run = scaler.start(job, num_samples=len(data))  # +
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.5)
    sampler = share_of(data)
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=sampler)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for epoch in range(2):
        model.train()
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            scaler.record(loss=loss)  # +
            loss.backward()
            optimizer.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for x, y in DataLoader(test, batch_size=20):
                right += int((net(x).argmax(1) == y).sum())
        run.evaluated(accuracy=right / len(test))  # +
    return run


def imagenet(job: Job) -> Any:
    """A sampler with ``drop_last``, SGD with momentum, and a validation that is summed over the processes."""
    torch.manual_seed(1)
    data, held_out = images(100), images(32, seed=5)
    model = parallel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)))
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    run = scaler.start(job, num_samples=len(data))  # +
    sampler, val_sampler = share_of(data, drop_last=True), share_of(held_out, shuffle=False)
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=sampler, drop_last=True)  # +
    val_loader = DataLoader(held_out, batch_size=8, sampler=val_sampler)
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for epoch in range(2):
        sampler.set_epoch(epoch)
        model.train()
        for x, y in loader:
            output = model(x)
            loss = F.cross_entropy(output, y)
            scaler.record(loss=loss, accuracy=(output.argmax(1) == y).float().mean())  # +
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        right = count = 0
        with torch.no_grad():
            for x, y in val_loader:
                right += int((model(x).argmax(1) == y).sum())
                count += len(y)
        right, count = sum_of(right, count)
        run.evaluated(accuracy=right / count)  # +
    return run


class Boxes(Dataset[Any]):
    """Images of different sizes, each with a different number of boxes."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        count = 1 + index % 4
        image = numbers(index, 3, 6 + index % 3, 6)
        return image, {"boxes": numbers(index + 1000, count, 4), "labels": classes(index, count, CLASSES)}


def as_lists(samples: list[Any]) -> tuple[Any, ...]:
    """Return a tuple of images and a tuple of targets."""
    return tuple(zip(*samples, strict=True))


class Detector(nn.Module):
    """Returns a dict of losses while it trains, each a mean over images, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.box, self.label = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, CLASSES)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        features = torch.stack([self.body(image).relu().mean((1, 2)) for image in images])
        boxes = [F.smooth_l1_loss(self.box(f), t["boxes"].mean(0)) for f, t in zip(features, targets, strict=True)]
        labels = [F.cross_entropy(self.label(f), t["labels"][0]) for f, t in zip(features, targets, strict=True)]
        return {"loss_box": torch.stack(boxes).mean(), "loss_label": torch.stack(labels).mean()}


def detection(job: Job) -> Any:
    """Lists of images and of targets, and a dict of losses."""
    torch.manual_seed(1)
    data = Boxes()
    model = parallel(Detector())
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    run = scaler.start(job, num_samples=len(data))  # +
    sampler = share_of(data)
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=sampler, collate_fn=as_lists)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for pictures, targets in loader:
            losses = model(list(pictures), list(targets))
            loss = sum(losses.values())
            scaler.record(loss=loss, **losses)  # +
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return run


def vae(job: Job) -> Any:
    """A loss that is a sum over the batch, noise in the forward, and Adam."""
    torch.manual_seed(1)
    data = images()
    model = parallel(AutoEncoder())
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=1e-2)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, _y in loader:
            optimizer.zero_grad()
            rebuilt, mean, log_var = model(x)
            error = F.mse_loss(rebuilt, x.flatten(1), reduction="sum")
            loss = error - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
            scaler.record(loss=loss / len(x))  # +
            loss.backward()
            optimizer.step()
    return run


class AutoEncoder(nn.Module):
    """Draws the code from the encoder's distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 2 * 3), nn.Linear(3, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x.flatten(1)).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp()), mean, log_var


class Views(Dataset[Any]):
    """Two views of each image, as a list, and its class."""

    def __init__(self) -> None:
        self.data = images()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        image, label = self.data[index]
        return [image + 0.1 * numbers(index + view, *image.shape) for view in (0, 500)], label


def simclr(job: Job) -> Any:
    """Two views of each image, and a loss that compares the images of a batch."""
    torch.manual_seed(1)
    data = Views()
    model = parallel(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8)))
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data), drop_last=True)  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for views, _y in loader:
            features = F.normalize(model(torch.cat(views)), dim=1)
            half = len(features) // 2
            similar = (features @ features.T / 0.5).fill_diagonal_(-9e9)
            loss = F.cross_entropy(similar, torch.cat([torch.arange(half) + half, torch.arange(half)]))
            scaler.record(loss=loss)  # +
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return run


def diffusion(job: Job) -> Any:
    """Random times and noise, clipped gradients, and an average of the weights that the script keeps itself."""
    torch.manual_seed(1)
    data = images()
    net = nn.Sequential(nn.Linear(65, 32), nn.SiLU(), nn.Linear(32, 64))
    average = deepcopy(net)
    model = parallel(net)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=2e-3)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, _y in loader:
            clean, t = x.flatten(1), torch.rand(len(x), 1)
            noise = torch.randn_like(clean)
            mixed = (1 - t).sqrt() * clean + t.sqrt() * noise
            loss = F.mse_loss(model(torch.cat([mixed, t], 1)), noise)
            scaler.record(loss=loss)  # +
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for mean, weight in zip(average.parameters(), net.parameters(), strict=True):
                    mean.lerp_(weight, 0.01)
    return run


def dcgan(job: Job) -> Any:
    """Two models and two optimizers, which step one after the other on the same images."""
    torch.manual_seed(1)
    data = images()
    net_g = parallel(nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64)))
    net_d = parallel(nn.Sequential(nn.Linear(64, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Flatten(0)))
    optimizer_d: Any = torch.optim.Adam(net_d.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizer_g: Any = torch.optim.Adam(net_g.parameters(), lr=2e-3, betas=(0.5, 0.999))
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    net_d, net_g, optimizer_d, optimizer_g, loader = run.prepare(net_d, net_g, optimizer_d, optimizer_g, loader)  # +
    judge = F.binary_cross_entropy_with_logits
    for _ in range(2):
        for x, _y in loader:
            net_d.zero_grad()
            error_real = judge(net_d(x.flatten(1)), torch.ones(len(x)))
            error_real.backward()
            fake = net_g(torch.randn(len(x), 4))
            error_fake = judge(net_d(fake.detach()), torch.zeros(len(x)))
            error_fake.backward()
            optimizer_d.step()
            net_g.zero_grad()
            error_g = judge(net_d(fake), torch.ones(len(x)))
            error_g.backward()
            optimizer_g.step()
            scaler.record(loss=error_real + error_fake, generator=error_g)  # +
    return run


def finetune(job: Job) -> Any:
    """A frozen part, two learning rates, and a ``GradScaler``."""
    torch.manual_seed(1)
    data = images()
    stem, body, head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)
    stem.requires_grad_(False)
    model = parallel(nn.Sequential(nn.Flatten(), stem, nn.ReLU(), body, nn.ReLU(), head))
    groups = [{"params": head.parameters()}, {"params": body.parameters(), "lr": 1e-3}]
    optimizer: Any = torch.optim.AdamW(groups, lr=1e-2)
    grad_scaler = torch.amp.GradScaler("cpu")
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            scaler.record(loss=loss)  # +
            optimizer.zero_grad()
            grad_scaler.scale(loss).backward()
            grad_scaler.step(optimizer)
            grad_scaler.update()
    return run


ADAM = {"name": "adam"}
KINDS = [
    Kind(
        train=mnist,
        optimizer={"name": "torch.optim:Adadelta"},
        lr=0.5,
        samples=192,
        steps=12,
        differs="BatchNorm and dropout: each process has statistics and masks of its own",
        evaluates=("accuracy",),
        most_lines=9,
    ),
    Kind(
        train=imagenet,
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
        lr=0.05,
        train_length={"epochs": 2, "last_batch": "drop"},
        samples=192,
        steps=12,
        differs="BatchNorm: each process has statistics of its own",
        evaluates=("accuracy",),
        records=("accuracy",),
        most_lines=9,
    ),
    Kind(
        train=detection,
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        lr=0.02,
        scale={"global_batch_size": 16, "rule": "linear"},
        samples=192,
        steps=12,
        records=("loss_box", "loss_label"),
    ),
    Kind(
        train=vae,
        optimizer=ADAM,
        lr=1e-2,
        samples=192,
        steps=12,
        differs="noise in the forward: each process draws its own",
    ),
    Kind(
        train=simclr,
        optimizer={"name": "adam", "weight_decay": 1e-4},
        lr=3e-3,
        samples=192,
        steps=12,
        differs="the loss compares the images of one process",
    ),
    Kind(
        train=diffusion,
        optimizer={"name": "adamw"},
        lr=2e-3,
        samples=192,
        steps=12,
        differs="random times and noise: each process draws its own",
    ),
    Kind(
        train=dcgan,
        optimizer={"name": "adam", "betas": [0.5, 0.999]},
        lr=2e-3,
        samples=192,
        steps=12,
        differs="noise and BatchNorm of each process's own",
        records=("generator",),
        most_lines=9,
    ),
    Kind(train=finetune, optimizer={"name": "adamw"}, lr=1e-2, samples=192, steps=12),
]
