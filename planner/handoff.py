"""The way of a prompt's KV cache from prefill to decode: what it takes, and what stands against it.

What the stack file asks for and what sizing tries are judged and timed by the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.measurements import links
from catalog.types import ModelCard
from planner.layout import Node
from planner.performance.replica import EngineName
from planner.plan import LayoutPlan, MemoryBudget, Role
from settings.errors import Path

EXPERIMENTAL = (
    "experimental on EFA: NIXL reaches it over UCX's SRD transport or its libfabric plugin, which upstream has run in "
    "privileged pods of prebuilt images alone; where it falls back to TCP the first token takes a hundred times as "
    "long, so measure the time to the first token before clients come"
)

NO_LIMIT_MS = 10_000
"""The longest time between tokens that an objective may state."""

Told = tuple[Path, str, str]
"""(key of the model, what is wrong, how to mend it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two groups, as the rules see it."""

    role: Role
    layout: LayoutPlan
    node: Node
    where: str
    """Name of its pool, or of its instance type."""
    efa_devices: int
    """Of a node."""
    at: Path
    """Key of the model that says where it runs."""
    sliced: bool = False
    existing: bool = False
    """Nodes that are there already."""
    zones: tuple[str, ...] = ()
    zone: str | None = None

    @property
    def ranks(self) -> int:
        """That share the heads of one sequence."""
        return self.layout.tensor // self.layout.data


def bytes_per_token(memory: MemoryBudget, layout: LayoutPlan) -> float:
    """Of the KV cache that the ranks of one decode replica read."""
    return memory.kv_bytes_per_token * layout.tensor // layout.data


def pod_gbps(network_gbps: float, layout: LayoutPlan, gpus: int) -> float:
    """A replica's part of its nodes' network, which have so many GPUs each."""
    return network_gbps * layout.gpus / gpus


def transfer_ms(tokens: float, *, bytes_per_token: float, gbps: float) -> float:
    """Of the cache of so many tokens, alone on the network."""
    known = links()["efa"]
    return known.latency_us / 1e3 + tokens * bytes_per_token * 8 / (gbps * known.line_rate_share * 1e9) * 1e3


def ttft_part_ms(alone_ms: float, *, least_ms: float, objective_ms: float) -> float:
    """What a group may take of the promised time: what it needs alone, and half of what nobody needs.

    Where the promise cannot be kept, which is told apart, nothing limits it.
    """
    slack = objective_ms - least_ms
    return alone_ms + slack / 2 if slack > 0 else NO_LIMIT_MS


def layout_problems(engine: EngineName, card: ModelCard, prefill: Side, decode: Side) -> Iterator[Told]:
    """Sources: of vLLM, docs/features/nixl_connector_compatibility.md and nixl/base_worker.py of the pinned version; of
    SGLang, srt/disaggregation/common/conn.py and the guide on PD disaggregation."""
    for side in (prefill, decode):
        at = ("disaggregated", side.role, "layout")
        inside = f"use a layout without stages, tensor {side.node.gpus} at most"
        if side.layout.pipeline > 1:
            yield at, f"NIXL hands on no KV cache of {side.layout.pipeline} pipeline stages", inside
        elif engine == "vllm" and side.layout.nodes > 1:
            yield at, f"vLLM over {side.layout.nodes} nodes was never shown to hand its KV cache on", inside
    here, there = prefill.ranks, decode.ranks
    at = ("disaggregated", "decode", "layout")
    if max(here, there) % min(here, there):
        yield (
            at,
            f"decode shares the cache over {there} ranks and prefill over {here}: one must be a multiple of the other",
            f"use tensor {here} for both",
        )
    elif (
        here != there and card.mla is None and (card.linear is not None or (engine == "sglang" and card.sliding_layers))
    ):
        yield (
            at,
            f"{card.name} keeps more than plain attention, which goes only between equal tensor degrees",
            f"use tensor {here} for both",
        )


def network_problems(prefill: Side, decode: Side) -> Iterator[Told]:
    """What EFA and GPUDirect RDMA ask of the nodes of both."""
    for side in (prefill, decode):
        if side.sliced:
            yield side.at, "a slice of a GPU has no EFA device of its own", "use a pool without `sharing`"
        elif not side.efa_devices or not side.node.gdr:
            what = "no EFA devices" if not side.efa_devices else "no GPUDirect RDMA over EFA"
            yield (
                side.at,
                f"nodes of `{side.where}` have {what}: over TCP the KV cache takes a hundred times as long "
                "(NVIDIA saw 98 s to the first token after 8000 in place of 1 s)",
                "leave `disaggregated` out: nodes that exist already are taken to have no EFA"
                if side.existing
                else "use p4d, p5.48xlarge, p5e, p5en or p6 (of Karpenter with `efa: true`), or leave "
                "`disaggregated` out",
            )
        elif not side.efa_devices * side.layout.gpus_per_node // side.node.gpus:
            yield (
                ("disaggregated", side.role, "layout"),
                f"{side.layout.gpus_per_node} of {side.node.gpus} GPUs have no whole one of a node's "
                f"{side.efa_devices} EFA devices",
                f"use tensor {math.ceil(side.node.gpus / side.efa_devices)} or more",
            )
        if len(side.zones) > 1:
            yield side.at, "EFA reaches nodes of one zone", "use a pool with one `availability_zone`"
    if prefill.zone != decode.zone:
        yield (
            ("disaggregated",),
            f"prefill is in {prefill.zone} and decode in {decode.zone}, and EFA reaches nodes of one zone",
            "use pools of one zone",
        )
    if prefill.node.gpu.compute_capability != decode.node.gpu.compute_capability:
        yield (
            ("disaggregated",),
            f"{prefill.node.gpu.name} and {decode.node.gpu.name} get other attention kernels, whose caches differ",
            "use GPUs of one generation, such as H100 and H200",
        )
