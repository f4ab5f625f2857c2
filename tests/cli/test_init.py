"""``scaler init``: each template is made and trains; and what ``--from`` says of scripts."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from in_process import Scaler

import scaler
from scaler.cli.templates import TEMPLATES, files_of, job_name_of
from scaler.job import load_job

ROOT = Path(__file__).parents[2]
Golden = Callable[[str, str], None]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_written_and_what_comes_next_is_shown(scaler_command: Scaler, name: str) -> None:
    code, out, err = scaler_command("init", "mine", "--template", name)
    assert (code, out) == (0, "".join(f"mine/{file}\n" for file in files_of(name)))
    assert {line.removeprefix("mine/") for line in out.splitlines()} == set(os.listdir("mine"))
    lines = err.splitlines()
    assert lines[0] == "Next:"
    assert [line.split("  ")[1] for line in lines[1:]] == [
        typed.replace("JOB", "mine/job.yaml").replace("SCRIPT", "mine/train.py") for typed in TEMPLATES[name].next
    ]
    files = files_of(name, job_name="mine")
    assert {path.name: path.read_text() for path in Path("mine").iterdir()} == files
    assert yaml.safe_load(Path("mine/job.yaml").read_text())["name"] == "mine"
    assert next(iter(files)) == "job.yaml"


def test_a_folder_with_a_blank_is_quoted(scaler_command: Scaler) -> None:
    assert scaler_command("init", "my job").err.splitlines()[2].split("  ")[1] == "scaler submit 'my job/job.yaml'"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("digits mine", "digits-mine"), ("2026", "2026"), ("yes", "yes"), ("-é-a.", "a"), ("x" * 90, "x" * 50)],
)
def test_a_job_has_its_folders_name(scaler_command: Scaler, folder: str, name: str) -> None:
    assert scaler_command("init", "--", f"deep/{folder}").code == 0
    assert load_job(Path("deep") / folder / "job.yaml").name == name
    assert job_name_of("...") is None


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_template_whose_package_is_missing_says_what_to_install(
    scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("scaler.cli.init_command.find_spec", lambda package: None)
    code, _, err = scaler_command("init", "mine", "--template", name)
    assert code == 0
    assert err.splitlines()[1].split() == ["pip", "install", f"'scaler[{name}]'", name, "is", "not", "installed"]


@pytest.mark.parametrize(
    ("name", "settings", "accuracy"),
    [
        ("classifier", ["train.epochs=2"], 0.9),
        ("language-model", ["train.tokens=20480", "schedule.warmup={tokens: 2048}"], None),
        ("finetune", ["scale.per_worker_batch_size=16"], 0.8),
        ("own-loop", ["train.epochs=2"], 0.9),
    ],
)
def test_a_template_trains(scaler_command: Scaler, name: str, settings: list[str], accuracy: float | None) -> None:
    scaler_command("init", "mine", "--template", name)
    changes = [part for setting in settings for part in ("--set", setting)]
    code, _, err = scaler_command("submit", "mine/job.yaml", "--address", "none", "--workers", "1", *changes)
    sys.modules.pop("train", None)
    assert code == 0, err
    assert "Warning" not in err  # of the plan
    report = scaler.read_run("last").report
    assert report.lr_audit.as_planned
    if accuracy is None:
        assert report.final.eval["loss"] < 4
    else:
        assert report.final.eval["accuracy"] > accuracy


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize(("name", "metric", "best"), [("lightning", "accuracy", 1), ("transformers", "loss", 0)])
def test_a_template_of_a_trainer_trains(
    scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch, name: str, metric: str, best: float
) -> None:
    scaler_command("init", "mine", "--template", name)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    runpy.run_path("mine/train.py", run_name="__main__")
    report = scaler.read_run("last").report
    assert report.state == "succeeded"
    assert report.lr_audit.as_planned
    assert abs(report.final.eval[metric] - best) < 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_templates_code_follows_the_house_rules(name: str) -> None:
    ruff = Path(sys.executable).parent / "ruff"
    for file, text in files_of(name).items():
        assert all(len(line) <= 120 for line in text.splitlines())
        if file.endswith(".py"):
            options = ["--config", str(ROOT / "pyproject.toml"), "--stdin-filename", str(ROOT / "jobs" / file), "-"]
            for command in (["check", "--ignore", "I"], ["format", "--check"]):  # I: it takes jobs/scaler for a package
                done = subprocess.run([ruff, *command, *options], input=text, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr


# --from


PLAIN = """
import argparse
import torch
import torch.nn.functional as F
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("-b", "--batch-size", type=int, default=256)
parser.add_argument("--epochs", default=90, type=int)
ACCUM = 4


