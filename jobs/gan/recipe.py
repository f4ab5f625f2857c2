"""A GAN of handwritten digits (8 x 8 pixels, from scikit-learn): two networks with an optimizer each."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import TensorDataset

import scaler

TRAIN_SIZE = 1437  # the other 360 are for evaluation; the split is fixed
NOISE = 16


class Gan(nn.Module):
    """Images of 64 pixels in [-1, 1]. ``judge`` recognizes digits, to evaluate the generator; it is not trained."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(NOISE, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, 64), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Linear(64, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )
        self.judge = nn.Linear(64, 10).requires_grad_(False)


def build(hidden: int = 128) -> scaler.Recipe:
    """Return the GAN and the digits. A generator that makes all ten digits gets a Fréchet distance near 0."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data / 8.0 - 1.0, dtype=torch.float32)[order]
    labels = torch.tensor(digits.target)[order]
    model = Gan(hidden)
    _fit(model.judge, images[:TRAIN_SIZE], labels[:TRAIN_SIZE])
    noise = torch.randn(len(images) - TRAIN_SIZE, NOISE, generator=torch.Generator().manual_seed(1))
    return scaler.Recipe(
        model=model,
        train_data=TensorDataset(images[:TRAIN_SIZE]),
        optimizers={"d": model.discriminator, "g": model.generator},
        step=step,
        eval_data=TensorDataset(images[TRAIN_SIZE:], noise),
        evaluate=evaluate,
        metrics=metrics,
    )


def step(context: scaler.StepContext, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Train the discriminator on real and made images, then the generator to be taken for real.

    The loss of the records is the sum of both; it stays near 3 log 2 while neither wins.
    """
    (real,) = batch
    model = context.model
    made = model.generator(torch.randn(len(real), NOISE, device=real.device))
    d_real = _loss(model.discriminator(real), is_real=True)
    d_made = _loss(model.discriminator(made.detach()), is_real=False)
    context.backward(d_real + d_made, "d")
    context.step("d")
    g_loss = _loss(model.discriminator(made), is_real=True)
    context.backward(g_loss, "g")
    context.step("g")
    return {"d_real": d_real, "d_made": d_made, "g": g_loss}


def evaluate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return real and made images, and what the judge sees in the made ones."""
    real, noise = batch
    made = model.generator(noise)
    return {"real": real, "made": made, "seen": model.judge(made).softmax(1)}


def metrics(real: Tensor, made: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Return the Fréchet distance between the pixels of real and made images, and how many digits are made.

    ``distance`` is that of Heusel et al. 2017 (FID), of pixels instead of features; ``digits`` is the exponential of
    the entropy of the digits that the judge sees: 10 if all are made equally often, 1 if one is.
    """
    means = (real.mean(0) - made.mean(0)).square().sum()
    first, second = (torch.cov(images.T.double()) for images in (real, made))
    root = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    shares = seen.mean(0)
    return {
        "distance": means + first.trace() + second.trace() - 2 * root,
        "digits": (-(shares * shares.log()).sum()).exp(),
    }


def _loss(logits: Tensor, *, is_real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))


def _fit(judge: nn.Linear, images: Tensor, labels: Tensor) -> None:
    """Fit the judge, the same on every worker: a linear classifier that recognizes 95% of the digits."""
    judge.requires_grad_(True)
    optimizer = torch.optim.LBFGS(judge.parameters(), max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(judge(images), labels) + 1e-3 * judge.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    judge.requires_grad_(False)
