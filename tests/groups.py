"""Run a function in every process of a small gloo group, and return the results."""

import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 120


def run_group(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Return what ``function(rank, world_size, *args)`` returned on each rank; raise if one raised."""
    context = mp.get_context("forkserver")  # conftest.py: its server has torch already
    store = dist.TCPStore("127.0.0.1", 0, world_size, True, wait_for_workers=False)
    results = context.Queue()
    processes = [
        context.Process(target=_member, args=(rank, world_size, store.port, results, function, args), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=TIMEOUT_S) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    errors = [error for ok, error in found.values() if not ok]
    assert not errors, "\n".join(errors)
    return [found[rank][1] for rank in range(world_size)]


def _member(rank: int, world_size: int, port: int, results: Any, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    try:
        if world_size > 1:
            store = dist.TCPStore("127.0.0.1", port, world_size, False)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        results.put((rank, (True, function(rank, world_size, *args))))
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except Exception:
        results.put((rank, (False, traceback.format_exc())))