def validate(model, loader):
    model.eval()
    with torch.no_grad():
        return sum((model(x).argmax(1) == y).float().mean() for x, y in loader) / len(loader)


def train(model, loader, optimizer, scaler):
    for i, (x, y) in enumerate(loader):
        with torch.autocast("cuda"):
            loss = F.cross_entropy(model(x), y) / ACCUM
        scaler.scale(loss).backward()
        if (i + 1) % ACCUM == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def main():
    args = parser.parse_args()
    dist.init_process_group("nccl")
    torch.manual_seed(7)
    world_size = dist.get_world_size()
    model = DDP(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4, foreach=True)
    scheduler = StepLR(optimizer, step_size=30, gamma=0.1)
    scaler = torch.amp.GradScaler()
    train_loader = DataLoader(data, batch_size=args.batch_size, sampler=DistributedSampler(data))
    val_loader = DataLoader(held_out, batch_size=args.batch_size)
    for epoch in range(args.epochs):
        train(model, train_loader, optimizer, scaler)
        scheduler.step()
        validate(model, val_loader)
        torch.save({"model": model.state_dict()}, "last.pt")


main()
"""


def planned(scaler_command: Scaler, text: str, *options: str) -> str:
    Path("train.py").write_text(text)
    before = sorted(os.listdir())
    code, out, err = scaler_command("init", "--from", "train.py", *options)
    assert (code, err) == (0, "")
    assert sorted(os.listdir()) == before
    return out


@pytest.fixture
def wide(scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch) -> Scaler:
    """The command line in a wide terminal, where no source line is cut."""
    monkeypatch.setenv("COLUMNS", "100")
    return scaler_command


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a plan: what to do, by the source line."""
    unwrapped = text.replace("\n     ", " ")
    blocks = [block.splitlines() for block in unwrapped.split("\n\n") if re.match(r"train\.py:\d", block)]
    return {block[0].split("  ", 1)[1]: [line.removeprefix("  -> ") for line in block[1:]] for block in blocks}


def test_a_script_with_a_plain_loop_becomes_a_recipe(scaler_command: Scaler, golden: Golden) -> None:
    golden("init-from-recipe.txt", planned(scaler_command, PLAIN))


def test_a_script_may_keep_its_loop(scaler_command: Scaler, golden: Golden) -> None:
    golden("init-from-loop.txt", planned(scaler_command, PLAIN, "--template", "own-loop"))


def test_a_script_is_not_run(scaler_command: Scaler) -> None:
    planned(scaler_command, f"open('made', 'w')\nimport nosuch_package\n{PLAIN}")


LOOP = """
import torch
from torch.optim.lr_scheduler import {scheduler}
optimizer = {optimizer}
scheduler = {scheduler}(optimizer, {arguments})
for epoch in range(5):
    for x, y in torch.utils.data.DataLoader(data, batch_size=8, shuffle=True):
        model(x).backward()
        optimizer.step()
        {in_loop}
    {after_loop}
"""


@pytest.mark.parametrize(
    ("scheduler", "arguments", "per_step", "schedule"),
    [
        ("CosineAnnealingLR", "T_max=90", True, "{name: cosine}"),
        ("StepLR", "30", False, "{name: step, every: {epochs: 30}, decay: 0.1}"),
        ("StepLR", "30", True, "{name: step, every: {steps: 30}, decay: 0.1}"),
        ("MultiStepLR", "[3, 4], gamma=0.2", False, "{name: multi_step, at: [{epochs: 3}, {epochs: 4}], decay: 0.2}"),
        ("ExponentialLR", "0.9", False, "{name: exponential, every: {epochs: 1}, decay: 0.9}"),
        ("CosineAnnealingWarmRestarts", "2, 2", False, "{name: cosine_restarts, first: {epochs: 2}, growth: 2}"),
        ("ReduceLROnPlateau", "patience=3", False, "{name: constant, plateau: {factor: 0.1, patience: 3}}"),
        (
            "LinearLR",
            "1.0, 0.1, 50",
            True,
            "{name: linear, final_fraction: 0.1}, over train's length and not steps: 50",
        ),
    ],
)
def test_a_scheduler_becomes_a_schedule(
    wide: Scaler, scheduler: str, arguments: str, per_step: bool, schedule: str
) -> None:
    step = "scheduler.step()"
    text = LOOP.format(
        optimizer="torch.optim.SGD(model.parameters(), 0.1)",
        scheduler=scheduler,
        arguments=arguments,
        in_loop=step if per_step else "pass",
        after_loop="pass" if per_step else step,
    )
    found = rows(planned(wide, text))
    assert found[f"scheduler = {scheduler}(optimizer, {arguments})"][0] == f"job.yaml: schedule: {schedule}"
    assert found[step] == ["remove it"]


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        ("torch.optim.SGD(model.parameters(), 0.1)", "{lr: 0.1, optimizer: {name: sgd}}"),
        (
            "torch.optim.AdamW(p, lr=3e-4, betas=(0.9, 0.95), fused=True)",
            "{lr: 0.0003, optimizer: {name: adamw, betas: [0.9, 0.95]}}",
        ),
        ("torch.optim.NAdam(p, lr=LR)", "{lr: the value of LR, optimizer: {name: torch.optim:NAdam}}"),
    ],
)
def test_an_optimizer_becomes_the_reference(wide: Scaler, optimizer: str, reference: str) -> None:
    text = LOOP.format(optimizer=optimizer, scheduler="StepLR", arguments="1", in_loop="pass", after_loop="pass")
    assert rows(planned(wide, text))[f"optimizer = {optimizer}"][0] == f"job.yaml: reference: {reference}"


