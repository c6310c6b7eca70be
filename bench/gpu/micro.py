"""What the parts of a GPU reach alone: memory bandwidth, matrix products, launches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.gpu import fused
from bench.gpu.clock import eager_us, graph_ms
from bench.gpu.transformer import SHAPES, Linear

Row = dict[str, object]

_MIB = 2**20
_ROTATED = 512 * _MIB
"""Bytes that a measurement of small operands goes through, so that none is still in the L2 cache (50 to 60 MB)."""


def bandwidth(*, smoke: bool) -> Iterator[Row]:
    """Reads by size, each kernel another part of a large buffer; and one large copy (bytes read plus written)."""
    sizes = [64 * _MIB] if smoke else [s * _MIB for s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)]
    buffer = torch.randint(-9, 9, (max(sizes[-1], _ROTATED) // 4,), dtype=torch.int32, device="cuda")
    sink = torch.empty(buffer.numel() // fused.READ_BLOCK, dtype=torch.int32, device="cuda")
    for size in sizes:
        parts = buffer[: max(size, _ROTATED) // 4].split(size // 4)

        def body(parts: tuple[torch.Tensor, ...] = parts) -> None:
            for part in parts:
                fused.read(part, sink)

        ms = graph_ms(body) / len(parts)
        yield {"kind": "read", "bytes": size, "us": round(ms * 1e3, 3), "gb_per_s": round(size / ms / 1e6, 1)}
    # Not half of a power of two: reading and writing at such a distance collides in the memory's banks.
    half = buffer.numel() // 5 * 2
    ms = graph_ms(lambda: buffer[:half].copy_(buffer[-half:]))
    yield {"kind": "copy", "bytes": half * 8, "us": round(ms * 1e3, 3), "gb_per_s": round(half * 8 / ms / 1e6, 1)}


def matrices(*, smoke: bool) -> Iterator[Row]:
    """x[M, K] times weights[N, K] of every projection: skinny as in decode, tall as in prefill."""
    names = ("tiny",) if smoke else ("llama-8b", "llama-70b-tp1-slice", "llama-70b-tp8-slice")
    tall = (1, 64) if smoke else (1, 8, 32, 64, 128, 256, 1024, 4096, 16384)
    for name in names:
        for n, k in SHAPES[name].projections:
            for precision in ("bf16", "fp8"):
                copies = 1 if smoke else max(1, min(24, _ROTATED // (n * k * (1 if precision == "fp8" else 2))))
                weights = [Linear(n, k, precision) for _ in range(copies)]
                for m in tall:
                    rows = _rows(m, k, precision)
                    used = weights if m <= 256 else weights[:2]

                    def body(used: list[Linear] = used, rows: fused.Rows = rows) -> None:
                        for weight in used:
                            weight(rows)

                    ms = graph_ms(body, budget_ms=40, most=20) / len(used)
                    yield {
                        "model": name, "precision": precision, "m": m, "n": n, "k": k, "us": round(ms * 1e3, 2),
                        "tflops": round(2 * m * n * k / ms / 1e9, 1),
                        "weight_gb_per_s": round(n * k * (1 if precision == "fp8" else 2) / ms / 1e6, 1),
                    }  # fmt: skip


def _rows(m: int, k: int, precision: str) -> fused.Rows:
    x = torch.empty(m, k, dtype=torch.bfloat16, device="cuda").normal_()
    return fused.quantize(x) if precision == "fp8" else (x, None)


def launches() -> Row:
    """Microseconds of a tiny kernel: queued from the host one by one, and as one of many in a graph."""
    x = torch.zeros(128, device="cuda")

    def chain() -> None:
        for _ in range(1000):
            x.add_(1.0)

    return {
        "eager_us": round(eager_us(lambda: x.add_(1.0), 2000), 3),
        "in_graph_us": round(graph_ms(chain), 3),  # milliseconds of 1000 kernels = microseconds of one
    }
