"""A Llama-like transformer with random weights: real shapes, one GPU's share, bf16 or FP8 weights, bf16 KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu import fused

Precision = str
"""`bf16` or `fp8` (weights and activations of all projections but the vocabulary's)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One GPU's share of a model. Source: the models' published config.json."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int = 0
    """0 leaves the projection onto the vocabulary out."""
    head_dim: int = 128

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's matrices: q-k-v, output, gate-up, down."""
        attention = self.heads * self.head_dim
        qkv = attention + 2 * self.kv_heads * self.head_dim
        return (
            (qkv, self.hidden),
            (self.hidden, attention),
            (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        )

    @property
    def layer_params(self) -> int:
        return sum(n * k for n, k in self.projections)

    def weights_gb(self, precision: Precision) -> float:
        """Decimal GB that a decode step reads: all matrices, not the embedding table."""
        layers = self.layers * self.layer_params * (1 if precision == "fp8" else 2)
        return (layers + self.vocab * self.hidden * 2) / 1e9

    @property
    def kv_bytes_per_token(self) -> int:
        return self.layers * 2 * self.kv_heads * self.head_dim * 2


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="llama-8b", layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14336, vocab=128256),
        Shape(name="llama-70b-tp1-slice", layers=8, hidden=8192, heads=64, kv_heads=8, intermediate=28672),
        Shape(name="llama-70b-tp2-slice", layers=20, hidden=8192, heads=32, kv_heads=4, intermediate=14336),
        Shape(name="llama-70b-tp8-slice", layers=20, hidden=8192, heads=8, kv_heads=1, intermediate=3584),
        Shape(name="tiny", layers=2, hidden=1024, heads=8, kv_heads=2, intermediate=2816, vocab=2048),
    )
}


def _matrix(n: int, k: int) -> torch.Tensor:
    return torch.empty(n, k, dtype=torch.bfloat16, device="cuda").normal_(0, 1 / k**0.5)


class Linear:
    """A projection; FP8 weights carry a scale for each output."""

    def __init__(self, n: int, k: int, precision: Precision) -> None:
        weight = _matrix(n, k)
        self.scale: torch.Tensor | None = None
        if precision == "fp8":
            rows, scale = fused.quantize(weight)
            assert scale is not None
            self.scale = scale.t().contiguous()
            weight = rows
        self.weight = weight

    def __call__(self, rows: fused.Rows) -> torch.Tensor:
        x, scale = rows
        if self.scale is None:
            return F.linear(x, self.weight)
        return torch._scaled_mm(
            x, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    def dense(self) -> torch.Tensor:
        """The weights as float32, for the reference."""
        return self.weight.float() * (1 if self.scale is None else self.scale.t())


class Layer:
    def __init__(self, shape: Shape, precision: Precision) -> None:
        self.qkv, self.output, self.gate_up, self.down = (Linear(n, k, precision) for n, k in shape.projections)
        self.norms = torch.ones(2, shape.hidden, dtype=torch.bfloat16, device="cuda")


Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries [rows, heads x size] against one layer's keys and values [batch, tokens, KV heads, size]."""


def _sdpa(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool) -> torch.Tensor:
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal,
            enable_gqa=q.shape[2] != k.shape[2],
        )  # fmt: skip
    return out.transpose(1, 2)