COMPARE = "compare: scaler plan JOB --json has the learning rate at points of the training"
NEAREST = 'the kind that is nearest, of the page "Job file" of the documentation; scaler schema prints them'
FROM_ZERO = (
    "this cosine counts from step 0, under the warmup; scaler's begins at the end of the warmup, and is higher: with W "
    "steps of warmup and T in all by up to (T / (T - W)) ** 2, at the end"
)


@pytest.mark.parametrize(
    ("made", "before", "then"),
    [
        (
            "LambdaLR(optimizer, lambda s: min(1, (s + 1) / warm) * (1 + math.cos(math.pi * s / steps)) / 2)",
            "warm = 100",
            [
                "job.yaml: reference: {warmup: {steps: 100, start: 0.01}}",
                "job.yaml: schedule: {name: cosine, warmup: {steps: 0}}",
                FROM_ZERO,
                COMPARE,
            ],
        ),
        (  # the cosine begins after the warmup, as scaler's does
            "LambdaLR(optimizer, f)",
            "def f(s):\n    if s < 50:\n        return float(s) / float(max(1, 50))\n"
            "    return 0.5 * (1 + math.cos(math.pi * (s - 50) / (1000 - 50)))",
            [
                "job.yaml: reference: {warmup: {steps: 50}}",
                "job.yaml: schedule: {name: cosine, warmup: {steps: 0}}",
                COMPARE,
            ],
        ),
        (
            "LambdaLR(optimizer, lambda s: min(s / WARMUP, 1.0))",
            "WARMUP = 20",
            [
                "job.yaml: reference: {warmup: {steps: 20}}",
                "job.yaml: schedule: {name: NAME, warmup: {steps: 0}}",
                f"NAME: {NEAREST}",
                COMPARE,
            ],
        ),
        (
            "LambdaLR(optimizer, lambda s: 0.95**s)",
            "",
            ["not recognized: how the learning rate changes", f"job.yaml: schedule: {NEAREST}", COMPARE],
        ),
        (  # a fall is no warmup
            "LambdaLR(optimizer, lambda s: 1 - min(1, s / 500))",
            "",
            ["not recognized: how the learning rate changes", f"job.yaml: schedule: {NEAREST}", COMPARE],
        ),
        (
            "LambdaLR(optimizer, f)",
            "from mine import f",
            ["not recognized: the function of LambdaLR", f"job.yaml: schedule: {NEAREST}", COMPARE],
        ),
        (
            "LinearLR(optimizer, start_factor=0.1, total_iters=30)",
            "",
            [
                "job.yaml: reference: {warmup: {steps: 30, start: 0.1}}",
                "job.yaml: schedule: {name: constant, warmup: {steps: 0}}",
            ],
        ),
        (
            "transformers.get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=100, num_training_steps=T)",
            "import transformers",
            [
                "job.yaml: reference: {warmup: {steps: 100}}",
                "job.yaml: schedule: {name: cosine, warmup: {steps: 0}}",
            ],
        ),
    ],
)
def test_a_warmup_of_the_script_becomes_the_references(wide: Scaler, made: str, before: str, then: list[str]) -> None:
    text = f"import math\nfrom torch.optim.lr_scheduler import LambdaLR, LinearLR\n{before}\n" + LOOP.format(
        optimizer="torch.optim.SGD(model.parameters(), 0.1)",
        scheduler="StepLR",
        arguments="1",
        in_loop="scheduler.step()",
        after_loop="pass",
    ).replace("StepLR(optimizer, 1)", made)
    assert rows(planned(wide, text))[f"scheduler = {made}"] == [*then, "remove it: scaler writes the learning rate"]


