"""First pass over a model: where it goes, how it is laid out, and what stands against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from catalog.load import Catalog
from catalog.types import Engine, ModelCard
from planner.cache import Reader
from planner.engines.checks import options_of
from planner.engines.held import beside_gb, predicts, weights_gb
from planner.inline_cards import card_of, contradiction
from planner.layout import Fit, Node, choose, fit, legal_tensor_degrees, tensor_problem
from planner.memory import Serving
from planner.performance.step import chunk_tokens
from planner.plan import PoolPlan, Role
from planner.pools import PoolFacts
from planner.problems import Findings
from planner.sharing import refuses
from settings.errors import Path, did_you_mean
from settings.pools import ExistingPool, KarpenterPool
from settings.root import Settings
from settings.serving import Layout, Model

_ASSUMED_RUNNING = 256
"""Sequences in one step at most, before the memory says how many there will be."""

Runtime = Literal["deployment", "leader_worker_set", "ray_service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model after the first pass: where it goes and how it is laid out. Pools and loads follow from all drafts."""

    index: int
    model: Model
    card: ModelCard
    facts: PoolFacts
    fit: Fit
    engine: Engine
    runtime: Runtime
    serving: Serving
    hub_id: str
    role: Role | None = None
    """Of a group of a disaggregated model; `model` then has the group's name, layout, replicas and pool."""
    serves: str
    """Name that clients send."""

    @property
    def uses_efa(self) -> bool:
        """Whether its pods take EFA devices: over several nodes, or to move the KV cache."""
        return self.fit.layout.nodes > 1 or self.role is not None

    @property
    def path(self) -> Path:
        """Path in the stack file."""
        return ("models", self.index)

    def reader(self, pool: PoolPlan) -> Reader:
        """What its minimum replicas read at a start."""
        return Reader(
            model=self.model.name,
            gigabytes=self.card.checkpoint.gigabytes + beside_gb(self.card, options_of(self.model)),
            nodes=max(1, self.model.replicas.min) * self.fit.layout.nodes,
            hardware=pool.hardware,
        )


def draft(
    index: int, model: Model, settings: Settings, pools: Mapping[str, PoolFacts], catalog: Catalog, findings: Findings
) -> Draft | None:
    """First pass over one model; None (and problems) where it cannot run."""
    path: Path = ("models", index)
    card = _card(path, model, catalog, findings)
    if model.pool not in pools:
        declared = [pool.name for pool in settings.pools]
        if model.pool not in declared:
            findings.problem((*path, "pool"), f"there is no pool `{model.pool}`", did_you_mean(model.pool, declared))
        return None
    if card is None:
        return None
    facts = pools[model.pool]
    node = facts.node()
    if model.context_tokens > card.max_context:
        findings.problem(
            (*path, "context_tokens"),
            f"{card.name} was trained for {card.max_context} tokens",
            f"set it to {card.max_context} or less",
        )
        return None
    if not _number_format_fits(path, model, card, facts, findings):
        return None
    options = options_of(model)
    chunk = options.prefill_chunk_tokens
    step = chunk_tokens(model.engine, facts.gpu) if chunk == "auto" else int(chunk)
    serving = Serving(
        engine=model.engine,
        weights_gb=weights_gb(card, model.quantization, options),
        kv_bytes_per_value=1 if model.kv_cache == "fp8" else 2,
        context_tokens=model.context_tokens,
        prediction=predicts(options),
        running=_ASSUMED_RUNNING if options.max_running == "auto" else min(int(options.max_running), step),
        step_tokens=None if options.prefill_chunk_tokens == "auto" else step,
        utilization=None if options.memory_share == "auto" else float(options.memory_share),
    )
    if facts.sharing is not None:
        whole = catalog.gpus[facts.gpu.name]
        if refuses(path, model, card, node, serving, facts.sharing, whole, findings):
            return None
    found = _layout(path, model, card, node, serving, findings)
    if found is None:
        return None
    runtime = _runtime(path, model, found, findings)
    if runtime is None or not _provisioner_keeps_it_whole(path, found, facts, findings):
        return None
    engine = catalog.engines["ray-llm" if runtime == "ray_service" else model.engine]
    return Draft(
        index=index,
        model=model,
        card=card,
        facts=facts,
        fit=found,
        engine=engine,
        runtime=runtime,
        serving=serving,
        hub_id=card.name,
        serves=model.name,
    )


