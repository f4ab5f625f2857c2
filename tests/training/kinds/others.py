"""Scripts that train on tables, on tasks, and on what an agent has seen."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import scaler  # +
from kinds import Kind, classes, numbers, parallel, rank, share_of, sum_of, world_size
from scaler.job import Job

SAMPLES, ITEMS = 96, 30


class FactorizationMachine(nn.Module):
    """Interactions of pairs of fields, with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.factors = nn.Embedding(ITEMS, 1, sparse=True), nn.Embedding(ITEMS, 4, sparse=True)
        nn.init.normal_(self.factors.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.factors(x)
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)
        return self.weight(x).sum((1, 2)) + pairs


def factorization_machines(job: Job) -> Any:
    """Sparse embeddings, Adagrad, and an evaluation in the script."""
    torch.manual_seed(1)
    fields = classes(0, SAMPLES * 3, ITEMS).view(SAMPLES, 3)
    data = TensorDataset(fields, (fields.sum(1) % 2).float())
    net = FactorizationMachine()
    model = parallel(net)
    optimizer: Any = torch.optim.Adagrad(model.parameters(), lr=0.1)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for x, y in loader:
            loss = F.binary_cross_entropy_with_logits(model(x), y)
            scaler.record(loss=loss)  # +
            net.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = ((net(fields) > 0) == (data.tensors[1] > 0.5)).float().mean()
        run.evaluated(accuracy=right)  # +
    return run


def maml(job: Job) -> Any:
    """A batch of tasks: an inner loop changes copies of the weights, and the optimizer takes the outer step."""
    torch.manual_seed(1)
    data = TensorDataset(numbers(0, 64, 2), numbers(1, 64, 10, 1))  # slope and offset; points
    model: Any = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=1e-2)
    run = scaler.start(job, num_samples=len(data))  # +
    loader: Any = DataLoader(data, batch_size=run.batch_size, sampler=share_of(data))  # +
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # +
    for _ in range(2):
        for lines, points in loader:
            losses = []
            for (slope, offset), x in zip(lines, points, strict=True):
                y, fast = slope * x + offset, dict(model.named_parameters())
                for _inner in range(2):
                    inner = F.mse_loss(functional_call(model, fast, x[:5]), y[:5])
                    grads = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                    fast = {name: w - 0.05 * g for (name, w), g in zip(fast.items(), grads, strict=True)}
                losses.append(F.mse_loss(functional_call(model, fast, x[5:]), y[5:]))
            loss = torch.stack(losses).mean()
            scaler.record(loss=loss)  # +
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters() if world_size() > 1 else ():
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()
            optimizer.step()
    return run


class Agent(nn.Module):
    """Probabilities of two actions, and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(3, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, seen: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        h = self.body(seen).tanh()
        return torch.distributions.Categorical(logits=self.actor(h)), self.critic(h).squeeze(-1)


def ppo(job: Job) -> Any:
    """Rollouts of an environment, and several epochs over each; every sample of a step is counted each time."""
    torch.manual_seed(1)
    net, envs = Agent(), 16 // world_size()
    steps, minibatches = 4, 4
    minibatch = steps * envs // minibatches
    model = parallel(net)
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=5e-3, eps=1e-5)
    torch.manual_seed(1 + rank())
    run = scaler.start(job, num_samples=SAMPLES)  # +
    model, optimizer = run.prepare(model, optimizer)  # +
    for _update in range(3):
        with torch.no_grad():
            seen = torch.randn(steps, envs, 3)
            policy, values = net(seen)
            actions = policy.sample()
            log_probs, rewards = policy.log_prob(actions), (actions == (seen[..., 0] > 0)).float()
            advantages = rewards - values
        batch = [each.flatten(0, 1) for each in (seen, actions, log_probs, advantages, rewards)]
        for _epoch in range(2):
            order = torch.randperm(steps * envs)
            for start in range(0, steps * envs, minibatch):
                x, taken, old, advantage, returns = (each[order[start : start + minibatch]] for each in batch)
                run.count(len(x))  # +
                policy, value = model(x)
                ratio = (policy.log_prob(taken) - old).exp()
                clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                loss = 0.5 * F.mse_loss(value, returns) - clipped.mean() - 0.01 * policy.entropy().mean()
                scaler.record(loss=loss)  # +
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
        run.evaluated(reward=sum_of(float(rewards.mean()))[0] / world_size())  # +
    return run


KINDS = [
    Kind(
        train=factorization_machines,
        optimizer={"name": "torch.optim:Adagrad"},
        lr=0.1,
        samples=192,
        steps=12,
        evaluates=("accuracy",),
        most_lines=9,
    ),
    Kind(train=maml, optimizer={"name": "adam"}, lr=1e-2, samples=128, steps=8),
    Kind(
        train=ppo,
        optimizer={"name": "adam", "eps": 1e-5},
        lr=5e-3,
        train_length={"samples": 384},
        schedule={"name": "linear", "warmup": {"samples": 0}},
        samples=384,
        steps=24,
        differs="each process acts in environments of its own",
        evaluates=("reward",),
        most_lines=9,
    ),
]
