"""End to end: decode steps and prefills of whole models and slices over batch and context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import torch

from bench.gpu.clock import graph_ms
from bench.gpu.micro import Row
from bench.gpu.transformer import DECODE, PREFILL, Attention, Transformer

Grid = Sequence[tuple[int, int]]
"""(batch, tokens) pairs."""

_ALL = tuple(itertools.product((1, 2, 4, 8, 16, 32, 64, 128), (1024, 4096, 8192, 16384, 32768)))
_FEW = tuple(itertools.product((1, 8, 32, 128), (1024, 8192, 32768)))
_WIDE = tuple(itertools.product((256, 512), (512, 1024)))
"""Batches at which the matrices turn from reading to computing."""
DECODE_GRID: dict[str, Grid] = {"full": _ALL + _WIDE, "thin": _FEW + _WIDE, "smoke": ((1, 128), (3, 256))}
PREFILL_GRID: dict[str, Grid] = {
    "full": ((1, 1024), (1, 2048), (1, 4096), (1, 8192), (1, 16384), (1, 32768), (4, 1024), (4, 4096), (16, 1024)),
    "thin": ((1, 1024), (1, 4096), (1, 16384), (8, 1024)),
    "smoke": ((1, 128), (2, 256)),
}


class LateError(Exception):
    """The time given to a part is over."""


def decode(model: Transformer, precision: str, grid: Grid, deadline: float) -> Iterator[Row]:
    """Milliseconds of a step of `batch` sequences that hold `tokens` tokens each, the new one included."""
    shape = model.shape
    for batch, tokens in grid:
        if time.monotonic() > deadline:
            raise LateError
        try:
            cache = model.cache(batch, tokens)
        except IndexError:
            continue  # more tokens than the memory holds
        query = torch.empty(batch, shape.heads * shape.head_dim, dtype=torch.bfloat16, device="cuda").normal_()
        backend, attention_ms = fastest(DECODE, query, cache)
        x = torch.empty(batch, shape.hidden, dtype=torch.bfloat16, device="cuda").normal_()
        attend = DECODE[backend]
        ms = graph_ms(lambda: model.forward(x, cache, attend, sequence=1), budget_ms=80)  # noqa: B023 - used at once
        yield {
            "model": shape.name, "precision": precision, "layers": shape.layers, "batch": batch, "tokens": tokens,
            "weights_gb": round(shape.weights_gb(precision), 4),
            "kv_gb": round(batch * tokens * shape.kv_bytes_per_token / 1e9, 6),
            "ms": round(ms, 4), "attention_ms": round(attention_ms, 4), "attention": backend,
        }  # fmt: skip


def prefill(model: Transformer, precision: str, grid: Grid, deadline: float) -> Iterator[Row]:
    """Milliseconds of the first pass over `batch` prompts of `tokens` tokens."""
    shape = model.shape
    for batch, tokens in grid:
        if time.monotonic() > deadline:
            raise LateError
        cache = model.cache(batch, tokens)
        rows = batch * tokens
        query = torch.empty(rows, shape.heads * shape.head_dim, dtype=torch.bfloat16, device="cuda").normal_()
        backend, attention_ms = fastest(PREFILL, query, cache[:2])
        attention_ms *= shape.layers / 2
        x = torch.empty(rows, shape.hidden, dtype=torch.bfloat16, device="cuda").normal_()
        attend = PREFILL[backend]
        ms = graph_ms(lambda: model.forward(x, cache, attend, sequence=tokens), budget_ms=150)  # noqa: B023
        yield {
            "model": shape.name, "precision": precision, "layers": shape.layers, "batch": batch, "tokens": tokens,
            "matrix_tflop": round(2 * rows * shape.layers * shape.layer_params / 1e12, 4),
            # Causal: a token attends to half of the prompt on average; two products of 2 x tokens x head size each.
            "attention_tflop": round(
                4 * batch * tokens**2 / 2 * shape.heads * shape.head_dim * shape.layers / 1e12, 4
            ),
            "ms": round(ms, 4), "attention_ms": round(attention_ms, 4), "attention": backend,
        }  # fmt: skip


def fastest(
    ways: dict[str, Attention], query: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[str, float]:
    """The way to attend that is fastest over these layers, and its milliseconds; engines choose theirs as well."""
    times: dict[str, float] = {}
    for name, attend in ways.items():

        def body(attend: Attention = attend) -> None:
            for key, value in cache:
                attend(query, key, value)

        try:
            times[name] = graph_ms(body, budget_ms=15, least=2)
        except RuntimeError as problem:  # this shape is beyond that library
            if "out of memory" in str(problem):
                raise
            _note(name, problem)
    best = min(times, key=lambda name: times[name])
    return best, times[best]


_noted: set[str] = set()


def _note(name: str, problem: Exception) -> None:
    first = str(problem).splitlines()[0][:160]
    if (line := f"attention by {name} is not possible: {first}") not in _noted:
        _noted.add(line)
        print(line, flush=True)


def check(model: Transformer, *, tolerance: float) -> float:
    """Relative error of the last logits, by prefill and by a decode step, against float32; AssertionError if large."""
    batch, tokens = 2, 64
    x = torch.empty(batch * tokens, model.shape.hidden, dtype=torch.bfloat16, device="cuda").normal_()
    want = model.reference(x, batch)
    worst = 0.0
    for way, attend in PREFILL.items():
        try:
            got = model.forward(x, model.cache(batch, tokens), attend, sequence=tokens)
        except RuntimeError as problem:
            _note(way, problem)
            continue
        worst = max(worst, _error(f"prefill, {way}", got, want, tolerance))
    for way, attend in DECODE.items():
        before = [(key[:, : tokens - 1], value[:, : tokens - 1]) for key, value in model.cache(batch, tokens)]
        rows = x.view(batch, tokens, -1)
        start = rows[:, :-1].reshape(batch * (tokens - 1), -1).contiguous()
        model.forward(start, before, PREFILL["flash"], sequence=tokens - 1)
        try:
            got = model.forward(rows[:, -1].contiguous(), model.cache(batch, tokens), attend, sequence=1)
        except RuntimeError as problem:
            _note(way, problem)
            continue
        worst = max(worst, _error(f"decode, {way}", got, want, tolerance))
    return worst


def _error(what: str, got: torch.Tensor, want: torch.Tensor, tolerance: float) -> float:
    error = float((got.float() - want).norm() / want.norm())
    print(f"check {what}: relative error {error:.4f}", flush=True)
    assert error < tolerance, f"{what}: relative error {error} is above {tolerance}"
    return error
