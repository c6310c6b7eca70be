"""How a model is spread over GPUs: the smallest layout that provably fits, or the reasons why a given one does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from catalog.types import Gpu, Instance, ModelCard
from planner.memory import Serving, budget
from planner.plan import LayoutPlan, MemoryBudget
from settings.serving import Layout

# With fewer sequences at full length a replica spends its time waiting for memory; auto looks for this many.
COMFORTABLE_SEQUENCES = 4
_TENSOR_DEGREES = (1, 2, 4, 8, 16, 32)
_MAX_NODES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a layout must know of a node."""

    gpu: Gpu
    gpus: int
    nvlink: bool
    gdr: bool
    """GPUDirect RDMA between nodes."""
    name: str
    """For messages: the instance type, or the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A layout with its memory."""

    layout: LayoutPlan
    memory: MemoryBudget


def node_of(instance: Instance, gpu: Gpu) -> Node:
    """The node that an EC2 instance type gives."""
    return Node(gpu=gpu, gpus=instance.gpus, nvlink=instance.nvlink, gdr=instance.gdr, name=instance.name)


def tensor_problem(card: ModelCard, tensor: int) -> str | None:
    """Why a tensor parallel degree breaks this model; None where it does not.

    Sources: vLLM raises where attention heads do not divide; block-quantised FP8 needs expert (or dense) widths that
    stay multiples of 128 on each rank; AWQ needs whole groups of 128.
    """
    if card.heads % tensor:
        return f"{card.heads} attention heads do not divide by {tensor}"
    if card.kv_heads % tensor and tensor % card.kv_heads:
        return f"{card.kv_heads} KV heads and tensor {tensor} do not divide one another"
    width = card.moe.intermediate if card.moe else card.intermediate
    if card.checkpoint.format in {"fp8_block128", "awq_int4"} and (width % tensor or (width // tensor) % 128):
        return f"width {width} over {tensor} ranks is no multiple of 128, which {card.checkpoint.format} needs"
    return None


def legal_tensor_degrees(card: ModelCard, limit: int) -> list[int]:
    """Degrees up to `limit` that the model allows."""
    return [t for t in range(1, limit + 1) if tensor_problem(card, t) is None]


def place(node: Node, layout: Layout) -> tuple[int, int]:
    """(nodes, GPUs a node) that tensor x pipeline ranks take, filling nodes one after the other."""
    ranks = layout.tensor * layout.pipeline
    if ranks <= node.gpus:
        return 1, ranks
    return -(-ranks // node.gpus), node.gpus


def fit(card: ModelCard, node: Node, serving: Serving, layout: Layout) -> Fit:
    """Memory of a given layout, whether or not it is enough."""
    nodes, gpus = place(node, layout)
    plan = LayoutPlan(
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        expert=layout.expert,
        data=layout.data,
        nodes=nodes,
        gpus_per_node=gpus,
    )
    memory = budget(
        card,
        node.gpu,
        serving,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        data=layout.data,
        expert=layout.expert,
        nodes=nodes,
    )
    return Fit(layout=plan, memory=memory)


def choose(card: ModelCard, node: Node, serving: Serving) -> Fit | None:
    """The smallest layout that holds a comfortable number of sequences, else the best that holds one; None: nothing
    fits on this hardware."""
    fits = [fit(card, node, serving, candidate) for candidate in candidates(card, node, serving.engine)]
    usable = [f for f in fits if f.memory.max_sequences >= 1]
    single = [f for f in usable if f.layout.nodes == 1]
    for group in (single, usable):
        comfortable = [f for f in group if f.memory.max_sequences >= COMFORTABLE_SEQUENCES]
        if comfortable:
            return min(comfortable, key=lambda f: (f.layout.gpus, f.layout.pipeline))
    return max(usable, key=lambda f: (f.memory.max_sequences, -f.layout.gpus), default=None)


def candidates(card: ModelCard, node: Node, engine: str) -> Iterator[Layout]:
    """Layouts worth trying, small ones first.

    One node: tensor parallel only (at most 4 over PCIe, where all-reduce is slow). More nodes: SGLang runs tensor
    parallel over all of them, vLLM keeps it inside a node and pipelines between nodes. Source: both projects'
    multi-node guides.
    """
    inside = node.gpus if node.nvlink else min(node.gpus, 4)
    for tensor in _TENSOR_DEGREES:
        if tensor <= inside and tensor_problem(card, tensor) is None:
            yield Layout(tensor=tensor)
    if not node.gdr:
        return
    for nodes in range(2, _MAX_NODES + 1):
        if engine == "sglang":
            tensor = nodes * node.gpus
            if tensor_problem(card, tensor) is None:
                yield Layout(tensor=tensor)
        elif tensor_problem(card, node.gpus) is None:
            yield Layout(tensor=node.gpus, pipeline=nodes)
