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
# Each step reads the weights once for the whole batch, so a cache that is small beside them makes every token dear. A
# quarter of the weights, or 24 sequences of 8192 tokens where tokens are small, gives the layouts that are published as
# the best ones: Qwen3-235B-FP8 on four H100 or H200 and not on two (docs.gpustack.ai/performance-lab/qwen3-235b-a22b,
# docs.nvidia.com/dynamo/recipes/qwen3-235b-a22b-fp8), Llama-405B-FP8 on eight, gpt-oss-120b on one H100.
_COMFORTABLE_CACHE = 0.25
_COMFORTABLE_TOKENS = 24 * 8192
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


def tensor_problem(card: ModelCard, tensor: int, *, experts_apart: bool = False) -> str | None:
    """Why a tensor parallel degree breaks this model; None where it does not.

    `experts_apart`: each rank holds whole experts (expert parallel), and only what is not an expert is cut.

    Sources: vLLM raises where attention heads do not divide; block-quantised FP8 needs expert (or dense) widths that
    stay multiples of 128 on each rank; AWQ needs whole groups of 128.
    """
    if card.heads % tensor:
        return f"{card.heads} attention heads do not divide by {tensor}"
    if card.kv_heads % tensor and tensor % card.kv_heads:
        return f"{card.kv_heads} KV heads and tensor {tensor} do not divide one another"
    if card.checkpoint.format in {"fp8_block128", "awq_int4"}:
        for width in _cut_widths(card, experts_apart=experts_apart):
            if width % tensor or (width // tensor) % 128:
                return f"width {width} over {tensor} ranks is no multiple of 128, which {card.checkpoint.format} needs"
    if experts_apart and card.moe is not None and card.moe.experts % tensor:
        return f"{card.moe.experts} experts do not divide by {tensor}"
    return None


def _cut_widths(card: ModelCard, *, experts_apart: bool) -> Iterator[int]:
    """Widths of feed-forwards that tensor ranks share."""
    if card.moe is None or card.dense_layers:
        yield card.intermediate
    if card.moe is not None and not experts_apart:
        yield card.moe.intermediate
    if card.moe is not None and card.moe.shared:
        yield card.moe.shared * card.moe.intermediate


def legal_tensor_degrees(card: ModelCard, limit: int, *, experts_apart: bool = False) -> list[int]:
    """Degrees up to `limit` that the model allows."""
    return [t for t in range(1, limit + 1) if tensor_problem(card, t, experts_apart=experts_apart) is None]


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
    """The smallest layout on one node with a cache that keeps it busy, else the node's largest, else the fewest nodes
    that hold a comfortable number of sequences, else the best that holds one; None: nothing fits on this hardware."""
    fits = [fit(card, node, serving, candidate) for candidate in candidates(card, node, serving.engine)]
    usable = [f for f in fits if f.memory.max_sequences >= 1]
    single = [f for f in usable if f.layout.nodes == 1]
    roomy = [f for f in single if f.memory.max_sequences >= COMFORTABLE_SEQUENCES and _is_roomy(f.memory)]
    if roomy:
        return min(roomy, key=lambda f: f.layout.gpus)
    enough = [f for f in single if f.memory.max_sequences >= COMFORTABLE_SEQUENCES]
    if enough:
        return max(enough, key=lambda f: (f.memory.kv_tokens, -f.layout.gpus))
    # More nodes than a model needs are a price that nobody asked for: there, a small cache will do.
    comfortable = [f for f in usable if f.memory.max_sequences >= COMFORTABLE_SEQUENCES]
    if comfortable:
        return min(comfortable, key=lambda f: (f.layout.gpus, f.layout.pipeline))
    return max(usable, key=lambda f: (f.memory.max_sequences, -f.layout.gpus), default=None)


def _is_roomy(memory: MemoryBudget) -> bool:
    return memory.kv_gib >= _COMFORTABLE_CACHE * memory.weights_gib or memory.kv_tokens >= _COMFORTABLE_TOKENS


def candidates(card: ModelCard, node: Node, engine: str) -> Iterator[Layout]:
    """Layouts worth trying, small ones first.

    One node: tensor parallel (at most 4 over PCIe, where all-reduce is slow), with whole experts on each GPU where
    their width does not divide. More nodes: SGLang runs tensor parallel over all of them, vLLM keeps it inside a node
    and pipelines between nodes. Source: both projects' multi-node guides, which end at 32 ranks.
    """
    inside = node.gpus if node.nvlink else min(node.gpus, 4)
    for tensor in _TENSOR_DEGREES:
        if tensor > inside:
            break
        if tensor_problem(card, tensor) is None:
            yield Layout(tensor=tensor)
        elif card.moe is not None and tensor_problem(card, tensor, experts_apart=True) is None:
            yield Layout(tensor=tensor, expert=tensor)
    if not node.gdr:
        return
    for nodes in range(2, _MAX_NODES + 1):
        if engine == "sglang":
            tensor = nodes * node.gpus
            if tensor <= _TENSOR_DEGREES[-1] and tensor_problem(card, tensor) is None:
                yield Layout(tensor=tensor)
        elif tensor_problem(card, node.gpus) is None:
            yield Layout(tensor=node.gpus, pipeline=nodes)
