"""Measures the GPUs of this machine and writes one JSON document; needs PyTorch and nothing else.

    python3 -m bench.gpu.measure --out results.json                              one GPU
    torchrun --nproc-per-node 2 -m bench.gpu.measure --out results.json          several: all-reduce, tensor parallel

This is no inference engine: no scheduler, no paging, no sampling beyond logits. See docs/explanation/calibration.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import torch
import torch.distributed as dist

from bench.gpu import allreduce, micro, points
from bench.gpu.micro import Row
from bench.gpu.transformer import SHAPES, Transformer

# (model, precision, decode grid, prefill grid), in the order of their worth should time run out.
RUNS = (
    ("llama-8b", "bf16", "full", "full"),
    ("llama-70b-tp1-slice", "bf16", "full", "thin"),
    ("llama-70b-tp8-slice", "bf16", "full", "full"),
    ("llama-8b", "fp8", "thin", "full"),
    ("llama-70b-tp1-slice", "fp8", "thin", "thin"),
    ("llama-70b-tp8-slice", "fp8", "thin", "thin"),
)
SMOKE = (("tiny", "bf16", "smoke", "smoke"), ("tiny", "fp8", "smoke", "smoke"))
PARALLEL = (("llama-70b-tp2-slice", "bf16", "full", "thin"), ("llama-70b-tp2-slice", "fp8", "thin", "thin"))
_SPARE_BYTES = 26 * 2**30
"""Left for weights (at most 16 GB) and the activations of 32768 tokens."""


def machine() -> Row:
    """What was measured, and with what."""
    properties = torch.cuda.get_device_properties(0)
    query = "name,driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    smi = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "memory_mib": properties.total_memory // 2**20,
        "multiprocessors": properties.multi_processor_count,
        "nvidia_smi": smi.stdout.strip(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


class Book:
    """The results so far; written after each part, so that an early end keeps what was measured."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.rows: dict[str, object] = {"machine": machine()}
        self.start = time.monotonic()

    def add(self, part: str, rows: Iterable[Row]) -> None:
        kept = self.rows.setdefault(part, [])
        assert isinstance(kept, list)
        before, begun, late = len(kept), time.monotonic(), ""
        try:
            for row in rows:
                kept.append(row)
        except points.LateError:
            late = ", stopped by the clock"
        self.save()
        if self.writes:
            now = time.monotonic()
            took = f"{now - begun:.1f} s, {now - self.start:.0f} s in all"
            print(f"{part}: {len(kept) - before} rows in {took}{late}; last {kept[-1] if kept else None}", flush=True)

    def save(self) -> None:
        if self.writes:
            self.path.write_text(json.dumps(self.rows), encoding="utf-8")


def end_to_end(book: Book, runs: Iterable[tuple[str, str, str, str]], deadline: float, *, smoke: bool) -> None:
    free, _ = torch.cuda.mem_get_info()
    cache = torch.empty((2**28 if smoke else free - _SPARE_BYTES) // 2, dtype=torch.bfloat16, device="cuda").normal_()
    for name, precision, decode_grid, prefill_grid in runs:
        if time.monotonic() > deadline:
            book.add("left_out", [{"model": name, "precision": precision}])
            continue
        model = Transformer(SHAPES[name], precision, cache)
        if smoke:
            points.check(model, tolerance=0.03 if precision == "bf16" else 0.12)
        if dist.is_initialized():
            model.reduce = dist.all_reduce
        book.add("decode", points.decode(model, precision, points.DECODE_GRID[decode_grid], deadline))
        book.add("prefill", points.prefill(model, precision, points.PREFILL_GRID[prefill_grid], deadline))
        del model
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file for the results")
    parser.add_argument("--seconds", type=float, default=400, help="begin no new point after this")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, checked against float32; some 20 s")
    asked = parser.parse_args()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(rank)
    if "LOCAL_RANK" in os.environ:
        dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    torch.manual_seed(rank)
    book = Book(asked.out, writes=rank == 0)
    deadline = time.monotonic() + asked.seconds
    with torch.inference_mode():
        if dist.is_initialized():
            allreduce.check()
            book.add("all_reduce", allreduce.sizes(smoke=asked.smoke))
            # A deadline would end the ranks at different points and hang them: these runs are short enough.
            end_to_end(book, SMOKE if asked.smoke else PARALLEL, float("inf"), smoke=asked.smoke)
        else:
            book.add("launches", [micro.launches()])
            book.add("bandwidth", micro.bandwidth(smoke=asked.smoke))
            book.add("matrices", micro.matrices(smoke=asked.smoke))
            torch.cuda.empty_cache()
            end_to_end(book, SMOKE if asked.smoke else RUNS, deadline, smoke=asked.smoke)
    book.save()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
