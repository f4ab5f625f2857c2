"""The templates of ``scaler init``: a folder each, with files that run unchanged.

The files end in ``.txt``, so that nothing takes them for modules of scaler.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

DEFAULT = "classifier"
SUFFIX = ".txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One template.

    Args:
        is_for: for whom it is, in one line.
        next: commands that come next, and what each does; JOB and SCRIPT stand for the paths of the files.
        package: that has to be installed beside scaler, which is also the name of scaler's extra; None: none.
    """

    is_for: str
    next: Mapping[str, str]
    package: str | None = None


_RECIPE = {
    "scaler plan JOB": "every number of the training, with its reason",
    "scaler submit JOB": "train on 2 workers, and show the report",
}

TEMPLATES: Mapping[str, Template] = {
    "classifier": Template(is_for="a model, data and a loss in plain torch; the shortest start", next=_RECIPE),
    "language-model": Template(is_for="a small GPT, with batch sizes and lengths in tokens", next=_RECIPE),
    "finetune": Template(
        is_for="a trained model on a new task: frozen layers, and lower learning rates below the head", next=_RECIPE
    ),
    "own-loop": Template(
        is_for="a training loop of your own, under python, torchrun or scaler submit",
        next={
            "python SCRIPT": "train in one process",
            "torchrun --nproc-per-node 2 SCRIPT": "train in two processes",
            "scaler submit JOB": "train on 2 workers of Ray, which restart after a failure",
        },
    ),
    "lightning": Template(
        is_for="a LightningModule and Lightning's Trainer",
        next={
            "python SCRIPT": "train in one process",
            "python SCRIPT 2": "train in two processes",
            "scaler report last": "show the report of the newest run",
        },
        package="lightning",
    ),
    "transformers": Template(
        is_for="the Trainer of Transformers",
        next={
            "python SCRIPT": "train in one process",
            "torchrun --nproc-per-node 2 SCRIPT": "train in two processes",
            "scaler report last": "show the report of the newest run",
        },
        package="transformers",
    ),
}


def files_of(name: str) -> dict[str, str]:
    """Return the files of a template: their names and texts, ``job.yaml`` first."""
    folder = files("scaler.cli.templates") / name
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(SUFFIX))
    return {each.removesuffix(SUFFIX): (folder / each).read_text(encoding="utf-8") for each in names}
