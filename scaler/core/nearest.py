"""The known name that is nearest to an unknown one, for error messages."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

LONGEST = 60  # characters of a name that are compared
CUTOFF = 0.6  # of difflib's ratio
SHORTEST_START = 3  # characters of a known name that is recognized as the start of a longer word
SHORTEST_WORD = 2  # characters of a word that is recognized as the start of a longer name

# Names of other libraries, in letters and digits only -> names of the job file. For names that are spelled differently.
SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "learningrate": ("lr",),
        "baselr": ("lr",),
        "maxlr": ("lr",),
        "rate": ("lr",),
        "wd": ("weight_decay",),
        "l2": ("weight_decay",),
        "beta1": ("betas",),
        "beta2": ("betas",),
        "epsilon": ("eps",),
        "batchsize": ("global_batch_size", "per_worker_batch_size"),
        "bs": ("global_batch_size", "per_worker_batch_size"),
        "worldsize": ("num_workers",),
        "nprocs": ("num_workers",),
        "dp": ("replicate",),
        "dpreplicate": ("replicate",),
        "ddp": ("replicate",),
        "dpshard": ("shard",),
        "fsdp": ("shard",),
        "tp": ("tensor",),
        "cp": ("context",),
        "pp": ("pipeline",),
        "ep": ("expert",),
        "gradientaccumulation": ("grad_accum_steps",),
        "gradientaccumulationsteps": ("grad_accum_steps",),
        "gradientclipping": ("clip_grad_norm",),
        "maxgradnorm": ("clip_grad_norm",),
        "gradientclipval": ("clip_grad_norm",),
        "lrscheduler": ("schedule",),
        "dtype": ("precision",),
        "amp": ("precision",),
        "cosineannealingwarmrestarts": ("cosine_restarts",),
        "sgdr": ("cosine_restarts",),
        "1cycle": ("one_cycle",),
        "clr": ("cyclical",),
        "squareroot": ("sqrt",),
        "malladi": ("adam_sde",),
        "fixed": ("none", "constant"),
        "off": ("none",),
        "float32": ("fp32",),
        "float16": ("fp16",),
        "half": ("fp16",),
        "bfloat16": ("bf16",),
    }
)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to ``word``; None if none is near.

    Case, ``_``, ``-`` and ``.`` are ignored. A name is near if it is equal, a synonym or spelled similarly, or if one
    is the start of the other (``CosineAnnealingLR`` is ``cosine``, ``poly`` is ``polynomial``).

    Example:
        >>> known = ("lr", "momentum", "weight_decay", "cosine", "torch.optim:SGD")
        >>> [nearest(word, known) for word in ("Learning_Rate", "momentun", "WeightDecay", "CosineAnnealingLR", "x")]
        ['lr', 'momentum', 'weight_decay', 'cosine', None]
    """
    known = tuple(known)
    for name in same_names(word, known):
        return name
    bare = {_bare(name): name for name in reversed(known)}
    wanted = _bare(word[:LONGEST])
    near = get_close_matches(wanted, list(bare)[::-1], n=1, cutoff=CUTOFF)
    if near:
        return bare[near[0]]
    starts = [name for name in bare if len(name) >= SHORTEST_START and wanted.startswith(name)]
    if starts:
        return bare[max(starts, key=len)]
    longer = [name for name in bare if len(wanted) >= SHORTEST_WORD and name.startswith(wanted)]
    return bare[min(longer, key=len)] if longer else None


def same_names(word: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are ``word`` in another spelling, or else its synonyms.

    Example:
        >>> known = ("global_batch_size", "per_worker_batch_size", "lr")
        >>> [same_names(word, known) for word in ("batch-size", "LR", "lrs")]
        [['global_batch_size', 'per_worker_batch_size'], ['lr'], []]
    """
    wanted, known = _bare(word[:LONGEST]), tuple(known)
    equal = [name for name in known if _bare(name) == wanted]
    return equal or [synonym for synonym in SYNONYMS.get(wanted, ()) if synonym in known]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``Did you mean "name"? `` with a space after it, or nothing if no known name is near.

    Example:
        >>> did_you_mean("SGD", ["sgd", "adam"])
        'Did you mean "sgd"? '
    """
    near = nearest(word, known)
    return f'Did you mean "{near}"? ' if near is not None else ""


def _bare(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())
