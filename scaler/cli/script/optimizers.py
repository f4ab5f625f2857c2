"""The reference and the groups of the job file that do what a script's optimizer does."""

import ast
from collections.abc import Sequence

from scaler.cli.script.reading import Call, Script
from scaler.cli.script.trainings import Family
from scaler.cli.script.values import assigned, names_in, not_recognized, shown

STARTED = 'run = scaler.start("job.yaml", num_samples=len(dataset))'
_DIMENSIONS = frozenset({"ndim", "dim"})
_HAVE_NO_EFFECT = frozenset({"foreach", "fused", "capturable"})  # on what an optimizer computes


def optimizer_texts(script: Script, call: Call, family: Family) -> list[str]:
    """Return what becomes of the line that makes the optimizer."""
    from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts

    names = {optimizer_facts(name).path.rpartition(":")[2]: name for name in NAMED_OPTIMIZERS}
    name = names.get(call.name, f"torch.optim:{call.name}")
    known = optimizer_facts(name).options
    groups = _groups(script, call)
    options: dict[str, str] = {}
    unknown: list[ast.keyword] = []
    for keyword in call.node.keywords:
        if keyword.arg in ("lr", "params"):
            continue
        if keyword.arg is None or (known is not None and keyword.arg not in known):
            unknown += [] if keyword.arg in _HAVE_NO_EFFECT else [keyword]
            continue
        options[keyword.arg] = shown(script, keyword.value)
    decays = [shown(script, value) for group in groups if (value := _entry(group, "weight_decay")) is not None]
    own = next((decay for decay in decays if decay not in ("0", "0.0")), None)
    if own is not None and options.get("weight_decay", "0.0") in ("0", "0.0"):
        options["weight_decay"] = own  # of the group that is decayed
    lr = call.argument("lr", 1)
    lr_text = "LR (the optimizer's default)" if lr is None else shown(script, lr)
    texts = ", ".join([f"name: {name}", *(f"{key}: {value}" for key, value in options.items())])
    then = [f"job.yaml: reference: {{lr: {lr_text}, optimizer: {{{texts}}}}}"]
    if lr is not None and any("world" in each or "rank" in each for each in names_in(lr)):
        then.append("reference.lr without the factor for the number of processes: scaler scales it")
    if groups:
        then += _groups_texts(script, groups, decays, family)
    then += not_recognized(unknown)
    if family == "loop" and not any(each.name == "init_process_group" for each in script.calls):
        then.append(f"after it: {STARTED}")
    keep = "keep it, with the learning rate that was tuned in one process: scaler writes the scaled one"
    return [*then, "remove it: scaler makes the optimizer" if family == "recipe" else keep]


def _groups(script: Script, call: Call) -> Sequence[ast.expr]:
    """Return the groups of parameters that an optimizer is made with; empty if it has one."""
    given = assigned(script, call.argument("params", 0))
    return given.elts if isinstance(given, ast.List) else []


def _groups_texts(script: Script, groups: Sequence[ast.expr], decays: Sequence[str], family: Family) -> list[str]:
    if family != "recipe":
        return []  # the optimizer stays, with its groups
    differ = len(set(decays)) > 1 or (decays and len(decays) < len(groups))
    if not differ or not _splits_by_dimensions(script):
        return ["job.yaml: groups: an entry for each group of parameters, with match, lr_ratio and weight_decay"]
    return [
        'job.yaml: groups: [{match: "*bias*", weight_decay: 0}, {match: "*norm*", weight_decay: 0}]',
        "this script splits the parameters by their number of dimensions, and a job file by their names: scaler plan "
        "DIR lists each group with its parameters, tensors and weight decay. Compare it with your groups",
    ]


def _splits_by_dimensions(script: Script) -> bool:
    """Return whether the script compares the number of dimensions of tensors, as ``p.ndim > 1``."""
    comparisons = (each for each in ast.walk(script.tree) if isinstance(each, ast.Compare))
    return any(names_in(each.left) & _DIMENSIONS for each in comparisons)


def _entry(group: ast.expr, key: str) -> ast.expr | None:
    """Return a value of a group that is written as a dict."""
    if isinstance(group, ast.Dict):
        for name, value in zip(group.keys, group.values, strict=True):
            if isinstance(name, ast.Constant) and name.value == key:
                return value
    if isinstance(group, ast.Call):
        return next((each.value for each in group.keywords if each.arg == key), None)
    return None
