"""One copy of a model on its hardware, as the performance model sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from catalog.types import Gpu, ModelCard
from planner.performance.links import NodeLink
from planner.performance.step import StepCosts, chunk_tokens
from planner.plan import LayoutPlan, MemoryBudget

if TYPE_CHECKING:
    from planner.layout import Fit, Node

EngineName = Literal["vllm", "sglang"]
Precision = Literal["bf16", "fp8"]
MAX_RUNNING = 256
"""Sequences that a replica runs at once at most, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One copy of a model on hardware."""

    card: ModelCard
    gpu: Gpu
    layout: LayoutPlan
    engine: EngineName
    precision: Precision
    """Of the matrix products; weights of fewer bits are widened to bf16 first."""
    memory: MemoryBudget
    max_running: int = MAX_RUNNING
    """Limit of running sequences that the engine is given."""
    between: NodeLink | None = None
    """The network between the replica's nodes, where it has more than one."""
    nvlink: bool = True
    """Whether GPUs of a node talk over NVLink; else over PCIe."""
    kv_bytes_per_value: float = 2.0
    chunk_tokens: int | None = None
    """Tokens that a step takes at most; the engine's default for the GPU where None."""
    costs: StepCosts = field(init=False, repr=False, compare=False)
    """Coefficients of its step times."""

    def __post_init__(self) -> None:
        costs = StepCosts(
            card=self.card,
            gpu=self.gpu,
            layout=self.layout,
            engine=self.engine,
            precision=self.precision,
            memory=self.memory,
            kv_bytes_per_value=self.kv_bytes_per_value,
            between=self.between,
            nvlink=self.nvlink,
            chunk=self.chunk_tokens or chunk_tokens(self.engine, self.gpu),
        )
        object.__setattr__(self, "costs", costs)


def matrix_precision(card: ModelCard, quantization: str) -> Precision:
    """What the matrix products run in: `fp8_weight_only` and weights of fewer bits are widened to bf16 first."""
    published = card.checkpoint.format in {"fp8", "fp8_block128"}
    return "fp8" if quantization == "fp8" or (quantization == "checkpoint" and published) else "bf16"


def replica_of(
    card: ModelCard,
    node: Node,
    fit: Fit,
    *,
    engine: EngineName,
    precision: Precision,
    network_gbps: float,
    max_running: int = MAX_RUNNING,
    kv_bytes_per_value: float = 2.0,
) -> Replica:
    """The replica that a layout on a node gives; `network_gbps` is one node's, all cards together."""
    layout = fit.layout
    return Replica(
        card=card,
        gpu=node.gpu,
        layout=layout,
        engine=engine,
        precision=precision,
        memory=fit.memory,
        max_running=max_running,
        between=NodeLink(nodes=layout.nodes, gbps=network_gbps) if layout.nodes > 1 else None,
        nvlink=node.nvlink,
        kv_bytes_per_value=kv_bytes_per_value,
    )