def test_the_schedulers_of_a_sequence_become_one_schedule(wide: Scaler) -> None:
    text = (
        "import torch\nfrom torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR\n"
        "up = LinearLR(optimizer, 0.01, total_iters=100)\ndown = CosineAnnealingLR(optimizer, 900)\n"
        "scheduler = SequentialLR(optimizer, [up, down], [100])\n"
        "for x in d:\n    loss(x).backward()\n    scheduler.step()\n"
    )
    found = rows(planned(wide, text))
    assert found["up = LinearLR(optimizer, 0.01, total_iters=100)"][:2] == [
        "job.yaml: reference: {warmup: {steps: 100, start: 0.01}}",
        "job.yaml: schedule: {name: ..., warmup: {steps: 0}}",
    ]
    assert found["down = CosineAnnealingLR(optimizer, 900)"][0] == "job.yaml: schedule: {name: cosine}"
    assert found["scheduler = SequentialLR(optimizer, [up, down], [100])"][0] == (
        "job.yaml: the scheduler that warms up becomes reference.warmup, and another one schedule"
    )


def test_a_learning_rate_that_the_loop_writes_is_a_schedule(wide: Scaler) -> None:
    text = (
        "import math\nimport torch\nwarmup_iters = 10\n"
        "def get_lr(it):\n    if it < warmup_iters:\n        return 0.1 * (it + 1) / (warmup_iters + 1)\n"
        "    return 0.1 * math.cos((it - warmup_iters) / (99 - warmup_iters))\n"
        "for i, x in enumerate(d):\n    lr = get_lr(i)\n    for group in optimizer.param_groups:\n"
        "        group['lr'] = lr\n    loss(x).backward()\n"
    )
    assert rows(planned(wide, text))["group['lr'] = lr"] == [
        "job.yaml: reference: {warmup: {steps: 10, start: 0.1}}",
        "job.yaml: schedule: {name: cosine, warmup: {steps: 0}}",
        COMPARE,
        "remove it: scaler writes the learning rate",
    ]


def test_the_options_of_the_loader_become_keys(wide: Scaler) -> None:
    line = (
        "loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=2, drop_last=True, collate_fn=pad, "
        "pin_memory=True, timeout=9)"
    )
    text = f"import torch\nfrom torch.utils.data import DataLoader\n{line}\nfor x in loader:\n    loss(x).backward()\n"
    assert rows(planned(wide, text))[line][-4:] == [
        "job.yaml: train.data_workers: 2",
        "job.yaml: train.last_batch: drop",
        "recipe.py: collate=pad",
        "not recognized: timeout=9",
    ]


@pytest.mark.parametrize("is_named", [True, False])
def test_groups_by_the_number_of_dimensions_become_groups_by_name(wide: Scaler, is_named: bool) -> None:
    groups = '[{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]'
    line = f"optimizer = torch.optim.AdamW({'groups' if is_named else groups}, lr=0.1, max_grad=2, fused=True)"
    text = (
        "import torch\ndecay = [p for p in m.parameters() if p.dim() >= 2]\n"
        f"groups = {groups}\n{line}\nfor x in d:\n    loss(x).backward()\n"
    )
    assert rows(planned(wide, text))[line] == [
        "job.yaml: reference: {lr: 0.1, optimizer: {name: adamw, weight_decay: 0.05}}",
        'job.yaml: groups: [{match: "*bias*", weight_decay: 0}, {match: "*norm*", weight_decay: 0}]',
        "this script splits the parameters by their number of dimensions, and a job file by their names: scaler plan "
        "DIR lists each group with its parameters, tensors and weight decay. Compare it with your groups",
        "not recognized: max_grad=2",
        "remove it: scaler makes the optimizer",
    ]


def test_what_has_no_place_is_listed(wide: Scaler) -> None:
    text = "import torch\nm = torch.compile(m)\nfor x in d:\n    loss(x).backward()\n"
    text += "    torch.nn.utils.clip_grad_value_(m.parameters(), 1)\n"
    found = rows(planned(wide, text))
    assert found["m = torch.compile(m)"] == ["not recognized: torch.compile"]
    assert found["torch.nn.utils.clip_grad_value_(m.parameters(), 1)"] == [
        "not recognized: torch.nn.utils.clip_grad_value_"
    ]


def test_a_source_line_is_shown_to_its_end(scaler_command: Scaler) -> None:
    assert "...\n" not in planned(scaler_command, PLAIN)


