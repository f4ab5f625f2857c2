"""The least that two workers on a Ray cluster need: two actors that import torch and sum a number with gloo.

``startup.py`` compares the commands' first step with it. Nothing is trained.

Run: python benchmarks/bare_actors.py FOLDER
"""

import json
import sys
from pathlib import Path
from time import time

import ray

WORKERS = 2


@ray.remote(num_cpus=1)
class Bare:
    """One worker."""

    def join(self, rank: int, store: str) -> float:
        """Join the group of both workers through a file; return when all have summed a number, in epoch seconds."""
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS)
        number = torch.ones(1)
        dist.all_reduce(number)
        assert number.item() == WORKERS
        return time()


def main(folder: Path) -> None:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    workers = [Bare.remote() for _ in range(WORKERS)]
    joined = ray.get([worker.join.remote(rank, str(folder / "store")) for rank, worker in enumerate(workers)])
    (folder / "joined.json").write_text(json.dumps(max(joined)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
