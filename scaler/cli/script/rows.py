"""What to do with the lines of a training script: one row for each line that scaler or its job file takes over."""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scaler.cli.script.optimizers import STARTED, optimizer_texts
from scaler.cli.script.reading import Call, Script
from scaler.cli.script.schedules import own_schedule_texts, own_schedules, scheduler_texts, warmup_texts
from scaler.cli.script.trainings import Family, freezes, is_optimizer
from scaler.cli.script.values import names_in, not_recognized, shown

_SAVED = '"run": run.state_dict()'


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of a script, and what becomes of it.

    Args:
        line: its number.
        source: its text.
        then: what to do, each in one line.
    """

    line: int
    source: str
    then: Sequence[str]


def rows_of(script: Script, family: Family) -> list[Row]:
    """Return a row for each line that changes, in the order of the lines."""
    found: dict[int, tuple[str, list[str]]] = {}
    for node, then in _found(script, family):
        line = int(getattr(node, "lineno", 1))
        source, texts = found.get(line, ("", []))
        texts.extend(text for text in then if text not in texts)
        found[line] = (max(source, script.text(node), key=len), texts)
    return [Row(line=line, source=source, then=then) for line, (source, then) in sorted(found.items())]


def missing(script: Script, family: Family) -> list[str]:
    """Return what the job file needs and the script does not show."""
    found = []
    if family != "transformers" and not any(is_optimizer(call) for call in script.calls):
        found.append("reference.lr and reference.optimizer: the optimizer is not made in this file")
    if family != "transformers" and not any(call.name == "DataLoader" for call in script.calls):
        found.append("reference.global_batch_size: there is no DataLoader in this file")
    return found


def _found(script: Script, family: Family) -> Iterator[tuple[ast.AST, list[str]]]:
    for call in script.calls:
        for is_it, then in _KINDS:
            if is_it(script, call):
                texts = then(script, call, family)
                if texts:
                    yield call.node, texts
                break
    if family in ("recipe", "loop", "accelerate"):
        yield from _epochs(script)
        yield from _accumulation(script, family)
        for statement in own_schedules(script):
            yield statement, [*own_schedule_texts(script, statement), "remove it: scaler writes the learning rate"]
    if family == "recipe":
        for statement in freezes(script):
            yield statement, ["job.yaml: groups: [{match: PATTERN, freeze: true}], for the names of these parameters"]


def _scheduler(script: Script, call: Call, family: Family) -> list[str]:
    return [*scheduler_texts(script, call), "remove it: scaler writes the learning rate"]


def _scheduler_step(script: Script, call: Call, family: Family) -> list[str]:
    return ["remove it"]


def _loader(script: Script, call: Call, family: Family) -> list[str]:
    size = call.argument("batch_size", 1)
    data = ast.unparse(call.node.args[0]) if call.node.args else "the data"
    if not _is_for_training(script, call):
        return [f"recipe.py: eval_data={data}"] if family == "recipe" else []
    batch = (
        f"job.yaml: reference.global_batch_size: {shown(script, size)}, times the processes and the micro-steps that "
        "the learning rate was tuned with"
    )
    loops = {
        "recipe": [
            f"recipe.py: train_data={data}",
            "job.yaml: scale.per_worker_batch_size, for each worker",
            *_loader_options(script, call),
        ],
        "loop": ["batch_size=run.batch_size", "then: model, optimizer, loader = run.prepare(model, optimizer, loader)"],
    }
    return [batch, *loops.get(family, [])]


def _loader_options(script: Script, call: Call) -> list[str]:
    """Return what becomes of the options of the loader of the training data, in a recipe."""
    found, unknown = [], []
    for keyword in call.node.keywords:
        value = shown(script, keyword.value)
        match keyword.arg:
            case "dataset" | "batch_size" | "shuffle" | "persistent_workers":
                continue
            case "sampler" if any(each.name == "DistributedSampler" for each in script.calls):
                continue
            case "num_workers":
                found += [f"job.yaml: train.data_workers: {value}"] if value != "0" else []
            case "drop_last":
                is_dropped = {"true": True, "false": False}.get(value)
                if is_dropped is not False:
                    found.append(
                        "job.yaml: train.last_batch: drop" if is_dropped else f"train.last_batch: drop, if {value}"
                    )
            case "pin_memory":
                found += [f"job.yaml: train.pin_memory: {value}"] if value != "true" else []
            case "collate_fn":
                found.append(f"recipe.py: collate={ast.unparse(keyword.value)}")
            case _:
                unknown.append(keyword)
    return [*found, *not_recognized(unknown)]


def _unplaced(script: Script, call: Call, family: Family) -> list[str]:
    """Return a text about a call of torch that no other kind of row knows, and that changes a training."""
    return [f"not recognized: {call.path}"] if family == "recipe" else []


def _is_unplaced(script: Script, call: Call) -> bool:
    is_sampler = call.path.startswith("torch.utils.data.") and call.name.endswith("Sampler")
    return is_sampler or call.path.startswith(("torch.nn.utils.", "torch.optim.", "torch.compile"))


def _distributed(script: Script, call: Call, family: Family) -> list[str]:
    if family == "recipe":
        is_sharded = call.name in ("FullyShardedDataParallel", "fully_shard")
        sharded = ["job.yaml: train.strategy: fsdp"] if is_sharded else []
        return [*sharded, "remove it: scaler does it"]
    if family == "loop" and call.name == "init_process_group":
        return [f"keep it; after it: {STARTED}"]
    return []


def _backward(script: Script, call: Call, family: Family) -> list[str]:
    loss = call.owner or "loss"
    if family == "recipe":
        return ["recipe.py: loss=, a function of model and batch that returns this loss; the loop is scaler's"]
    if family in ("loop", "accelerate"):
        argument = ast.unparse(call.node.args[0]) if family == "accelerate" and call.node.args else loss
        return [f"before it: scaler.record(loss={argument})"]
    return []


def _precision(script: Script, call: Call, family: Family) -> list[str]:
    is_bf16 = any("bfloat16" in name for name in names_in(call.node))
    kind = "bf16" if is_bf16 else "fp16"
    return [f"job.yaml: train.precision: {kind}", "remove it"] if family == "recipe" else []


def _clipping(script: Script, call: Call, family: Family) -> list[str]:
    value = shown(script, call.argument("max_norm", 1))
    return [f"job.yaml: train.clip_grad_norm: {value}", "remove it"] if family == "recipe" else []


def _seed(script: Script, call: Call, family: Family) -> list[str]:
    value = shown(script, call.argument("seed", 0))
    return [f"job.yaml: train.seed: {value}", "remove it"] if family == "recipe" else []


def _checkpoint(script: Script, call: Call, family: Family) -> list[str]:
    if family == "recipe":
        is_saved = call.name == "save"
        then = "remove it: scaler saves and resumes (job.yaml: checkpoint.every)"
        return [then if is_saved else "keep it in recipe.py if it loads trained weights; scaler loads its checkpoints"]
    if family != "loop":
        return []
    return [
        f"with {_SAVED}" if call.name == "save" else 'then: run.load_state_dict(saved["run"]), before the first step'
    ]


def _evaluation(script: Script, call: Call, family: Family) -> list[str]:
    if family == "recipe":
        return ["recipe.py: evaluate=, a function of model and batch that returns a dict of values"]
    return ["after the evaluation: run.evaluated(accuracy=...)"] if family in ("loop", "accelerate") else []


def _lightning_trainer(script: Script, call: Call, family: Family) -> list[str]:
    epochs, steps = call.argument("max_epochs"), call.argument("max_steps")
    length = f"epochs: {shown(script, epochs)}" if steps is None else f"steps: {shown(script, steps)}"
    return [
        'callbacks=[ScalerCallback("job.yaml")], from scaler.integrations.lightning',
        f"job.yaml: train: {{{length}}}; then max_epochs=-1 here",
    ]


def _arguments(script: Script, call: Call, family: Family) -> list[str]:
    size = call.argument("per_device_train_batch_size")
    epochs, lr = call.argument("num_train_epochs"), call.argument("learning_rate")
    name, warmup = call.argument("lr_scheduler_type"), call.argument("warmup_steps")
    kind = script.value(name) if name is not None else "linear"
    schedule = f"name: {kind if kind in ('linear', 'cosine', 'constant') else 'linear'}"
    share = call.argument("warmup_ratio")
    length = f"steps: {shown(script, warmup)}" if warmup is not None else f"fraction: {shown(script, share)}"
    has_warmup = warmup is not None or share is not None
    return [
        f"job.yaml: reference: {{global_batch_size: {'8' if size is None else shown(script, size)} times the processes"
        f" and the accumulation, lr: {'5e-05' if lr is None else shown(script, lr)}, optimizer: {{name: adamw, "
        "weight_decay: 0}}",
        *(warmup_texts(schedule, length) if has_warmup else [f"job.yaml: schedule: {{{schedule}}}"]),
        f"job.yaml: train: {{epochs: {'3' if epochs is None else shown(script, epochs)}}}",
    ]


def _trainer(script: Script, call: Call, family: Family) -> list[str]:
    return [
        'before it: scaled = ScalerCallback("job.yaml"), from scaler.integrations.transformers',
        "callbacks=[scaled], optimizers=scaled.optimizers(optimizer), with the optimizer as tuned",
    ]


def _prepare(script: Script, call: Call, family: Family) -> list[str]:
    arguments = ", ".join(ast.unparse(each) for each in call.node.args)
    given = f'prepare({call.owner}, "job.yaml", {arguments})'
    return [f"run, ... = {given}, from scaler.integrations.accelerate; without the scheduler"]


def _epochs(script: Script) -> Iterator[tuple[ast.AST, list[str]]]:
    """Yield the loop over epochs: a loop around backward() that counts."""
    for call in script.calls:
        if call.name != "backward":
            continue
        for each in call.around:
            if (
                isinstance(each, ast.For)
                and isinstance(each.iter, ast.Call)
                and "epoch" in ast.unparse(each).split(":")[0]
            ):
                length = shown(script, each.iter.args[-1] if each.iter.args else None)
                yield each, [f"job.yaml: train: {{epochs: {length}}}"]
    for call in script.calls:
        is_range = call.name == "range" and call.node.args
        if is_range and "epoch" in script.line(call.node) and not _has_backward(script, call.node.lineno):
            yield call.node, [f"job.yaml: train: {{epochs: {shown(script, call.node.args[-1])}}}"]


def _has_backward(script: Script, line: int) -> bool:
    around = [each for call in script.calls if call.name == "backward" for each in call.around]
    return any(getattr(each, "lineno", 0) == line for each in around)


def _accumulation(script: Script, family: Family) -> Iterator[tuple[ast.AST, list[str]]]:
    """Yield the condition under which an optimizer steps only after several batches."""
    for call in script.calls:
        if call.name != "step" or call.loop is None:
            continue
        for each in call.around:
            if not isinstance(each, ast.If):
                continue
            for part in ast.walk(each.test):
                if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod):
                    number = shown(script, part.right)
                    keep = "remove it" if family == "recipe" else "keep it"
                    yield each, [f"job.yaml: scale.grad_accum_steps: {number}", keep]


def _is_for_training(script: Script, call: Call) -> bool:
    """Return whether a loader is for training: it shuffles or has a sampler, or no loader of the script does."""
    loaders = [each for each in script.calls if each.name == "DataLoader"]
    return _is_random(script, call) or not any(_is_random(script, each) for each in loaders)


def _is_random(script: Script, loader: Call) -> bool:
    shuffles = loader.argument("shuffle", 2)
    is_off = isinstance(shuffles, ast.Constant) and not shuffles.value
    return (shuffles is not None and not is_off) or loader.argument("sampler") is not None


def _is_scheduler(script: Script, call: Call) -> bool:
    is_torch = call.owner == "torch.optim.lr_scheduler"
    return is_torch or (
        call.name.startswith("get_") and call.name.endswith(("_schedule", "_with_warmup", "_scheduler"))
    )


def _named(*names: str) -> Callable[[Script, Call], bool]:
    return lambda script, call: call.name in names


def _is_scheduler_step(script: Script, call: Call) -> bool:
    return call.name == "step" and any(word in call.owner.lower() for word in ("sched", "warmup"))


_Then = Callable[[Script, Call, Family], list[str]]
_KINDS: Sequence[tuple[Callable[[Script, Call], bool], _Then]] = (
    (lambda script, call: is_optimizer(call), optimizer_texts),
    (_is_scheduler, _scheduler),
    (_is_scheduler_step, _scheduler_step),
    (_named("DataLoader"), _loader),
    (
        _named(
            "DistributedDataParallel",
            "FullyShardedDataParallel",
            "fully_shard",
            "DistributedSampler",
            "init_process_group",
            "destroy_process_group",
            "set_epoch",
        ),
        _distributed,
    ),
    (_named("backward"), _backward),
    (_named("GradScaler", "autocast"), _precision),
    (_named("clip_grad_norm_"), _clipping),
    (lambda script, call: call.path == "torch.manual_seed", _seed),
    (lambda script, call: call.path in ("torch.save", "torch.load"), _checkpoint),
    (lambda script, call: call.name == "eval" and not call.node.args, _evaluation),
    (lambda script, call: call.name == "Trainer" and "lightning" in call.path, _lightning_trainer),
    (lambda script, call: call.name.endswith("TrainingArguments"), _arguments),
    (lambda script, call: call.name.endswith("Trainer") and call.name[:1].isupper(), _trainer),
    (lambda script, call: call.name == "prepare" and "accelerator" in call.owner, _prepare),
    (_is_unplaced, _unplaced),
)
