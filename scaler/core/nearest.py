"""The name that a person may have meant: what an error offers for one that is not known."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

LONGEST = 60  # characters of a name that are compared
CUTOFF = 0.6  # of difflib's ratio
SHORTEST_START = 3  # characters that a known name must have to be recognized as the start of a longer word
SHORTEST_WORD = 2  # and a word, as the start of a longer name

# What others call it, in letters and digits alone -> what it is called here. For names that look nothing alike.
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
    """Return the known name that ``word`` was probably meant to be; None when there is none.

    Case, ``_``, ``-`` and ``.`` do not count. A name is near when it is the same, a synonym, of a similar spelling, or
    one is the start of the other (``CosineAnnealingLR`` is ``cosine``, ``poly`` is ``polynomial``).

    Example:
        >>> known = ("lr", "momentum", "weight_decay", "cosine", "torch.optim:SGD")
        >>> [nearest(word, known) for word in ("Learning_Rate", "momentun", "WeightDecay", "CosineAnnealingLR", "x")]
        ['lr', 'momentum', 'weight_decay', 'cosine', None]
    """
    bare = {_bare(name): name for name in reversed(tuple(known))}
    wanted = _bare(word[:LONGEST])
    if wanted in bare:
        return bare[wanted]
    names = set(bare.values())
    for synonym in SYNONYMS.get(wanted, ()):
        if synonym in names:
            return synonym
    near = get_close_matches(wanted, list(bare)[::-1], n=1, cutoff=CUTOFF)
    if near:
        return bare[near[0]]
    starts = [name for name in bare if len(name) >= SHORTEST_START and wanted.startswith(name)]
    if starts:
        return bare[max(starts, key=len)]
    longer = [name for name in bare if len(wanted) >= SHORTEST_WORD and name.startswith(wanted)]
    return bare[min(longer, key=len)] if longer else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``Did you mean "name"? `` with a blank after it, or nothing where no known name is near.

    Example:
        >>> did_you_mean("SGD", ["sgd", "adam"])
        'Did you mean "sgd"? '
    """
    near = nearest(word, known)
    return f'Did you mean "{near}"? ' if near is not None else ""


def _bare(name: str) -> str:
    """A name's letters and digits, in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())
