"""Layouts that the search tries on a node, and those that it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from catalog.types import ModelCard
from planner.layout import Node, candidates, place, tensor_problem
from planner.memory import GIB
from planner.sizing.request import EngineName
from settings.serving import Layout

_MOST_NODES = 4
"""A replica spreads over more nodes only where fewer do not hold the model."""
_SPREAD_SHARE = 0.25
"""Of a node's memory: smaller weights are better served by more replicas than by one over nodes."""
_DEGREES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A tensor parallel degree that the model does not divide by."""

    tensor: int
    reason: str


def broken(card: ModelCard, node: Node) -> Iterator[Broken]:
    """Degrees that this node has the GPUs for and the model forbids."""
    for tensor in _DEGREES:
        if tensor > node.gpus:
            return
        reason = tensor_problem(card, tensor)
        if reason is not None:
            yield Broken(tensor=tensor, reason=reason)


def layouts(card: ModelCard, node: Node, engine: EngineName, weights_gb: float) -> Iterator[Layout]:
    """The planner's own candidates, small ones first, with data parallel attention; then pipelines within a node."""
    spread = weights_gb * 1e9 / GIB > _SPREAD_SHARE * node.gpus * node.gpu.memory_gib
    held = False
    widest = 1
    for layout in candidates(card, node, engine):
        nodes, _ = place(node, layout)
        if nodes > 1 and (not spread or (nodes > _MOST_NODES and held)):
            break
        if nodes == 1:
            widest = max(widest, layout.tensor)
        held = held or _could_hold(node, layout, weights_gb)
        yield layout
        if engine == "sglang" and card.mla is not None and card.moe is not None and layout.tensor > 1:
            ranks = layout.tensor * layout.pipeline
            yield Layout(tensor=layout.tensor, pipeline=layout.pipeline, expert=ranks, data=layout.tensor)
    if engine == "vllm":
        yield from _pipelines(card, node, widest)


def _pipelines(card: ModelCard, node: Node, tensor: int) -> Iterator[Layout]:
    """Stages over what tensor parallel leaves of a node: PCIe nodes of eight, or heads that do not divide by eight."""
    for pipeline in (2, 4, 8):
        if tensor * pipeline <= node.gpus and pipeline <= card.layers:
            yield Layout(tensor=tensor, pipeline=pipeline)


def _could_hold(node: Node, layout: Layout, weights_gb: float) -> bool:
    return weights_gb * 1e9 / GIB < 0.8 * layout.tensor * layout.pipeline * node.gpu.memory_gib
