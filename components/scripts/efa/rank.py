"""One rank of the all-reduce: the only part that needs torch. `python3 -m efa.rank <sizes> <seconds>`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from .findings import RESULT_MARK, bus_bandwidth

_WARM_UPS, _ITERATIONS = 3, 10


def run(sizes: Sequence[int], seconds: float) -> None:
    """Runs this process's rank; the first one prints the results."""
    torch: Any = importlib.import_module("torch")
    distributed: Any = importlib.import_module("torch.distributed")
    device: Any = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", timeout=timedelta(seconds=seconds), device_id=device)
    world = distributed.get_world_size()
    for size in sizes:
        tensor: Any = torch.ones(max(1, size // 4), dtype=torch.float32, device=device)
        distributed.all_reduce(tensor)
        wrong = int((tensor != world).sum().item())
        tensor.zero_()
        for _ in range(_WARM_UPS):
            distributed.all_reduce(tensor)
        distributed.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_ITERATIONS):
            distributed.all_reduce(tensor)
        torch.cuda.synchronize()
        took = (time.perf_counter() - start) / _ITERATIONS
        if distributed.get_rank() == 0:
            algorithm, bus = bus_bandwidth(tensor.numel() * 4, took, world)
            result = {"size": size, "seconds": took, "algbw": algorithm, "busbw": bus, "wrong": wrong}
            sys.stdout.write(RESULT_MARK + json.dumps(result) + "\n")
            sys.stdout.flush()
        del tensor
    distributed.destroy_process_group()


def sizes_of(text: str) -> list[int]:
    """`1024,1073741824` as bytes."""
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    run(sizes_of(sys.argv[1]), float(sys.argv[2]))
