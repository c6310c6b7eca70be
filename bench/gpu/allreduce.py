"""All-reduce by size between the GPUs of one host: `torchrun --nproc-per-node 2 -m bench.gpu.measure`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from bench.gpu.clock import graph_ms
from bench.gpu.micro import Row

_KIB = 1024
SIZES = tuple(_KIB * 4**step for step in range(1, 10))
"""4 KiB to 256 MiB: a decode step of a 70B reduces 16 KiB a sequence, a prefill of 8192 tokens 128 MiB."""


def sizes(*, smoke: bool) -> Iterator[Row]:
    """Microseconds by library and size, in a graph of several; busbw = 2 (n - 1) / n x bytes / time."""
    ranks = dist.get_world_size()
    for size in SIZES[:2] if smoke else SIZES:
        for way, body in _ways(size).items():
            count = 4 if size > 2**24 else 20

            def several(body: Callable[[], object] = body, count: int = count) -> None:
                for _ in range(count):
                    body()

            dist.barrier()
            us = graph_ms(several) * 1e3 / count
            yield {
                "ranks": ranks, "bytes": size, "way": way, "us": round(us, 2),
                "bus_gb_per_s": round(2 * (ranks - 1) / ranks * size / us / 1e3, 1),
            }  # fmt: skip


def _ways(size: int) -> dict[str, Callable[[], object]]:
    plain = torch.ones(size // 2, dtype=torch.bfloat16, device="cuda")
    ways: dict[str, Callable[[], object]] = {"nccl": lambda: dist.all_reduce(plain, op=dist.ReduceOp.AVG)}
    # Loads and stores over NVLink without NCCL, as engines do for small sizes. Multicast stays off where it is off.
    if os.environ.get("TORCH_SYMM_MEM_DISABLE_MULTICAST") == "1":
        import torch.distributed._symmetric_memory as symmetric  # noqa: PLC0415 - private, and only wanted here

        group = dist.group.WORLD.group_name
        try:
            shared = symmetric.empty(size // 2, dtype=torch.bfloat16, device="cuda")
            symmetric.rendezvous(shared, group)
        except RuntimeError as problem:  # GPUs without a direct path
            print(f"no shared memory between the GPUs: {str(problem).splitlines()[0][:160]}", flush=True)
            return ways
        shared.zero_()
        one_shot = torch.ops.symm_mem.one_shot_all_reduce
        two_shot = torch.ops.symm_mem.two_shot_all_reduce_
        if size <= 2**22:
            ways["one-shot"] = lambda: one_shot(shared, "sum", group)
        ways["two-shot"] = lambda: two_shot(shared, "sum", group)
    return ways


def check() -> None:
    """A sum over the ranks is right; AssertionError if not."""
    ranks = dist.get_world_size()
    part = torch.full((4096,), float(dist.get_rank() + 1), dtype=torch.bfloat16, device="cuda")
    dist.all_reduce(part)
    assert torch.all(part == ranks * (ranks + 1) / 2), "all-reduce gave a wrong sum"
