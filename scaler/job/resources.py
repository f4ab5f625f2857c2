"""The ``resources`` section: what each worker gets of the cluster, and where Ray places it."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scaler.job.section import MOST, Section, problem


class Resources(Section):
    """The resources of each worker on the cluster."""

    cpus_per_worker: float = Field(
        1.0, gt=0, description="CPUs reserved; fractions are allowed. Also the number of torch's threads, at least 1."
    )
    gpus_per_worker: Annotated[
        Annotated[float, Field(ge=0, le=1), Tag("<share>")] | Annotated[Literal["auto"], Tag("<word>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<share>"),
    ] = Field(
        "auto",
        description="GPUs reserved: 1, or a fraction for workers that share a GPU; 0: train on the CPU. auto: 1 if the "
        "cluster has a GPU when the run starts, otherwise 0. On a cluster that starts its GPU nodes on demand, give 1.",
    )
    accelerator_type: str | None = Field(
        None,
        min_length=1,
        description="Type of the GPUs, as Ray names it, such as A100, H100 or L4; workers are placed on nodes with it. "
        "null: any.",
    )
    placement: Literal["pack", "spread"] = Field(
        "pack",
        description="pack: as few nodes as possible, for a fast all-reduce; spread: over as many nodes as possible. "
        "Ray follows it as far as resources allow.",
    )
    wait_s: float = Field(
        600.0,
        ge=0,
        le=MOST,
        description="On a running cluster, seconds to wait for these resources: at the start while other programs use "
        "them or the autoscaler adds nodes, and later for nodes in place of lost ones. Then the run fails.",
    )
    price_per_worker_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one worker for one hour, in any currency; the report has the cost of the run. null: "
        "none.",
    )
    peak_tflops_per_worker: float | None = Field(
        None,
        gt=0,
        description="Peak speed of the device at train.precision, in 10**12 FLOPs per second; the report has the model "
        "FLOPs utilization (MFU). null: none.",
    )

    @model_validator(mode="after")
    def _a_type_needs_a_gpu(self) -> Self:
        if self.accelerator_type is not None and self.gpus_per_worker == 0:
            raise problem(
                f"has accelerator_type: {self.accelerator_type} and gpus_per_worker: 0.",
                "Leave gpus_per_worker out, or give 1 or a fraction.",
            )
        return self

    @property
    def gpus(self) -> float:
        """GPUs of each worker. ``auto`` has been replaced by then: ``cluster/gpus.py`` does it when a run starts."""
        if self.gpus_per_worker == "auto":
            raise ValueError("resources.gpus_per_worker = auto has not been resolved.")
        return self.gpus_per_worker
