"""Decode speed from the roofline: with factors measured on the GPU where there are some, else an assumed efficiency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from catalog.assumptions import assumed
from catalog.measurements import GpuFactors, factors, links
from catalog.types import Gpu, ModelCard

_LIMIT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """The network between the nodes that one tensor parallel group spans."""

    nodes: int
    gbps: float
    """Of one node, all cards together."""


def decode_step_ms(
    card: ModelCard,
    gpu: Gpu,
    *,
    weights_gb: float,
    kv_bytes_per_token: float,
    batch: int,
    tokens: int,
    precision: Literal["bf16", "fp8"] = "bf16",
    tensor: int = 1,
    pipeline: int = 1,
    between: NodeLink | None = None,
) -> float:
    """Milliseconds of one decode step of `batch` sequences of `tokens` tokens each, on one pipeline stage.

    step >= (weights touched + batch x tokens x KV) / HBM bandwidth, all of one GPU (`weights_gb` and
    `kv_bytes_per_token` are its shares). A mixture of experts touches 1 - (1 - top_k / experts)^batch of its experts.
    On a GPU with measured factors these give the shares of bandwidth and peak, the cost of each layer and of the
    all-reduces between `tensor` ranks; else one assumed efficiency stands for all. `between` is the network that the
    ranks' sums also cross, where they span nodes. An engine's own time between steps is in neither. Source:
    docs/explanation/sizing.md and calibration.md.
    """
    touched = weights_gb
    if card.moe is not None:
        always = card.active_params_billion / card.params_billion * weights_gb
        hit = 1 - (1 - card.moe.top_k / card.moe.experts) ** batch
        touched = min(weights_gb, always + (weights_gb - always) * hit)
    kv_gb = batch * tokens * kv_bytes_per_token / 1e9
    known = factors().get(gpu.name)
    if known is None or known.evidence != "measured":
        return (touched + kv_gb) / (gpu.hbm_gb_per_s * assumed("decode_efficiency")) * 1000
    layers = card.layers / pipeline
    step = known.decode_ms(
        gpu,
        precision=precision,
        weights_gb=touched,
        matrix_tflop=2 * batch * card.active_params_billion / (tensor * pipeline) / 1000,
        kv_gb=kv_gb,
        layers=layers,
    )
    return step + layers * _all_reduces_ms(known, size=batch * card.hidden * 2, tensor=tensor, between=between)


def _all_reduces_ms(known: GpuFactors, *, size: int, tensor: int, between: NodeLink | None) -> float:
    """Milliseconds of one layer's two sums of `size` bytes: over the ranks of a node (0 where that link is not known),
    then over the nodes."""
    inside = tensor // between.nodes if between else tensor
    microseconds = known.all_reduce.us(size=size, ranks=inside) if known.all_reduce is not None else 0.0
    if between:
        efa = links()["efa"]
        bytes_per_us = between.gbps * efa.line_rate_share / 8 * 1000
        microseconds += efa.latency_us + 2 * (between.nodes - 1) / between.nodes * size / bytes_per_us
    return 2 * microseconds / 1000


def knee_concurrency(
    card: ModelCard,
    gpu: Gpu,
    *,
    weights_gb: float,
    kv_bytes_per_token: float,
    tokens: int,
    tpot_ms: float,
    memory_limit: int,
    precision: Literal["bf16", "fp8"] = "bf16",
    tensor: int = 1,
    pipeline: int = 1,
    between: NodeLink | None = None,
) -> int:
    """Most sequences that one replica decodes within `tpot_ms` and its KV cache holds; 0 where one is too slow."""

    def fast_enough(batch: int) -> bool:
        step = decode_step_ms(
            card,
            gpu,
            weights_gb=weights_gb,
            kv_bytes_per_token=kv_bytes_per_token,
            batch=batch,
            tokens=tokens,
            precision=precision,
            tensor=tensor,
            pipeline=pipeline,
            between=between,
        )
        return step <= tpot_ms

    low, high = 0, min(memory_limit, _LIMIT)
    while low < high:
        middle = (low + high + 1) // 2
        if fast_enough(middle):
            low = middle
        else:
            high = middle - 1
    return low
