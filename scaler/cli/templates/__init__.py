"""The templates of ``scaler init``: a folder each, with files that run unchanged.

The files end in ``.txt``, so that nothing takes them for modules of scaler.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import yaml

DEFAULT = "classifier"
SUFFIX = ".txt"
JOB_FILE = "job.yaml"
MOST_CHARACTERS = 50  # of a job's name that is a folder's
_NAME = re.compile(r"^name: (\S+ *)", re.MULTILINE)


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


def files_of(name: str, *, job_name: str | None = None) -> dict[str, str]:
    """Return the files of a template: their names and texts, ``job.yaml`` first.

    Args:
        name: of the template.
        job_name: name of the job; None: the template's own.
    """
    folder = files("scaler.cli.templates") / name
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(SUFFIX))
    texts = {each.removesuffix(SUFFIX): (folder / each).read_text(encoding="utf-8") for each in names}
    if job_name is not None:
        named = _NAME.sub(lambda line: f"name: {job_name:<{len(line[1])}}", texts[JOB_FILE], count=1)
        texts[JOB_FILE] = re.sub(" +$", "", named, flags=re.MULTILINE)  # where no comment follows the name
    return texts


def job_name_of(folder: str) -> str | None:
    """Return the name of a job in a folder: the folder's name, made valid; None: nothing valid is left of it.

    Example:
        >>> job_name_of("digits mine"), job_name_of("2026"), job_name_of("...")
        ('digits-mine', "'2026'", None)
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder)[:MOST_CHARACTERS].strip("-.")
    if not name:
        return None
    return name if yaml.safe_load(name) == name else f"'{name}'"  # YAML reads 2026 and true as other things than texts