def test_a_learning_rate_that_follows_the_processes_is_given_without_them(wide: Scaler) -> None:
    line = "optimizer = torch.optim.SGD(p, lr=0.1 * world_size)"
    found = rows(planned(wide, f"import torch\n{line}\nfor x in data:\n    loss(x).backward()\n"))
    assert found[line][1] == "reference.lr without the factor for the number of processes: scaler scales it"


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("import torch\nfor x in d:\n    loss(x).backward()\n", "classifier"),
        ("import torch\nfor batch in d:\n    model(batch.input_ids).loss.backward()\n", "language-model"),
        ("import torch\nm = M.from_pretrained('a')\nfor x in d:\n    m(x).backward()\n", "finetune"),
        ("import torch\nm.head.bias.requires_grad = False\nfor x in d:\n    m(x).backward()\n", "finetune"),
        ("import torch\nfor x in d:\n    d_loss(x).backward()\n    g_loss(x).backward()\n", "own-loop"),
        ("from accelerate import Accelerator\na = Accelerator()\nfor x in d:\n    a.backward(loss(x))\n", "own-loop"),
        ("import lightning.pytorch as pl\npl.Trainer(max_epochs=3).fit(m)\n", "lightning"),
        ("from pytorch_lightning import Trainer\nTrainer(max_epochs=3).fit(m)\n", "lightning"),
        ("from transformers import Trainer\nTrainer(model=m).train()\n", "transformers"),
    ],
)  # fmt: skip
def test_the_template_follows_from_how_the_script_trains(scaler_command: Scaler, text: str, template: str) -> None:
    assert f"  scaler init DIR --template {template}\n" in planned(scaler_command, text)


def test_arguments_of_a_trainer_become_the_job(scaler_command: Scaler) -> None:
    text = (
        "from transformers import Trainer, TrainingArguments\n"
        "args = TrainingArguments('out', learning_rate=1e-4, per_device_train_batch_size=4, num_train_epochs=2)\n"
        "Trainer(model, args).train()\n"
    )
    out = planned(scaler_command, text).replace("\n     ", " ")
    assert "reference: {global_batch_size: 4 times the processes and the accumulation, lr: 0.0001" in out
    assert "  -> job.yaml: train: {epochs: 2}\n" in out
    assert "callbacks=[scaled], optimizers=scaled.optimizers(optimizer)" in out


TRAIN = "\n  Give a training script: scaler init --from train.py\n"


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("def f(:\n", [], f"train.py: is not Python: line 1: invalid syntax.{TRAIN}"),
        ("x = '\0'", [], f"train.py: is not Python: source code string cannot contain null bytes.{TRAIN}"),
        (
            "print(1)",
            [],
            "train.py: has no training loop: no call of backward(), and no Trainer.\n"
            "  Give the script that trains; what it imports is not read.\n",
        ),
        (
            "for x in d:\n    f(x).backward()\nfor x in d:\n    g(x).backward()\n",
            [],
            "train.py: has 2 training loops, at lines 1, 3.\n"
            "  A run is one of them: give a script with one training loop.\n",
        ),
        (
            "import scaler\nrun = scaler.start('job.yaml')\nfor x in d:\n    f(x).backward()\n",
            [],
            "train.py: calls scaler.start at line 2, so scaler has it already.\n"
            '  scaler submit, python or torchrun runs it; the page "My own training loop" says which.\n',
        ),
        (
            "import lightning as L\nL.Trainer().fit(m)\n",
            ["--template", "finetune"],
            "train.py: the template finetune does not fit: it trains with Lightning's Trainer.\n"
            "  Use --template lightning, or leave --template out.\n",
        ),
        (
            "print(1)",
            ["mine"],
            "--from writes nothing, so it takes no DIR.\n  scaler init --help shows how it is used.\n",
        ),
    ],
)
def test_a_script_that_cannot_be_planned(scaler_command: Scaler, text: str, options: list[str], error: str) -> None:
    Path("train.py").write_text(text)
    assert scaler_command("init", "--from", "train.py", *options) == (2, "", f"Error: {error}")


def test_a_script_that_is_not_there(scaler_command: Scaler) -> None:
    assert scaler_command("init", "--from", "nosuch.py") == (
        2,
        "",
        f"Error: nosuch.py: cannot be read: No such file or directory.{TRAIN}",
    )


def test_init_needs_a_folder(scaler_command: Scaler) -> None:
    assert scaler_command("init") == (
        2,
        "",
        "Error: Missing argument 'DIR'.\n  scaler init --help shows how it is used.\n",
    )
