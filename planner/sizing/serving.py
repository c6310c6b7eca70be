"""What one replica of each variant, engine and layout serves within the objectives; regions and prices play no part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from catalog.load import Catalog
from catalog.types import Instance, ModelCard
from planner.layout import Fit, Node, fit, node_of
from planner.memory import GIB, Serving, served_weights_gb
from planner.performance import Capacity, Floor, Replica, Workload, capacity, floor, matrix_precision, replica_of
from planner.plan import LayoutPlan
from planner.serving import running_limit
from planner.sizing.layouts import broken, layouts
from planner.sizing.request import EngineName, SizeRequest
from planner.sizing.variants import Variant, variants
from settings.serving import Layout

Failure = Literal["memory", "ttft", "tpot", "load"]
"""Does not fit; one request alone is too slow to its first token, or between tokens; slow as soon as two meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A replica that serves within the objectives."""

    variant: Variant
    engine: EngineName
    gpu: str
    layout: LayoutPlan
    replica: Replica
    capacity: Capacity

    @property
    def words(self) -> str:
        """Layout, engine and weights for people."""
        return f"{layout_words(self.layout)}, {self.engine}, {self.variant.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A replica that does not."""

    variant: Variant
    engine: EngineName
    gpu: str
    layout: LayoutPlan
    failure: Failure
    floor: Floor | None
    """None where it does not fit."""
    shortfall_gib: float = 0.0
    """Of each GPU, where it does not fit: for the weights, or for one sequence."""

    @property
    def words(self) -> str:
        """GPUs, layout and weights for people."""
        return f"{self.layout.gpus} x {self.gpu} ({layout_words(self.layout)}, {self.engine}, {self.variant.words})"


Outcome = Served | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Everything that was tried."""

    served: Mapping[str, tuple[Served, ...]]
    """Instance type -> what serves on it."""
    failed: tuple[Failed, ...]
    broken: Mapping[str, int]
    """Why the model's dimensions forbid a degree -> nodes that would have had the GPUs."""
    tried: int
    """Replicas whose memory and speed were worked out; types with the same GPUs share them."""


def layout_words(layout: LayoutPlan) -> str:
    """`tp 8`, `tp 8 pp 2`, `tp 16 dp 16 ep 16`."""
    words = f"tp {layout.tensor}"
    for name, degree in (("pp", layout.pipeline), ("dp", layout.data), ("ep", layout.expert)):
        if degree > 1:
            words += f" {name} {degree}"
    return words


def trials(card: ModelCard, request: SizeRequest, instances: Iterable[Instance], catalog: Catalog) -> Trials:
    """Try every variant, engine and layout on the nodes of each instance type."""
    known: dict[tuple[object, ...], Outcome] = {}
    served: dict[str, tuple[Served, ...]] = {}
    forbidden: dict[str, int] = {}
    for instance in instances:
        assert instance.gpu is not None  # noqa: S101 - offers are of types with GPUs
        node = node_of(instance, catalog.gpus[instance.gpu])
        found: list[Served] = []
        for variant, engine, layout in combinations(card, request, node, catalog):
            key = _key(variant, engine, layout, node, instance)
            outcome = known.get(key)
            if outcome is None:
                outcome = known[key] = _try(variant, engine, layout, node, instance, request)
            if isinstance(outcome, Served):
                found.append(outcome)
        for item in broken(card, node):
            forbidden[item.reason] = forbidden.get(item.reason, 0) + 1
        served[instance.name] = tuple(found)
    return Trials(
        served=served,
        failed=tuple(outcome for outcome in known.values() if isinstance(outcome, Failed)),
        broken=forbidden,
        tried=len(known),
    )


def combinations(
    card: ModelCard, request: SizeRequest, node: Node, catalog: Catalog
) -> Iterator[tuple[Variant, EngineName, Layout]]:
    """Everything that is tried on a node."""
    for variant in variants(card, request.quantization, node.gpu, catalog):
        if request.context(card) > variant.card.max_context:
            continue
        weights_gb = served_weights_gb(variant.card, variant.quantization)
        for engine in request.engines:
            for layout in layouts(variant.card, node, engine, weights_gb):
                yield variant, engine, layout


def _key(variant: Variant, engine: str, layout: Layout, node: Node, instance: Instance) -> tuple[object, ...]:
    """What two nodes share where a replica on them is the same: size of the rest of the node does not matter."""
    ranks = layout.tensor * layout.pipeline
    nvlink = node.nvlink or ranks == 1
    within = ranks <= node.gpus
    place = (0, 0.0) if within else (node.gpus, instance.network_gbps)
    degrees = (layout.tensor, layout.pipeline, layout.data, layout.expert)
    return (variant.card.name, variant.quantization, engine, degrees, node.gpu.name, nvlink, place)


def _try(
    variant: Variant, engine: EngineName, layout: Layout, node: Node, instance: Instance, request: SizeRequest
) -> Outcome:
    card = variant.card
    serving = serving_of(variant, engine, request)
    found = fit(card, node, serving, layout)

    def failed(failure: Failure, limit: Floor | None, shortfall_gib: float = 0.0) -> Failed:
        return Failed(
            variant=variant,
            engine=engine,
            gpu=node.gpu.name,
            layout=found.layout,
            failure=failure,
            floor=limit,
            shortfall_gib=shortfall_gib,
        )

    if found.memory.max_sequences < 1:
        return failed("memory", None, _shortfall_gib(found, serving))
    tokens = math.ceil(request.input.mean + request.output.mean * (1 + request.output.cv2) / 2)
    replica = replica_of(
        card,
        node,
        found,
        engine=engine,
        precision=matrix_precision(card, variant.quantization),
        network_gbps=instance.network_gbps,
        max_running=running_limit(found.memory.kv_tokens, tokens),
    )
    limit = floor(
        replica,
        Workload(
            requests_per_second=0.0, input=request.input, output=request.output, cached_share=request.cached_share
        ),
    )
    if limit.ttft_ms > request.ttft_p99_ms:
        return failed("ttft", limit)
    if limit.tpot_ms > request.tpot_p99_ms:
        return failed("tpot", limit)
    most = capacity(
        replica,
        input=request.input,
        output=request.output,
        cached_share=request.cached_share,
        ttft_p99_ms=request.ttft_p99_ms,
        tpot_p99_ms=request.tpot_p99_ms,
    )
    if most.limited_by == "nothing serves" or most.requests_per_second <= 0:
        return failed("load", limit)
    return Served(
        variant=variant, engine=engine, gpu=node.gpu.name, layout=found.layout, replica=replica, capacity=most
    )


def serving_of(variant: Variant, engine: EngineName, request: SizeRequest) -> Serving:
    """What memory is asked for."""
    return Serving(
        engine=engine,
        weights_gb=served_weights_gb(variant.card, variant.quantization),
        kv_bytes_per_value=2,
        context_tokens=request.context(variant.card),
    )


def _shortfall_gib(found: Fit, serving: Serving) -> float:
    """GiB that each GPU lacks for one sequence of full length."""
    needed = serving.context_tokens * found.memory.kv_bytes_per_token / GIB
    return needed - found.memory.kv_gib
