"""Keys of ``train`` with several forms that change speed and memory, and not what is computed."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from scaler.job.section import Section


class Compile(Section):
    """Options of `torch.compile`. Its modes with CUDA graphs are not offered."""

    mode: Literal["default", "max-autotune-no-cudagraphs"] = Field(
        "default",
        description="default: compiles in seconds to minutes; max-autotune-no-cudagraphs: also measures several "
        "kernels for each operation, which takes longer to compile.",
    )
    backend: str = Field("inductor", min_length=1, description="torch's compiler backend.")
    dynamic: bool | None = Field(
        None,
        description="true: compile once for all batch sizes; false: once for each size. null: torch decides when a "
        "second size comes.",
    )


CompileChoice = Annotated[
    Annotated[bool, Tag("<word>")] | Annotated[Compile, Tag("<section>")],
    Discriminator(lambda value: "<section>" if isinstance(value, dict | Compile) else "<word>"),
]

ActivationCheckpointing = Annotated[
    Annotated[tuple[str, ...], Field(strict=False, min_length=1), Tag("<list>")]
    | Annotated[Literal["auto"], Tag("<word>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list | tuple) else "<word>"),
]
