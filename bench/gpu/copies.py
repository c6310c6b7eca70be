"""Copies of KV blocks between host memory and a GPU, and between two GPUs of one host.

python3 -m bench.gpu.copies [--out results.json]

A cache in RAM moves blocks one by one, in page-locked memory, from and to places that are not neighbors; groups of one
host that hand KV blocks over do the same between GPUs. Each row: the size of one block, GB/s of a batch of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.gpu.micro import Row

_KIB = 1024
BLOCKS = (32 * _KIB, 128 * _KIB, 512 * _KIB, 2048 * _KIB, 8192 * _KIB)
"""A block of 16 tokens of one layer under tensor parallelism is 32 to 128 KiB, of all layers 2 to 8 MiB."""
_BATCH_BYTES = 2**30
_ROUNDS = 5


def rows() -> Iterator[Row]:
    """GB/s by way and block size."""
    host = torch.empty(_BATCH_BYTES, dtype=torch.uint8, pin_memory=True)
    host.fill_(1)
    near = torch.empty(_BATCH_BYTES, dtype=torch.uint8, device="cuda:0")
    far = torch.empty_like(near, device="cuda:1") if torch.cuda.device_count() > 1 else None
    for size in BLOCKS:
        count = _BATCH_BYTES // size
        order = torch.randperm(count).tolist()
        ways = {"host to GPU": (host, near), "GPU to host": (near, host)}
        if far is not None:
            ways["GPU to GPU"] = (near, far)
        for way, (source, target) in ways.items():
            sources, targets = source.view(count, size), target.view(count, size)

            def batch(
                sources: torch.Tensor = sources, targets: torch.Tensor = targets, order: list[int] = order
            ) -> None:
                for index, place in enumerate(order):
                    targets[place].copy_(sources[index], non_blocking=True)

            yield {"way": way, "block_bytes": size, "gb_per_s": round(_BATCH_BYTES / _seconds(batch) / 1e9, 1)}


def _seconds(batch: Callable[[], None]) -> float:
    """Best of several rounds, from the first copy's start to the last one's end, launches by the host included."""
    batch()
    found: list[float] = []
    for _ in range(_ROUNDS):
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        batch()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1000)
    return min(found)


def main() -> None:
    """Measures and prints; writes a document where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out: Path | None = parser.parse_args().out
    found = list(rows())
    for row in found:
        print(row, flush=True)
    if out is not None:
        out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "rows": found}))


if __name__ == "__main__":
    main()