def _card(path: Path, model: Model, catalog: Catalog, findings: Findings) -> ModelCard | None:
    if isinstance(model.model, str):
        card = catalog.models.get(model.model)
        if card is None:
            findings.problem(
                (*path, "model"),
                f"`{model.model}` is not in the catalog",
                did_you_mean(model.model, catalog.models)
                or "give its numbers inline, or add it to catalog/models.yaml",
            )
        return card
    card = card_of(model.model, next(iter(catalog.models.values())).as_of)
    wrong = contradiction(card)
    if wrong:
        findings.problem(
            (*path, "model", "params_billion"),
            wrong,
            "`python -m ops model-card --inline` makes them from a config.json",
        )
        return None
    return card


def _number_format_fits(path: Path, model: Model, card: ModelCard, facts: PoolFacts, findings: Findings) -> bool:
    """FP8 only where the GPU has units for it, or where weight-only is meant."""
    published = card.checkpoint.format
    is_fp8 = published.startswith("fp8") or model.quantization == "fp8"
    if model.quantization == "fp8" and published != "bf16":
        findings.problem(
            (*path, "quantization"),
            f"the weights are published as {published} already",
            "leave it at `checkpoint`",
        )
        return False
    if is_fp8 and model.quantization != "fp8_weight_only" and not facts.gpu.fp8_hardware:
        findings.problem(
            (*path, "quantization"),
            f"{facts.gpu.name} has no FP8 units",
            "say `quantization: fp8_weight_only` if less memory without more speed is meant, or use H100, H200, L4 or "
            "L40S",
        )
        return False
    if model.kv_cache == "fp8" and not facts.gpu.fp8_hardware:
        findings.problem((*path, "kv_cache"), f"{facts.gpu.name} cannot keep its KV cache in FP8", "leave it at `auto`")
        return False
    if model.quantization == "fp8_weight_only" and published not in {"bf16", "fp8", "fp8_block128"}:
        findings.problem((*path, "quantization"), f"{published} weights cannot become FP8", "leave it at `checkpoint`")
        return False
    return True


def _layout(path: Path, model: Model, card: ModelCard, node: Node, serving: Serving, findings: Findings) -> Fit | None:
    if not isinstance(model.layout, Layout):
        found = choose(card, node, serving)
        if found is None:
            findings.problem(
                (*path, "pool"),
                f"{card.name} fits on no layout of {node.name}",
                _other_engine(model, card, node, serving) or _what_would_fit(card, node, serving),
            )
        return found
    problems = list(_layout_problems(model, card, node))
    for key, message, help_text in problems:
        findings.problem((*path, "layout", key), message, help_text)
    if problems:
        return None
    found = fit(card, node, serving, model.layout)
    if found.memory.max_sequences < 1:
        best = choose(card, node, serving)
        advice = (
            f"tensor {best.layout.tensor}, pipeline {best.layout.pipeline} fits, or `layout: auto`"
            if best
            else _what_would_fit(card, node, serving)
        )
        findings.problem((*path, "layout"), _too_small(found, serving), advice)
        return None
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


