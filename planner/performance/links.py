"""What the ranks of a replica tell one another in each step: sums, tokens for experts, hand-over between stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.measurements import GpuFactors, links
from catalog.types import ModelCard
from planner.plan import LayoutPlan

_BF16 = 2
_DISPATCH_AND_COMBINE_BYTES = 3
"""A token goes to its experts in FP8 and comes back in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """The network between the nodes of one replica."""

    nodes: int
    gbps: float
    """Of one node, all cards together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Of all messages of one stage in one step: milliseconds whatever their size, and for each row (token)."""

    ms: float
    row_ms: float


def links_of(card: ModelCard, known: GpuFactors, layout: LayoutPlan, between: NodeLink | None, nvlink: bool) -> Links:
    """Messages of one stage.

    Tensor parallel: two all-reduces a layer. Data parallel attention: one of them stays inside a group, the other
    becomes a gather and a scatter of all rows, or, with expert parallelism, an all-to-all of each row to its experts.
    Pipeline: each row is handed over once. Sums over nodes are made inside each node first, then between them.
    """
    layers = card.layers / layout.pipeline
    row = card.hidden * _BF16
    inside = min(layout.tensor, layout.gpus_per_node)
    nodes = max(1, layout.tensor // layout.gpus_per_node)
    latency, per_byte = _inside(known, nvlink, inside)
    wide_latency, wide_per_byte = _between(between, nodes)
    whole = (latency + wide_latency, (per_byte + wide_per_byte) * row)
    if layout.data == 1:
        per_layer = [whole, whole]
    else:
        group = layout.tensor // layout.data
        group_latency, group_per_byte = _inside(known, nvlink, min(group, layout.gpus_per_node))
        per_layer = [(group_latency, group_per_byte * row / layout.data)]
        if layout.expert > 1 and card.moe is not None:
            per_layer.append(_all_to_all(card, known, layout, between, nvlink))
        else:
            per_layer.append((2 * whole[0], whole[1]))
    us = layers * sum(part[0] for part in per_layer)
    row_us = layers * sum(part[1] for part in per_layer)
    if layout.pipeline > 1:
        over_nodes = layout.nodes > nodes
        us += links()["efa"].latency_us if over_nodes else latency
        row_us += row / _bytes_per_us(between) if over_nodes else row * per_byte
    return Links(ms=us / 1e3, row_ms=row_us / 1e3)


def _inside(known: GpuFactors, nvlink: bool, ranks: int) -> tuple[float, float]:
    """Latency and microseconds a byte of a sum over GPUs of one node.

    Engines sum small messages by kernels over peer memory where NVLink allows.
    """
    if ranks == 1:
        return 0.0, 0.0
    volume = 2 * (ranks - 1) / ranks
    if nvlink and known.all_reduce is not None:
        return known.all_reduce.kernel_latency_us, volume / known.all_reduce.kernel_gb_per_s / 1e3
    pcie = links()["pcie"]
    return pcie.latency_us, volume / (assumed("pcie_gbps") * pcie.line_rate_share / 8 * 1e3)


def _between(between: NodeLink | None, nodes: int) -> tuple[float, float]:
    if nodes == 1:
        return 0.0, 0.0
    return links()["efa"].latency_us, 2 * (nodes - 1) / nodes / _bytes_per_us(between)


def _bytes_per_us(between: NodeLink | None) -> float:
    return between.gbps * links()["efa"].line_rate_share / 8 * 1e3 if between else math.inf


def _all_to_all(
    card: ModelCard, known: GpuFactors, layout: LayoutPlan, between: NodeLink | None, nvlink: bool
) -> tuple[float, float]:
    """Each rank sends its share of the rows to the other ranks that hold their experts, and gets them back."""
    assert card.moe is not None  # noqa: S101 - the caller has checked
    ranks = layout.tensor
    others = (ranks - 1) * (1 - (1 - 1 / ranks) ** card.moe.top_k)
    sent = others / ranks * card.hidden * _DISPATCH_AND_COMBINE_BYTES
    latency, per_byte = _inside(known, nvlink, 2)
    nodes = max(1, layout.tensor // layout.gpus_per_node)
    if nodes == 1:
        return 2 * latency, sent * per_byte
    far = sent * (nodes - 1) / nodes * layout.gpus_per_node / _bytes_per_us(between)
    return 2 * links()["efa"].latency_us, sent / nodes * per_byte + far
