"""Find how a script trains, and the template that fits."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scaler.cli.script.reading import Call, Function, Loop, Script
from scaler.errors import JobFileError

Family = Literal["recipe", "loop", "accelerate", "lightning", "transformers"]

_LIGHTNING = ("lightning", "pytorch_lightning")
_TRAINERS = ("Trainer", "Seq2SeqTrainer", "SFTTrainer")
_TEXT = ("tokenizer", "vocab_size", "input_ids", "block_size", "seq_len", "sequence_length")
_OURS = ("scaler.start", "scaler.Recipe", "scaler.SampleScheduler", "scaler.integrations.accelerate.prepare")
MOST_SHOWN = 5  # lines that an error names


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a script trains.

    Args:
        family: how its lines are brought to scaler.
        template: that fits.
        why: in one sentence.
    """

    family: Family
    template: str
    why: str


def find_training(script: Script, *, wanted: str | None = None) -> Training:
    """Return how a script trains, and the template that fits.

    Args:
        script: the script.
        wanted: the template that the user asks for; None: the one that fits.

    Raises:
        JobFileError: nothing in the script trains, it has several training loops, or it does not fit ``wanted``.
    """
    found = _found(script)
    if wanted is None or wanted == found.template:
        return found
    if wanted == "own-loop" and found.family == "recipe":
        return Training(family="loop", template="own-loop", why="you asked for it: the loop stays in the script")
    if wanted in ("classifier", "language-model", "finetune") and found.family in ("recipe", "loop"):
        return Training(family="recipe", template=wanted, why="you asked for it")
    raise JobFileError(
        f"{script.name}: the template {wanted} does not fit: {found.why}.",
        f"Use --template {found.template}, or leave --template out.",
    )


def _found(script: Script) -> Training:
    names = {call.path for call in script.calls}
    ours = next((call for call in script.calls if call.path in _OURS or call.name == "ScalerCallback"), None)
    if ours is not None:
        raise JobFileError(
            f"{script.name}: calls {ours.path} at line {ours.node.lineno}, so scaler has it already.",
            'scaler submit, python or torchrun runs it; the page "My own training loop" says which.',
        )
    if script.imports_any(*_LIGHTNING) and any(name.endswith(".Trainer") for name in names):
        return Training(family="lightning", template="lightning", why="it trains with Lightning's Trainer")
    if script.imports_any("transformers", "trl") and any(name.rpartition(".")[2] in _TRAINERS for name in names):
        return Training(
            family="transformers", template="transformers", why="it trains with the Trainer of Transformers"
        )
    backwards = [call for call in script.calls if call.name == "backward"]
    if not backwards:
        raise JobFileError(
            f"{script.name}: has no training loop: no call of backward(), and no Trainer.",
            "Give the script that trains; what it imports is not read.",
        )
    loops = list(dict.fromkeys(_outermost(call) for call in backwards))
    if len(loops) > 1:
        shown = ", ".join(str(getattr(loop, "lineno", 1)) for loop in loops[:MOST_SHOWN])
        raise JobFileError(
            f"{script.name}: has {len(loops)} training loops, at lines {shown}.",
            "A run is one of them: give a script with one training loop.",
        )
    if script.imports_any("accelerate"):
        return Training(
            family="accelerate", template="own-loop", why="it has a loop of its own, in which accelerate does the rest"
        )
    if any(name.endswith("Fabric") for name in names):
        return Training(family="loop", template="own-loop", why="it has a loop of its own, with Lightning Fabric")
    optimizers = [call for call in script.calls if is_optimizer(call)]
    if len(backwards) > 1 or len(optimizers) > 1:
        return Training(
            family="loop",
            template="own-loop",
            why=f"its loop has {len(optimizers)} optimizers and calls backward() at {len(backwards)} places",
        )
    return Training(family="recipe", template=_recipe(script), why=_why_recipe(script))


def is_optimizer(call: Call) -> bool:
    """Return whether a call makes an optimizer."""
    from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts

    classes = {optimizer_facts(name).path.rpartition(":")[2] for name in NAMED_OPTIMIZERS}
    is_torch = call.owner in ("torch.optim", "torch.optim.adamw", "torch.optim.sgd") and call.name[:1].isupper()
    return is_torch or (call.name in classes and bool(call.node.args))


def _recipe(script: Script) -> str:
    names = {node.attr for node in ast.walk(script.tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(script.tree) if isinstance(node, ast.Name)}
    keywords = {node.arg for node in ast.walk(script.tree) if isinstance(node, ast.keyword)}
    if freezes(script) or names & {"from_pretrained", "requires_grad_"} or keywords & {"pretrained", "weights"}:
        return "finetune"
    return "language-model" if (names | keywords) & set(_TEXT) else "classifier"


def _why_recipe(script: Script) -> str:
    kinds: dict[str, Sequence[str]] = {
        "DistributedDataParallel": ("DistributedDataParallel", "FullyShardedDataParallel", "fully_shard"),
        "sampler": ("DistributedSampler",),
        "mixed precision": ("GradScaler", "autocast"),
        "checkpoints": ("save",),
    }
    called = {call.name for call in script.calls}
    replaced = [kind for kind, names in kinds.items() if called & set(names)]
    text = "one loss and one optimizer, which scaler's own loop trains"
    return f"{text}; scaler replaces the script's {', '.join(replaced)}" if replaced else text


def freezes(script: Script) -> list[ast.Assign]:
    """Return the statements that set ``requires_grad`` to false."""
    return [
        node
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "requires_grad"
        and isinstance(node.value, ast.Constant)
        and node.value.value is False
    ]


def _outermost(call: Call) -> ast.AST | None:
    """Return the outermost loop around a call in its function; without a loop, the function."""
    inner = call.around
    for index, each in enumerate(inner):
        if isinstance(each, Function):
            inside = [other for other in inner[index + 1 :] if isinstance(other, Loop | Function)]
            if not any(isinstance(other, Function) for other in inside):
                return inside[0] if inside else each
    return next((each for each in inner if isinstance(each, Loop)), None)
