"""What to do with the lines of a training script: one row for each line that scaler or its job file takes over."""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scaler.cli.script.reading import Call, Script
from scaler.cli.script.schedules import schedule_of
from scaler.cli.script.trainings import Family, freezes, is_optimizer

_STARTED = 'run = scaler.start("job.yaml", num_samples=len(dataset))'
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
        _, texts = found.setdefault(line, (script.line(node), []))
        texts.extend(text for text in then if text not in texts)
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
    if family == "recipe":
        for statement in freezes(script):
            yield statement, ["job.yaml: groups: [{match: PATTERN, freeze: true}], for the names of these parameters"]


def _optimizer(script: Script, call: Call, family: Family) -> list[str]:
    from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts

    names = {optimizer_facts(name).path.rpartition(":")[2]: name for name in NAMED_OPTIMIZERS}
    name = names.get(call.name, f"torch.optim:{call.name}")
    known = optimizer_facts(name).options
    options: list[str] = []
    for keyword in call.node.keywords:
        if keyword.arg in (None, "lr", "params") or (known is not None and keyword.arg not in known):
            continue
        options.append(f"{keyword.arg}: {_shown(script, keyword.value)}")
    lr = call.argument("lr", 1)
    lr_text = "LR (the optimizer's default)" if lr is None else _shown(script, lr)
    reference = f"lr: {lr_text}, optimizer: {{{', '.join([f'name: {name}', *options])}}}"
    then = [f"job.yaml: reference: {{{reference}}}"]
    if lr is not None and any("world" in each or "rank" in each for each in _names(lr)):
        then.append("reference.lr without the factor for the number of processes: scaler scales it")
    if call.node.args and isinstance(call.node.args[0], ast.List):
        then.append("job.yaml: groups: an entry for each group of parameters, with lr_ratio and weight_decay")
    if family == "loop" and not any(each.name == "init_process_group" for each in script.calls):
        then.append(f"after it: {_STARTED}")
    keep = "keep it, with the learning rate that was tuned in one process: scaler writes the scaled one"
    return [*then, "remove it: scaler makes the optimizer" if family == "recipe" else keep]


def _scheduler(script: Script, call: Call, family: Family) -> list[str]:
    return [f"job.yaml: schedule: {schedule_of(script, call, _shown)}", "remove it: scaler writes the learning rate"]


def _scheduler_step(script: Script, call: Call, family: Family) -> list[str]:
    return ["remove it"]


def _loader(script: Script, call: Call, family: Family) -> list[str]:
    size = call.argument("batch_size", 1)
    data = ast.unparse(call.node.args[0]) if call.node.args else "the data"
    if not _is_for_training(script, call):
        return [f"recipe.py: eval_data={data}"] if family == "recipe" else []
    batch = (
        f"job.yaml: reference.global_batch_size: {_shown(script, size)}, times the processes and the micro-steps that "
        "the learning rate was tuned with"
    )
    loops = {
        "recipe": [f"recipe.py: train_data={data}", "job.yaml: scale.per_worker_batch_size, for each worker"],
        "loop": ["batch_size=run.batch_size", "then: model, optimizer, loader = run.prepare(model, optimizer, loader)"],
    }
    return [batch, *loops.get(family, [])]


def _distributed(script: Script, call: Call, family: Family) -> list[str]:
    if family == "recipe":
        is_sharded = call.name in ("FullyShardedDataParallel", "fully_shard")
        sharded = ["job.yaml: train.strategy: fsdp"] if is_sharded else []
        return [*sharded, "remove it: scaler does it"]
    if family == "loop" and call.name == "init_process_group":
        return [f"keep it; after it: {_STARTED}"]
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
    is_bf16 = any("bfloat16" in name for name in _names(call.node))
    kind = "bf16" if is_bf16 else "fp16"
    return [f"job.yaml: train.precision: {kind}", "remove it"] if family == "recipe" else []


def _clipping(script: Script, call: Call, family: Family) -> list[str]:
    value = _shown(script, call.argument("max_norm", 1))
    return [f"job.yaml: train.clip_grad_norm: {value}", "remove it"] if family == "recipe" else []


def _seed(script: Script, call: Call, family: Family) -> list[str]:
    value = _shown(script, call.argument("seed", 0))
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
    length = f"epochs: {_shown(script, epochs)}" if steps is None else f"steps: {_shown(script, steps)}"
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
    if warmup is not None:
        schedule += f", warmup: {{steps: {_shown(script, warmup)}}}"
    return [
        f"job.yaml: reference: {{global_batch_size: {'8' if size is None else _shown(script, size)} times the processes"
        f" and the accumulation, lr: {'5e-05' if lr is None else _shown(script, lr)}, optimizer: {{name: adamw, "
        "weight_decay: 0}}",
        f"job.yaml: schedule: {{{schedule}}}",
        f"job.yaml: train: {{epochs: {'3' if epochs is None else _shown(script, epochs)}}}",
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
                length = _shown(script, each.iter.args[-1] if each.iter.args else None)
                yield each, [f"job.yaml: train: {{epochs: {length}}}"]
    for call in script.calls:
        is_range = call.name == "range" and call.node.args
        if is_range and "epoch" in script.line(call.node) and not _has_backward(script, call.node.lineno):
            yield call.node, [f"job.yaml: train: {{epochs: {_shown(script, call.node.args[-1])}}}"]


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
                    number = _shown(script, part.right)
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


def _shown(script: Script, node: ast.expr | None) -> str:
    """Return a value as YAML, or the text of an expression whose value the script does not show."""
    value = script.value(node)
    if node is None or (value is None and not isinstance(node, ast.Constant)):
        return "?" if node is None else f"the value of {ast.unparse(node)}"
    return _yaml(value)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return "null" if value is None else str(value)


def _names(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


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
    (lambda script, call: is_optimizer(call), _optimizer),
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
)
