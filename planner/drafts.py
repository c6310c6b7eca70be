"""First pass over a model: where it goes, how it is laid out, and what stands against it.

Problems are told together: what a model's entry says that cannot be is judged whatever its layout, and a layout is
judged beside other mistakes. Where one legal value is left in place of a wrong one, planning goes on with that; where
several are, what would follow from one of them is not judged, since it might not follow from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from catalog.load import Catalog
from catalog.types import Engine, Gpu, ModelCard
from planner.cache import Reader
from planner.engines.checks import check_options, options_of
from planner.engines.held import beside_gb, predicts, weights_gb
from planner.inline_cards import card_of, contradiction
from planner.kv_tiers import check_kv_offload
from planner.layout import Fit
from planner.layout_judgment import judge_layout
from planner.memory import Serving
from planner.performance.step import chunk_tokens
from planner.plan import PoolPlan, Role
from planner.pool_facts import PoolFacts
from planner.problems import Findings
from planner.sharing import refuses
from planner.valkey import check_gcs
from planner.warm_prompts import check_warm_prompts
from settings.errors import Path, did_you_mean
from settings.pools import ExistingPool, KarpenterPool
from settings.root import Settings
from settings.serving import Model

_ASSUMED_RUNNING = 256
"""Sequences in one step at most, before the memory says how many there will be."""
_SHORT_CONTEXT = 256
"""Tokens: what does not fit with so few, fits with no context that a stack file may ask for."""

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
            ranks=self.fit.layout.gpus_per_node,
            hardware=pool.hardware,
        )


def draft(
    index: int, model: Model, settings: Settings, pools: Mapping[str, PoolFacts], catalog: Catalog, findings: Findings
) -> Draft | None:
    """First pass over one model; None where nothing can be planned beside its problems, all of which are told."""
    path: Path = ("models", index)
    told, barring = Findings(), Findings()
    card = _card(path, model, catalog, barring)
    facts = _facts(path, model, settings, pools, barring)
    engine = _engine(path, model, catalog, barring)
    _judge_entry(path, model, card, engine, settings, told)
    sketch = None
    if card is not None:
        model = _with_legal_formats(path, model, card, facts.gpu if facts else None, told, barring)
        _judge_context(path, model, card, barring)
        if facts is not None:
            sketch = _laid_out(index, model, card, facts, engine, catalog, told, barring)
    findings.take(told)
    findings.take(barring)
    return None if barring.problems else sketch


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


def _facts(
    path: Path, model: Model, settings: Settings, pools: Mapping[str, PoolFacts], findings: Findings
) -> PoolFacts | None:
    """Of the model's pool; None for one that is not there, or (told already) has problems of its own."""
    declared = [pool.name for pool in settings.pools]
    if model.pool not in declared:
        findings.problem((*path, "pool"), f"there is no pool `{model.pool}`", did_you_mean(model.pool, declared))
    return pools.get(model.pool)


def _engine(path: Path, model: Model, catalog: Catalog, findings: Findings) -> Engine:
    if model.runtime != "ray_service":
        return catalog.engines[model.engine]
    if model.engine != "vllm":
        findings.problem(
            (*path, "runtime"), "Ray Serve LLM runs vLLM only", "use engine vllm, or runtime leader_worker_set"
        )
        return catalog.engines[model.engine]
    return catalog.engines["ray-llm"]


def _judge_entry(
    path: Path, model: Model, card: ModelCard | None, engine: Engine, settings: Settings, findings: Findings
) -> None:
    """What the entry says that cannot be on any hardware and in any layout."""
    check_options(path, model, card, engine, findings)
    check_gcs(path, model, has_store=settings.valkey is not None, findings=findings)
    if model.disaggregated is None:  # two groups have none of these, which is told where they are made
        check_kv_offload(path, model, card, has_store=settings.kv_store is not None, findings=findings)
        check_warm_prompts(path, model, findings)


def _with_legal_formats(
    path: Path, model: Model, card: ModelCard, gpu: Gpu | None, told: Findings, barring: Findings
) -> Model:
    """The model with number formats that its weights and its GPU have; problems that leave a choice are `barring`."""
    published = card.checkpoint.format
    already = published.startswith("fp8")
    legal = model
    if model.quantization != "checkpoint" and not already and published != "bf16":
        told.problem((*path, "quantization"), f"{published} weights cannot become FP8", "leave it at `checkpoint`")
        legal = legal.model_copy(update={"quantization": "checkpoint"})
    elif gpu is not None and _lacks_units(model, card, gpu):
        barring.problem(
            (*path, "quantization"),
            f"{gpu.name} has no FP8 units",
            "say `quantization: fp8_weight_only` if less memory without more speed is meant, or use H100, H200, L4 or "
            "L40S",
        )
    elif model.quantization == "fp8" and already:
        words = f"the weights are published as {published} already"
        told.problem((*path, "quantization"), words, "leave it at `checkpoint`")
        legal = legal.model_copy(update={"quantization": "checkpoint"})
    if model.kv_cache == "fp8" and gpu is not None and not gpu.fp8_hardware:
        told.problem((*path, "kv_cache"), f"{gpu.name} cannot keep its KV cache in FP8", "leave it at `auto`")
        legal = legal.model_copy(update={"kv_cache": "auto"})
    return legal


