"""One layer of experts: grouped matrix products over randomly routed rows, as engines make them.

    python3 -m bench.gpu.experts --out experts.json

A Triton kernel like those of the engines (rows sorted by expert, one tile one expert), the fastest of some tilings
at each point. Routing, sorting and summing up are not in the times.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
import triton.language as tl

from bench.gpu.clock import graph_ms
from bench.gpu.measure import machine
from bench.gpu.micro import Row

FP8 = torch.float8_e4m3fn
Routed = tuple[torch.Tensor, torch.Tensor, int]
TILES = ((16, 64, 128, 4), (16, 128, 128, 4), (32, 128, 128, 4), (64, 128, 64, 4), (128, 128, 64, 8), (128, 256, 64, 8))
"""(rows, columns, depth, warps)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Shape of what one GPU holds of a layer."""

    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int

    @property
    def parameters(self) -> int:
        """Of one expert."""
        return 3 * self.hidden * self.intermediate


SHAPES = (
    Experts(name="deepseek-r1-tp8", experts=256, top_k=8, hidden=7168, intermediate=256),
    # Of 256 experts a rank holds 32, and of 8 rows that a token becomes it gets one on average.
    Experts(name="deepseek-r1-ep8", experts=32, top_k=1, hidden=7168, intermediate=2048),
    Experts(name="qwen3-235b-tp8", experts=128, top_k=8, hidden=4096, intermediate=192),
    Experts(name="gpt-oss-120b-tp1", experts=128, top_k=4, hidden=2880, intermediate=2880),
    Experts(name="mixtral-8x7b-tp1", experts=8, top_k=2, hidden=4096, intermediate=14336),
)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 8192)


@triton.jit
def _grouped(
    x, weights, out, rows_of, expert_of, columns, depth, sources, per_row: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, tile_depth: tl.constexpr,
):  # fmt: skip
    """out[r] = x[r // per_row] @ weights[expert of r]^T for the rows of one tile, all of one expert."""
    tile = tl.program_id(0)
    expert = tl.load(expert_of + tile).to(tl.int64)
    rows = tl.load(rows_of + tile * tile_rows + tl.arange(0, tile_rows))
    valid = rows < sources
    column = tl.program_id(1) * tile_columns + tl.arange(0, tile_columns)
    inside = column < columns
    k = tl.arange(0, tile_depth)
    a = x + (rows // per_row).to(tl.int64)[:, None] * depth + k[None, :]
    b = weights + expert * columns * depth + column.to(tl.int64)[None, :] * depth + k[:, None]
    total = tl.zeros((tile_rows, tile_columns), dtype=tl.float32)
    for start in range(0, depth, tile_depth):
        left = k < depth - start
        first = tl.load(a, mask=valid[:, None] & left[None, :], other=0.0)
        second = tl.load(b, mask=inside[None, :] & left[:, None], other=0.0)
        total = tl.dot(first, second, total)
        a += tile_depth
        b += tile_depth
    target = out + rows.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=valid[:, None] & inside[None, :])


@triton.jit
def _gate(x, out, width, block: tl.constexpr):
    """SiLU of the first half of a row times its second half."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = at < width
    gate = tl.load(x + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def route(tokens: int, shape: Experts, tile: int) -> Routed:
    """(row numbers by tile, expert of each tile, experts that got rows): each token to different experts, at random."""
    chosen = torch.rand(tokens, shape.experts, device="cuda").topk(shape.top_k).indices.flatten().cpu()
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=shape.experts).tolist()
    total, rows, experts, start = tokens * shape.top_k, [], [], 0
    for expert, count in enumerate(counts):
        for at in range(start, start + count, tile):
            part = order[at : min(at + tile, start + count)]
            rows.append(torch.cat([part, torch.full((tile - len(part),), total)]))
            experts.append(expert)
        start += count
    ids = torch.cat(rows).to(torch.int32).cuda()
    return ids, torch.tensor(experts, dtype=torch.int32).cuda(), sum(1 for count in counts if count)


def layer(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, routed: Routed,
          shape: Experts, tile: tuple[int, int, int, int]) -> torch.Tensor:  # fmt: skip
    """One row for each (token, expert): down(silu(gate) * up)."""
    rows, columns, depth, warps = tile
    ids, experts, _ = routed
    total = x.shape[0] * shape.top_k
    wide = torch.empty(total, 2 * shape.intermediate, dtype=torch.bfloat16, device="cuda")
    narrow = torch.empty(total, shape.intermediate, dtype=x.dtype, device="cuda")
    out = torch.empty(total, shape.hidden, dtype=torch.bfloat16, device="cuda")
    grid = (len(experts), triton.cdiv(2 * shape.intermediate, columns))
    _grouped[grid](x, up, wide, ids, experts, 2 * shape.intermediate, shape.hidden, total, shape.top_k,
                   tile_rows=rows, tile_columns=columns, tile_depth=depth, num_warps=warps, num_stages=3)  # fmt: skip
    _gate[(total, triton.cdiv(shape.intermediate, 256))](wide, narrow, shape.intermediate, block=256)
    grid = (len(experts), triton.cdiv(shape.hidden, columns))
    _grouped[grid](narrow, down, out, ids, experts, shape.hidden, shape.intermediate, total, 1,
                   tile_rows=rows, tile_columns=columns, tile_depth=depth, num_warps=warps, num_stages=3)  # fmt: skip
    return out


def check() -> None:
    """Against plain matrix products; AssertionError where they differ."""
    shape = Experts(name="tiny", experts=8, top_k=2, hidden=256, intermediate=128)
    for kind, tolerance in ((torch.bfloat16, 0.02), (FP8, 0.08)):
        x = torch.randn(40, 256, device="cuda").to(kind)
        up = torch.randn(8, 256, 256, device="cuda").div(16).to(kind)
        down = torch.randn(8, 256, 128, device="cuda").div(11).to(kind)
        routed = route(40, shape, 16)
        got = layer(x, up, down, routed, shape, (16, 64, 128, 4)).float()
        for tile, expert in enumerate(routed[1].tolist()):
            for row in routed[0][tile * 16 : tile * 16 + 16].tolist():
                if row == 80:
                    continue
                wide = x[row // 2].float() @ up[expert].float().T
                narrow = torch.nn.functional.silu(wide[:128]) * wide[128:]
                want = narrow.to(kind).float() @ down[expert].float().T
                assert (got[row] - want).norm() < tolerance * want.norm(), (kind, row)
    print("check: grouped products agree with plain ones", flush=True)


def points(deadline: float) -> Iterator[Row]:
    """Every shape and number of tokens, until the time is over."""
    for shape in SHAPES:
        for precision, kind in (("bf16", torch.bfloat16), ("fp8", FP8)):
            up = _random(shape.experts, 2 * shape.intermediate, shape.hidden, kind=kind)
            down = _random(shape.experts, shape.hidden, shape.intermediate, kind=kind)
            for tokens in TOKENS:
                if time.monotonic() > deadline:
                    return
                x = torch.randn(tokens, shape.hidden, device="cuda").to(kind)
                yield _timed(x, up, down, shape, precision)
            del up, down
            torch.cuda.empty_cache()


def _random(*size: int, kind: torch.dtype) -> torch.Tensor:
    """Made expert by expert: float32 of all would not fit."""
    return torch.cat([torch.randn(1, *size[1:], device="cuda").div(8).to(kind) for _ in range(size[0])])


def _timed(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, shape: Experts, precision: str) -> Row:
    """The fastest tiling at a number of tokens."""
    tokens = x.shape[0]
    each = tokens * shape.top_k / shape.experts
    times: dict[tuple[int, int, int, int], float] = {}
    touched = 0
    for tile in TILES:
        if tile[0] > max(32, 2 * each) or tile[0] * 16 < each:
            continue  # mostly padding, or far too many tiles
        torch.manual_seed(tokens)
        routed = route(tokens, shape, tile[0])
        touched = routed[2]

        def body(tile: tuple[int, int, int, int] = tile, routed: Routed = routed) -> None:
            layer(x, up, down, routed, shape, tile)

        try:
            times[tile] = graph_ms(body, budget_ms=30)
        except triton.runtime.errors.OutOfResources as problem:  # beyond the shared memory
            print(f"{shape.name} {precision} {tile}: {problem}", flush=True)
    best = min(times, key=lambda tile: times[tile])
    ms = times[best]
    read = touched * shape.parameters * (1 if precision == "fp8" else 2)
    return {
        "model": shape.name, "precision": precision, "tokens": tokens, "experts": shape.experts,
        "top_k": shape.top_k, "touched": touched, "hidden": shape.hidden, "intermediate": shape.intermediate,
        "us": round(ms * 1e3, 1), "weight_gb_per_s": round(read / ms / 1e6, 1),
        "tflops": round(2 * tokens * shape.top_k * shape.parameters / ms / 1e9, 1),
        "tile": "x".join(map(str, best[:3])),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    asked = parser.parse_args()
    with torch.inference_mode():
        check()
        rows = []
        for row in points(time.monotonic() + asked.seconds):
            rows.append(row)
            asked.out.write_text(json.dumps({"machine": machine(), "experts": rows}), encoding="utf-8")
            print(row, flush=True)


if __name__ == "__main__":
    main()