def _decode(backend: SDPBackend, *, grouped: bool) -> Attention:
    """One query a sequence; `grouped` hands the query heads that share a KV head over as rows of one head."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, _, kv_heads, size = key.shape
        if not grouped:
            return _sdpa(backend, query.view(batch, 1, -1, size), key, value, causal=False).reshape(batch, -1)
        q = query.view(batch, kv_heads, -1, size).transpose(1, 2)
        return _sdpa(backend, q, key, value, causal=False).transpose(1, 2).reshape(batch, -1)

    return attend


def _prefill(backend: SDPBackend) -> Attention:
    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, tokens, _, size = key.shape
        return _sdpa(backend, query.view(batch, tokens, -1, size), key, value, causal=True).reshape(batch * tokens, -1)

    return attend


DECODE: dict[str, Attention] = {
    "flash-grouped": _decode(SDPBackend.FLASH_ATTENTION, grouped=True),
    "flash": _decode(SDPBackend.FLASH_ATTENTION, grouped=False),
    "cudnn": _decode(SDPBackend.CUDNN_ATTENTION, grouped=False),
}
PREFILL: dict[str, Attention] = {
    "flash": _prefill(SDPBackend.FLASH_ATTENTION),
    "cudnn": _prefill(SDPBackend.CUDNN_ATTENTION),
}


class Transformer:
    """Weights, rotary tables and a KV cache buffer that every measured point lays out anew."""

    def __init__(self, shape: Shape, precision: Precision, cache: torch.Tensor, longest: int = 32768) -> None:
        self.shape, self.fp8, self.buffer = shape, precision == "fp8", cache
        self.layers = [Layer(shape, precision) for _ in range(shape.layers)]
        self.final_norm = torch.ones(shape.hidden, dtype=torch.bfloat16, device="cuda")
        self.vocabulary = _matrix(shape.vocab, shape.hidden) if shape.vocab else None
        angle = torch.outer(
            torch.arange(longest, device="cuda").float(),
            500000.0 ** (-torch.arange(0, shape.head_dim, 2, device="cuda").float() / shape.head_dim),
        )
        self.tables = (angle.cos().contiguous(), angle.sin().contiguous())
        self.reduce: Callable[[torch.Tensor], object] | None = None
        """Sums partial outputs over the GPUs of a tensor parallel group, in place."""

    def cache(self, batch: int, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer as [batch, tokens, KV heads, size] over the buffer; IndexError if too large."""
        s = self.shape
        size = (s.layers, 2, batch, tokens, s.kv_heads, s.head_dim)
        elements = torch.Size(size).numel()
        if elements > self.buffer.numel():
            raise IndexError("cache buffer too small")
        view = self.buffer[:elements].view(size)
        return [(layer[0], layer[1]) for layer in view]

    def forward(
        self, x: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]], attend: Attention, *, sequence: int
    ) -> torch.Tensor:
        """Runs the last `sequence` tokens of each sequence, rows of `x`; returns logits (or states) of the last one."""
        tokens = cache[0][0].shape[1]
        residual = torch.zeros_like(x)
        for layer, (key, value) in zip(self.layers, cache, strict=True):
            qkv = layer.qkv(fused.add_norm(x, residual, layer.norms[0], self.fp8))
            query = fused.rope(
                qkv, key, value, self.tables, heads=self.shape.heads, sequence=sequence, start=tokens - sequence
            )
            mixed = attend(query, key, value)
            x = layer.output(fused.quantize(mixed) if self.fp8 else (mixed, None))
            if self.reduce is not None:
                self.reduce(x)
            both = layer.gate_up(fused.add_norm(x, residual, layer.norms[1], self.fp8))
            x = layer.down(fused.silu_mul(both, self.fp8))
            if self.reduce is not None:
                self.reduce(x)
        last = slice(sequence - 1, None, sequence)
        states, _ = fused.add_norm(x[last].contiguous(), residual[last].contiguous(), self.final_norm, False)
        return states if self.vocabulary is None else F.linear(states, self.vocabulary)

    def reference(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        """The same function in float32 from plain operations: what `forward` of whole sequences must come to."""
        s = self.shape
        tokens = x.shape[0] // batch
        cosine, sine = (table[:tokens, None, :] for table in self.tables)

        def turn(heads: torch.Tensor) -> torch.Tensor:
            low, high = heads.chunk(2, -1)
            return torch.cat((low * cosine - high * sine, high * cosine + low * sine), -1)

        x = x.float()
        for layer in self.layers:
            qkv = F.rms_norm(x, (s.hidden,), eps=1e-5) @ layer.qkv.dense().t()
            q, k, v = qkv.view(batch, tokens, -1, s.head_dim).split((s.heads, s.kv_heads, s.kv_heads), 2)
            k, v = (part.repeat_interleave(s.heads // s.kv_heads, 2) for part in (turn(k), v))
            scores = torch.einsum("bqhd,bkhd->bhqk", turn(q), k) / s.head_dim**0.5
            future = torch.ones(tokens, tokens, device="cuda", dtype=torch.bool).triu(1)
            mixed = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(future, float("-inf")).softmax(-1), v)
            x = x + mixed.reshape(batch * tokens, -1) @ layer.output.dense().t()
            gate, up = (F.rms_norm(x, (s.hidden,), eps=1e-5) @ layer.gate_up.dense().t()).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ layer.down.dense().t()
        states = F.rms_norm(x.view(batch, tokens, -1)[:, -1], (s.hidden,), eps=1e-5)
        return states if self.vocabulary is None else states @ self.vocabulary.float().t()