def _lacks_units(model: Model, card: ModelCard, gpu: Gpu) -> bool:
    """Whether weights would be computed in FP8 on a GPU that cannot; on it they may only be kept so."""
    wants = {"checkpoint": card.checkpoint.format.startswith("fp8"), "fp8": True, "fp8_weight_only": False}
    return wants[model.quantization] and not gpu.fp8_hardware


def _judge_context(path: Path, model: Model, card: ModelCard, findings: Findings) -> None:
    if model.context_tokens > card.max_context:
        findings.problem(
            (*path, "context_tokens"),
            f"{card.name} was trained for {card.max_context} tokens",
            f"set it to {card.max_context} or less",
        )


def _laid_out(
    index: int,
    model: Model,
    card: ModelCard,
    facts: PoolFacts,
    engine: Engine,
    catalog: Catalog,
    told: Findings,
    barring: Findings,
) -> Draft | None:
    path, node = ("models", index), facts.node()
    # Where the GPU cannot compute the weights, others are served or on another GPU: their memory is not known yet.
    serving = _serving(model, card, facts) if not _lacks_units(model, card, facts.gpu) else None
    if facts.sharing is not None:
        whole = catalog.gpus[facts.gpu.name]
        if refuses(path, model, card, node, serving, facts.sharing, whole, barring):
            return None
    found = judge_layout(path, model, card, node, serving, barring)
    if found is None or serving is None:
        return None
    _judge_groups(path, found, facts, barring)
    return Draft(
        index=index,
        model=model,
        card=card,
        facts=facts,
        fit=found,
        engine=engine,
        runtime=_runtime(path, model, found, told),
        serving=serving,
        hub_id=card.name,
        serves=model.name,
    )


def _serving(model: Model, card: ModelCard, facts: PoolFacts) -> Serving:
    """What is asked of the memory; of a context beyond the model's, what the shortest one would ask."""
    options = options_of(model)
    chunk = options.prefill_chunk_tokens
    step = chunk_tokens(model.engine, facts.gpu) if chunk == "auto" else int(chunk)
    return Serving(
        engine=model.engine,
        weights_gb=weights_gb(card, model.quantization, options),
        kv_bytes_per_value=1 if model.kv_cache == "fp8" else 2,
        context_tokens=model.context_tokens if model.context_tokens <= card.max_context else _SHORT_CONTEXT,
        prediction=predicts(options),
        running=_ASSUMED_RUNNING if options.max_running == "auto" else min(int(options.max_running), step),
        step_tokens=None if chunk == "auto" else step,
        utilization=None if options.memory_share == "auto" else float(options.memory_share),
    )


def _judge_groups(path: Path, found: Fit, facts: PoolFacts, findings: Findings) -> None:
    """ADR 1: a group of nodes lands whole on one rung in one zone, and Karpenter launches node by node."""
    nodes = found.layout.nodes
    if nodes == 1:
        return
    if not isinstance(facts.pool, ExistingPool) and len(facts.pool.zones) > 1:
        findings.problem(
            (*path, "pool"),
            f"one replica spans {nodes} nodes, which talk EFA within one zone, and `{facts.pool.name}` is in "
            f"{' and '.join(facts.pool.zones)}",
            "give it a pool with one `availability_zone`, or a layout that fits one node",
        )
    elif isinstance(facts.pool, KarpenterPool):
        findings.problem(
            (*path, "pool"),
            f"one replica spans {nodes} nodes, and `{facts.pool.name}` is Karpenter's, which launches node by node: a "
            "group may get half of its nodes",
            "use a pool with `provisioner: node_group`, or a layout that fits one node",
        )


def _runtime(path: Path, model: Model, found: Fit, findings: Findings) -> Runtime:
    nodes = found.layout.nodes
    if model.runtime == "deployment" and nodes > 1:
        findings.problem(
            (*path, "runtime"), f"one replica spans {nodes} nodes, a Deployment's pod one", "use leader_worker_set"
        )
        return "leader_worker_set"
    if model.runtime == "auto":
        return "leader_worker_set" if nodes > 1 else "deployment"
    return model.runtime
