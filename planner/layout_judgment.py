"""Whether a model fits the nodes of its pool: the layout chosen for it, or what stands against the one it is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from catalog.types import ModelCard
from planner.layout import Fit, Node, choose, fit, legal_tensor_degrees, tensor_problem
from planner.memory import Serving
from planner.problems import Findings
from settings.errors import Path
from settings.serving import Layout, Model

_Told = tuple[str, str, str]
"""(key of the layout, message, help)"""


def judge_layout(
    path: Path, model: Model, card: ModelCard, node: Node, serving: Serving | None, findings: Findings
) -> Fit | None:
    """The layout of a model on its nodes, with its memory.

    `serving` is None where nobody can say what memory must hold: degrees alone are judged then.

    Returns None where there is no layout; a given one that is a problem is returned where it says at least over how
    many nodes the model is meant to be.
    """
    if not isinstance(model.layout, Layout):
        return _chosen(path, model, card, node, serving, findings) if serving else None
    problems = list(_degree_problems(model, model.layout, card, node))
    for key, message, help_text in problems:
        findings.problem((*path, "layout", key), message, help_text)
    if serving is None or any(key == "tensor" for key, _, _ in problems):
        return None
    found = fit(card, node, serving, model.layout)
    if not problems and found.memory.max_sequences < 1:
        best = choose(card, node, serving)
        advice = (
            f"tensor {best.layout.tensor}, pipeline {best.layout.pipeline} fits, or `layout: auto`"
            if best
            else _what_would_fit(card, node, serving)
        )
        findings.problem((*path, "layout"), _too_small(found, serving), advice)
    return found


def _chosen(path: Path, model: Model, card: ModelCard, node: Node, serving: Serving, findings: Findings) -> Fit | None:
    found = choose(card, node, serving)
    if found is None:
        findings.problem(
            (*path, "pool"),
            f"{card.name} fits on no layout of {node.name}",
            _other_engine(model, card, node, serving) or _what_would_fit(card, node, serving),
        )
    return found


def _other_engine(model: Model, card: ModelCard, node: Node, serving: Serving) -> str | None:
    """The other engine where it has a layout: over nodes vLLM pipelines what SGLang would cut into too many ranks."""
    other = "vllm" if model.engine == "sglang" else "sglang"
    found = choose(card, node, replace(serving, engine=other))
    if found is None or model.runtime == "ray_service" or model.engine_options is not None:
        return None
    layout = found.layout
    return f"engine {other} fits with tensor {layout.tensor} and pipeline {layout.pipeline}"


def _too_small(found: Fit, serving: Serving) -> str:
    memory = found.memory
    if memory.kv_gib <= 0:
        return (
            f"does not fit: {memory.weights_gib:.1f} GiB of weights and {memory.overhead_gib:.1f} GiB of overhead "
            f"against {memory.gpu_gib * memory.utilization:.1f} GiB usable of each GPU"
        )
    return (
        f"the KV cache holds {memory.kv_tokens} tokens, less than one sequence of {serving.context_tokens}: lower "
        "context_tokens or spread over more GPUs"
    )


def _what_would_fit(card: ModelCard, node: Node, serving: Serving) -> str:
    if serving.utilization is not None and choose(card, node, replace(serving, utilization=None)):
        return "it fits with `engine_options.memory_share: auto`"
    needed_gib = serving.weights_gb * 1e9 / 2**30 / 0.8
    per_node = node.gpus * node.gpu.memory_gib
    text = f"with a short context it needs about {needed_gib:.0f} GiB of GPU memory; one {node.name} has {per_node:.0f}"
    shorter = _longest_context(card, node, serving) if needed_gib <= per_node else None
    if needed_gib > per_node and not node.gdr:
        text += ", and its nodes cannot share a model (no GPUDirect RDMA): use p4d, p5, p5e, p5en or p6"
    elif shorter is not None:
        text += f"; `context_tokens: {shorter}` fits"
    elif card.checkpoint.format == "bf16" and node.gpu.fp8_hardware:
        text += "; `quantization: fp8` halves the weights"
    else:
        text += "; use a larger instance type, a shorter context or quantised weights"
    return text


def _longest_context(card: ModelCard, node: Node, serving: Serving) -> int | None:
    """The first half, quarter, ... of the context with which some layout fits, down to 1,024 tokens."""
    tokens = serving.context_tokens // 2
    while tokens >= 1024:
        if choose(card, node, replace(serving, context_tokens=tokens)):
            return tokens
        tokens //= 2
    return None


def _degree_problems(model: Model, layout: Layout, card: ModelCard, node: Node) -> Iterator[_Told]:
    """What the model's dimensions and the nodes forbid, one problem for each degree."""
    apart = card.moe is not None and layout.expert > 1
    reason = tensor_problem(card, layout.tensor, experts_apart=apart)
    if reason:
        most = max(16, layout.tensor) if node.gdr else node.gpus
        legal = ", ".join(map(str, legal_tensor_degrees(card, most, experts_apart=apart)))
        advice = f"degrees that divide: {legal}" + (", with `expert` alike" if apart else "")
        if card.moe is not None and not apart and tensor_problem(card, layout.tensor, experts_apart=True) is None:
            advice += f"; or whole experts on each GPU: `expert: {layout.tensor * layout.pipeline}`"
        yield "tensor", reason, advice
    ranks = layout.tensor * layout.pipeline
    # What follows from the number of ranks is told of a degree that may stay.
    if not reason and ranks > node.gpus and not node.gdr:
        yield (
            "tensor",
            f"{ranks} ranks need more than one {node.name}, which has no GPUDirect RDMA between nodes",
            f"stay within the {node.gpus} GPU(s) of one node, or use p4d, p5, p5e, p5en or p6",
        )
    elif not reason and ranks > node.gpus and ranks % node.gpus:
        yield "tensor", f"{ranks} ranks do not fill nodes of {node.gpus} GPUs", f"use multiples of {node.gpus}"
    if layout.pipeline > card.layers:
        yield "pipeline", f"more stages than the model's {card.layers} layers", "use fewer stages"
    if layout.expert > 1 and card.moe is None:
        why = f"expert parallel {layout.expert} is not possible: the model has no experts"
        yield "expert", why, "use 1"
    elif layout.expert > 1 and layout.expert != ranks and not reason:
        why = f"expert parallel {layout.expert} is not possible: experts spread over all {ranks} ranks or none"
        yield "expert", why, "use 1, or the whole replica"
    if layout.data > 1:
        yield from _data_problems(model, card, layout, node, tensor_stays=not reason)


def _data_problems(model: Model, card: ModelCard, layout: Layout, node: Node, *, tensor_stays: bool) -> Iterator[_Told]:
    """Data parallel attention: SGLang's within the tensor ranks; vLLM's where experts bind its groups together."""
    if tensor_stays and layout.tensor % layout.data:
        yield "data", f"{layout.data} groups do not divide {layout.tensor} tensor ranks", "use a divisor of tensor"
    elif model.engine == "sglang":
        return
    elif card.moe is None or layout.expert == 1:
        words = "vLLM's data parallel groups are replicas in all but name unless they share experts"
        yield "data", words, "use 1 and add replicas, set `layout.expert`, or take SGLang, which splits attention"
    elif tensor_stays and layout.tensor * layout.pipeline > node.gpus:
        words = "over nodes vLLM's data parallel attention needs a server on each node"
        yield "data", words, "use 1, one node, or engine sglang"
    elif model.runtime == "ray_service":
        yield "data", "Ray Serve LLM builds another application for it", "use 1, or runtime deployment"
