"""Prefill and decode apart: the pairs of replicas that may hand KV caches on and keep the objectives together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from catalog.load import Catalog
from catalog.types import Instance, ModelCard
from planner.handoff import (
    Side,
    bytes_per_token,
    layout_problems,
    network_problems,
    pod_gbps,
    transfer_ms,
    ttft_part_ms,
)
from planner.layout import Node, fit, node_of
from planner.performance import Capacity, Floor, TokenLengths, Workload, floor, matrix_precision, replica_of
from planner.performance.capacity import capacity_of
from planner.performance.queueing import Curve
from planner.performance.replica import Replica
from planner.plan import LayoutPlan, Role
from planner.serving import running_limit
from planner.sizing.request import EngineName, SizeRequest
from planner.sizing.serving import combinations, layout_words, serving_of
from planner.sizing.variants import Variant

_ONE_TOKEN = TokenLengths(mean=1.0, p99=1.0)
"""What a prefill replica answers, with the prompt."""
_SHORTEST_PART_MS = 10
"""As the planner gives a group its part of the promise (planner/disaggregation.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupServed:
    """A replica of one of the two groups, within its part of the objectives."""

    role: Role
    instance: Instance
    layout: LayoutPlan
    replica: Replica
    curve: Curve = field(repr=False, compare=False)
    capacity: Capacity

    @property
    def gpu(self) -> str:
        """Of its nodes."""
        return self.replica.gpu.name

    @property
    def per_node(self) -> int:
        """Replicas that one node holds; 1 where it takes several."""
        return 1 if self.layout.nodes > 1 else self.instance.gpus // self.layout.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two replicas that keep the objectives, one after the other."""

    variant: Variant
    engine: EngineName
    prefill: GroupServed
    decode: GroupServed
    transfer_ms: float
    """Of the KV cache of a long prompt (p99), alone on the network."""

    @property
    def groups(self) -> tuple[GroupServed, GroupServed]:
        """In the order that a request goes through."""
        return self.prefill, self.decode

    @property
    def pools(self) -> tuple[tuple[GroupServed, ...], ...]:
        """Groups by pool: both in one where their nodes are of one type."""
        one = self.prefill.instance.name == self.decode.instance.name
        return (self.groups,) if one else ((self.prefill,), (self.decode,))

    @property
    def words(self) -> str:
        """Layouts, engine and weights for people."""
        both = f"prefill {layout_words(self.prefill.layout)}, decode {layout_words(self.decode.layout)}"
        return f"{both}, {self.engine}, {self.variant.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Everything that was tried."""

    served: tuple[Pair, ...]
    lost: Mapping[str, int]
    """Why the others do not -> how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """One layout in one role, on its own."""

    side: Side
    instance: Instance
    replica: Replica
    curve: Curve
    floor: Floor
    bytes_per_token: float
    gbps: float


_Halves = dict[tuple[Variant, EngineName], tuple[list[_Half], list[_Half]]]
"""(what could be prefill, what decode) by variant and engine."""


def pairs(
    card: ModelCard,
    request: SizeRequest,
    instances: Iterable[Instance],
    catalog: Catalog,
    *,
    near: Callable[[Instance, Instance], bool],
) -> Pairs:
    """Try every two layouts of a variant and engine on nodes of one type, and of two that are `near` each other."""
    lost: Counter[str] = Counter()
    tried: list[tuple[Instance, _Halves]] = []
    for instance in instances:
        assert instance.gpu is not None  # noqa: S101 - offers are of types with GPUs
        node = node_of(instance, catalog.gpus[instance.gpu])
        if not instance.efa_interfaces or not node.gdr:
            lost["an instance type without EFA and GPUDirect RDMA"] += 1
        else:
            tried.append((instance, _halves(card, request, node, instance, catalog)))
    served: list[Pair] = []
    for first, prefill in tried:
        for second, decode in tried:
            if first is not second and (not _alike(first, second, catalog) or not near(first, second)):
                continue
            for kind in prefill.keys() & decode.keys():
                served += _matched(*kind, (prefill[kind][0], decode[kind][1]), request, lost)
    return Pairs(served=tuple(served), lost=lost)


def _alike(first: Instance, second: Instance, catalog: Catalog) -> bool:
    """Whether their GPUs are of one generation, but not the same: nodes of the same GPU are better all of one type."""
    here, there = (catalog.gpus[str(instance.gpu)] for instance in (first, second))
    return here.compute_capability == there.compute_capability and here.name != there.name


def _halves(card: ModelCard, request: SizeRequest, node: Node, instance: Instance, catalog: Catalog) -> _Halves:
    found: _Halves = {}
    for variant, engine, layout in combinations(card, request, node, catalog):
        fitted = fit(variant.card, node, serving_of(variant, engine, request), layout)
        if layout.pipeline > 1 or fitted.memory.max_sequences < 1 or (engine == "vllm" and fitted.layout.nodes > 1):
            continue  # no pair with it is legal, or it has no room for a sequence
        both = found.setdefault((variant, engine), ([], []))
        answers: Mapping[Role, TokenLengths] = {"prefill": _ONE_TOKEN, "decode": request.output}
        for halves, (role, output) in zip(both, answers.items(), strict=True):
            replica = replica_of(
                variant.card,
                node,
                fitted,
                engine=engine,
                precision=matrix_precision(variant.card, variant.quantization),
                network_gbps=instance.network_gbps,
                max_running=running_limit(
                    fitted.memory.kv_tokens, math.ceil(request.input.mean + output.mean * (1 + output.cv2) / 2)
                ),
            )
            cached, prefilled = request.cached_share, role == "decode"
            workload = Workload(
                requests_per_second=0.0, input=request.input, output=output, cached_share=cached, prefilled=prefilled
            )
            alone = floor(replica, workload)
            if alone.ttft_ms > request.ttft_p99_ms or (prefilled and alone.tpot_ms > request.tpot_p99_ms):
                continue
            halves.append(
                _Half(
                    side=Side(
                        role=role,
                        layout=fitted.layout,
                        node=node,
                        where=instance.name,
                        efa_devices=instance.efa_interfaces,
                        at=("pool",),
                    ),
                    instance=instance,
                    replica=replica,
                    curve=Curve(replica, request.input, output, cached, prefilled=prefilled),
                    floor=alone,
                    bytes_per_token=bytes_per_token(fitted.memory, fitted.layout),
                    gbps=pod_gbps(instance.network_gbps, fitted.layout, node.gpus),
                )
            )
    return found


def _matched(
    variant: Variant,
    engine: EngineName,
    halves: tuple[list[_Half], list[_Half]],
    request: SizeRequest,
    lost: Counter[str],
) -> Iterator[Pair]:
    for prefill in halves[0]:
        for decode in halves[1]:
            problem = next(
                chain(
                    layout_problems(engine, variant.card, prefill.side, decode.side),
                    network_problems(prefill.side, decode.side),
                ),
                None,
            )
            if problem is not None:
                lost[problem[1]] += 1
                continue
            pair = _pair(variant, engine, prefill, decode, request)
            if pair is None:
                lost[
                    "prefill, transfer and first step take longer than the promise, even alone or as requests meet"
                ] += 1
            else:
                yield pair


def _pair(variant: Variant, engine: EngineName, prefill: _Half, decode: _Half, request: SizeRequest) -> Pair | None:
    """Both with their parts of the promise; None where one of them cannot keep it."""
    transfer = transfer_ms(
        request.input.p99, bytes_per_token=decode.bytes_per_token, gbps=min(prefill.gbps, decode.gbps)
    )
    least = prefill.floor.ttft_ms + transfer + decode.floor.ttft_ms
    if least > request.ttft_p99_ms:
        return None
    made: list[GroupServed] = []
    for half in (prefill, decode):
        part = ttft_part_ms(half.floor.ttft_ms, least_ms=least, objective_ms=request.ttft_p99_ms)
        most = capacity_of(
            half.curve,
            ttft_p99_ms=max(_SHORTEST_PART_MS, int(part)),
            tpot_p99_ms=request.tpot_p99_ms if half.side.role == "decode" else None,
        )
        if most.requests_per_second <= 0:
            return None
        made.append(
            GroupServed(
                role=half.side.role,
                instance=half.instance,
                layout=half.side.layout,
                replica=half.replica,
                curve=half.curve,
                capacity=most,
            )
        )
    return Pair(
        variant=variant,
        engine=engine,
        prefill=made[0],
        decode=made[1],
        transfer_ms=transfer,
    )