def _layout_problems(model: Model, card: ModelCard, node: Node) -> list[tuple[str, str, str]]:
    layout = model.layout
    assert isinstance(layout, Layout)  # noqa: S101 - the caller has checked
    found: list[tuple[str, str, str]] = []
    apart = card.moe is not None and layout.expert > 1
    reason = tensor_problem(card, layout.tensor, experts_apart=apart)
    if reason:
        most = max(16, layout.tensor) if node.gdr else node.gpus
        legal = ", ".join(map(str, legal_tensor_degrees(card, most, experts_apart=apart)))
        advice = f"degrees that divide: {legal}" + (", with `expert` alike" if apart else "")
        if card.moe is not None and not apart and tensor_problem(card, layout.tensor, experts_apart=True) is None:
            advice += f"; or whole experts on each GPU: `expert: {layout.tensor * layout.pipeline}`"
        found.append(("tensor", reason, advice))
    ranks = layout.tensor * layout.pipeline
    if ranks > node.gpus and not reason:
        if ranks % node.gpus:
            found.append(
                ("tensor", f"{ranks} ranks do not fill nodes of {node.gpus} GPUs", f"use multiples of {node.gpus}")
            )
        if not node.gdr:
            found.append(
                (
                    "tensor",
                    f"{ranks} ranks need more than one {node.name}, which has no GPUDirect RDMA between nodes",
                    f"stay within the {node.gpus} GPU(s) of one node, or use p4d, p5, p5e, p5en or p6",
                )
            )
    if layout.pipeline > card.layers:
        found.append(("pipeline", f"more stages than the model's {card.layers} layers", "use fewer stages"))
    if layout.expert > 1 and (card.moe is None or layout.expert != ranks):
        why = "the model has no experts" if card.moe is None else f"experts spread over all {ranks} ranks or none"
        found.append(
            ("expert", f"expert parallel {layout.expert} is not possible: {why}", "use 1, or the whole replica")
        )
    if layout.data > 1:
        found += _data_problems(model, card, layout, node)
    return found


def _data_problems(model: Model, card: ModelCard, layout: Layout, node: Node) -> list[tuple[str, str, str]]:
    """Data parallel attention: SGLang's within the tensor ranks; vLLM's where experts bind its groups together."""
    if layout.tensor % layout.data:
        return [("data", f"{layout.data} groups do not divide {layout.tensor} tensor ranks", "use a divisor of tensor")]
    if model.engine == "sglang":
        return []
    if card.moe is None or layout.expert == 1:
        words = "vLLM's data parallel groups are replicas in all but name unless they share experts"
        return [("data", words, "use 1 and add replicas, set `layout.expert`, or take SGLang, which splits attention")]
    if layout.tensor * layout.pipeline > node.gpus:
        words = "over nodes vLLM's data parallel attention needs a server on each node"
        return [("data", words, "use 1, one node, or engine sglang")]
    if model.runtime == "ray_service":
        return [("data", "Ray Serve LLM builds another application for it", "use 1, or runtime deployment")]
    return []


def _provisioner_keeps_it_whole(path: Path, found: Fit, facts: PoolFacts, findings: Findings) -> bool:
    """ADR 1: a group of nodes lands whole on one rung in one zone, and Karpenter launches node by node."""
    nodes = found.layout.nodes
    if nodes > 1 and not isinstance(facts.pool, ExistingPool) and len(facts.pool.zones) > 1:
        findings.problem(
            (*path, "pool"),
            f"one replica spans {nodes} nodes, which talk EFA within one zone, and `{facts.pool.name}` is in "
            f"{' and '.join(facts.pool.zones)}",
            "give it a pool with one `availability_zone`, or a layout that fits one node",
        )
        return False
    if nodes == 1 or not isinstance(facts.pool, KarpenterPool):
        return True
    findings.problem(
        (*path, "pool"),
        f"one replica spans {nodes} nodes, and `{facts.pool.name}` is Karpenter's, which launches node by node: a "
        "group may get half of its nodes",
        "use a pool with `provisioner: node_group`, or a layout that fits one node",
    )
    return False


def _runtime(path: Path, model: Model, found: Fit, findings: Findings) -> Runtime | None:
    nodes = found.layout.nodes
    if model.runtime == "auto":
        return "leader_worker_set" if nodes > 1 else "deployment"
    if model.runtime == "deployment" and nodes > 1:
        findings.problem(
            (*path, "runtime"), f"one replica spans {nodes} nodes, a Deployment's pod one", "use leader_worker_set"
        )
        return None
    if model.runtime == "ray_service" and model.engine != "vllm":
        findings.problem(
            (*path, "runtime"), "Ray Serve LLM runs vLLM only", "use engine vllm, or runtime leader_worker_set"
        )
        return None
    return model.runtime
