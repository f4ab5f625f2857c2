"""``scaler.export_model``: the weights of a run in a file, with a model card beside it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Literal

import scaler
from scaler.errors import JobFileError, ScalerError
from scaler.notebook import RunLike, run_folder
from scaler.report.run.model_card import ExportedFile, model_card
from scaler.report.run.read import read_jobs, read_report
from scaler.runs.filesystems import error_chain, reason

if TYPE_CHECKING:
    from scaler.training.checkpoints.choose import Which

Format = Literal["torch", "safetensors"]
SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
}
"""The format of a file by the end of its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """The files that ``export_model`` has written."""

    file: Path  # the weights
    card: Path  # the model card, in Markdown
    samples_seen: int  # samples in the weights, over all workers
    is_average: bool  # whether they are the moving average of the weights (train.ema)


def export_model(
    run: RunLike,
    file: str | os.PathLike[str] | None = None,
    *,
    format: Format | None = None,
    which: "Which" = "last",
    ema: bool | None = None,
    overwrite: bool = False,
    storage: str | os.PathLike[str] = "runs",
) -> ExportedModel:
    """Write the weights and buffers of one of a run's checkpoints to a file, under the model's own names.

    A model card in Markdown, with the run's plan, data and results, is written beside it. The recipe is not needed,
    and not run. Nothing in the run's folder is changed.

    Args:
        run: its id below ``storage``, its folder or URI, ``last``, or what ``scaler.read_run`` returned.
        file: gets the weights. Its card has the same name, with the end ``.md``. None: a file with the run's id as its
            name, in the current folder; then ``format`` is needed.
        format: ``torch``: for ``torch.load(file, weights_only=True)``. ``safetensors``: for
            ``safetensors.torch.load_model``. None: by the end of the file's name (``.pt``, ``.pth``, ``.bin`` or
            ``.safetensors``).
        which: as ``scaler.load_model`` takes it.
        ema: as ``scaler.load_model`` takes it.
        overwrite: replace files that exist.
        storage: the folder or URI that holds runs.

    Raises:
        RunError: there is no such run or checkpoint, or it cannot be read.
        JobFileError: a file exists or cannot be written, the format is not known, or cannot hold the weights.
    """
    from scaler.training.checkpoints.weights import count_elements, read_weights, write_safetensors, write_torch

    folder = run_folder(run, storage=storage)
    path = Path(file) if file is not None else _named_after(folder.run_id, format)
    card = path.with_suffix(".md")
    chosen = _format(path, format)
    _require_writable(path, card, overwrite=overwrite)
    weights = read_weights(folder, which, ema=ema)
    about = {
        "run": folder.run_id,
        "samples_seen": str(weights.samples_seen),
        "weights": "average" if weights.is_average else "last step",
        "scaler": scaler.__version__,
    }

    def write(part: Path) -> None:
        if chosen == "torch":
            write_torch(weights, part)
        else:
            write_safetensors(weights, part, about)

    def write_card(part: Path) -> None:
        part.write_text(model_card(report, job, weights.manifest, written), encoding="utf-8")

    job, report = list(read_jobs(folder).values())[-1], read_report(folder)
    _write(path, write)
    with path.open("rb") as exported:
        digest = file_digest(exported, "sha256").hexdigest()
    written = ExportedFile(
        name=path.name,
        format=chosen,
        size=path.stat().st_size,
        sha256=digest,
        tensors=len(weights.state),
        elements=count_elements(weights),
        is_average=weights.is_average,
        has_average=weights.has_average,
        scaler=scaler.__version__,
    )
    _write(card, write_card)
    return ExportedModel(file=path, card=card, samples_seen=weights.samples_seen, is_average=weights.is_average)


def _named_after(run_id: str, format: str | None) -> Path:
    """Return the file of a run's weights in the current folder."""
    if format is None:
        raise JobFileError(
            "neither a file nor a format is given.",
            "Give a file such as model.safetensors; or --format torch or --format safetensors, for a file with the "
            "run's id as its name.",
        )
    return Path(f"{run_id}{'.safetensors' if format == 'safetensors' else '.pt'}")


def _format(path: Path, format: str | None) -> Format:
    if format is None:
        if path.suffix not in SUFFIXES:
            raise JobFileError(
                f"{path}: the end of its name does not say its format.",
                f"End it with {', '.join(SUFFIXES)}, or give the format: --format torch, or --format safetensors.",
            )
        return SUFFIXES[path.suffix]
    if format not in SUFFIXES.values():
        raise JobFileError(f"format = {format} is not known.", "Use torch or safetensors.")
    if path.suffix == ".md":
        raise JobFileError(f"{path}: the model card would get the same name.", "End it with .pt or .safetensors.")
    return "torch" if format == "torch" else "safetensors"


def _require_writable(*paths: Path, overwrite: bool) -> None:
    for path in paths:
        if not path.parent.is_dir():
            raise JobFileError(f"{path}: there is no folder {path.parent}.", "Give a file in a folder that exists.")
        if path.exists() and not overwrite:
            raise JobFileError(f"{path} exists.", "Give another name, or --overwrite (overwrite=True) to replace it.")


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place and move it there.

    Raises:
        JobFileError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        try:
            write(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except ScalerError:
        raise
    except Exception as error:  # torch and safetensors turn a full disk into errors of their own
        cause = next((link for link in error_chain(error, contexts=True) if isinstance(link, OSError)), error)
        raise JobFileError(
            f"{path}: cannot be written: {reason(cause)}.", "Give a file in a folder that can be written."
        ) from error
