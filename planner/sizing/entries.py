"""A choice of the front as `models:` and `pools:` entries of a stack file, keys and order as in the committed ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.performance import TokenLengths
from planner.plan import LayoutPlan
from planner.sizing.apart_options import ApartOption, PoolUsed
from planner.sizing.front import ApartMember, Member
from planner.sizing.options import Option
from planner.sizing.request import SizeError, SizeRequest
from planner.sizing.variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A container image with EFA software, for replicas over several nodes."""

    repository: str
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """What goes into the stack file, as plain data."""

    pools: tuple[Mapping[str, Any], ...]
    """One, or the one of prefill and the one of decode."""
    model: Mapping[str, Any]


def entries(
    member: Member | ApartMember,
    request: SizeRequest,
    *,
    name: str,
    pool: str,
    zones: Collection[str] = (),
    revision: str | None = None,
    image: Image | None = None,
) -> Entries:
    """The entries of one choice.

    Args:
        member: the choice.
        request: what was asked; its objectives become the model's.
        name: of the model.
        pool: name of its pool; another one of prefill alone is called `<pool>-prefill`.
        zones: zones that the stack uses already; one of them is taken where it offers the type.
        revision: commit of the weights; the card's where left out.
        image: for replicas over several nodes, or prefill and decode apart.

    Raises:
        SizeError: the weights' commit is not known.
    """
    option = member.option
    card = _variant(member).card
    commit = revision or card.revision
    if commit is None:
        raise SizeError(
            f"no commit of {card.name} is known",
            help="--revision <40 hex digits>, --quantization checkpoint, or another --choose",
            asked=True,
        )
    used = option.pools if isinstance(option, ApartOption) else (option,)
    offered = [zone for zone in used[0].offer.zones if all(zone in one.offer.zones for one in used)]
    zone = next((zone for zone in zones if zone in offered), offered[0])
    names = [f"{pool}-prefill", pool] if len(used) > 1 else [pool]
    return Entries(
        pools=tuple(
            {
                "name": called,
                "instance_type": one.offer.instance.name,
                "availability_zone": zone,
                "capacity": list(_ladder(one)),
            }
            for called, one in zip(names, used, strict=True)
        ),
        model=_model(member, request, name=name, pools=names, revision=commit, image=image),
    )


def _ladder(option: Option | PoolUsed) -> list[dict[str, Any]]:
    """Spot first; what it does not give is taken on demand, above the floor that is always on demand."""
    if not option.spot_nodes:
        return [{"kind": "on_demand", "nodes": {"min": 0, "max": option.nodes}}]
    return [
        {"kind": "spot", "nodes": {"min": 0, "max": option.spot_nodes}},
        {"kind": "on_demand", "nodes": {"min": option.on_demand_nodes, "max": option.nodes}},
    ]


def _variant(member: Member | ApartMember) -> Variant:
    return member.option.served.variant if isinstance(member, Member) else member.option.pair.variant


def _model(
    member: Member | ApartMember,
    request: SizeRequest,
    *,
    name: str,
    pools: Sequence[str],
    revision: str,
    image: Image | None,
) -> dict[str, Any]:
    variant = _variant(member)
    engine = member.option.served.engine if isinstance(member, Member) else member.option.pair.engine
    entry: dict[str, Any] = {
        "name": name,
        "model": variant.card.name,
        "revision": revision,
        "engine": engine,
        "pool": pools[-1],
    }
    if isinstance(member, Member):
        entry["layout"] = _layout(member.option.served.layout)
    if variant.quantization != "checkpoint":
        entry["quantization"] = variant.quantization
    entry["context_tokens"] = max(256, request.context(variant.card))
    if isinstance(member, Member):
        entry["replicas"] = _replicas(member.option.replicas)
    else:
        groups: dict[str, dict[str, Any]] = {
            group.role: {"layout": _layout(group.layout), "replicas": _replicas(number)}
            for group, number in member.option.counts
        }
        if len(pools) > 1:
            groups["prefill"]["pool"] = pools[0]
        entry["disaggregated"] = groups
    entry["objectives"] = {
        "ttft_p99_ms": max(10, math.floor(request.ttft_p99_ms)),
        "tpot_p99_ms": max(1, math.floor(request.tpot_p99_ms)),
    }
    entry["traffic"] = _traffic(request)
    over_efa = isinstance(member, ApartMember) or member.option.served.layout.nodes > 1
    if over_efa and image is not None:
        entry["image"] = {"repository": image.repository, "tag": image.tag, "carries_efa": True}
        if isinstance(member, ApartMember):
            entry["image"]["carries_nixl"] = True
    return entry


def _layout(layout: LayoutPlan) -> dict[str, int]:
    degrees = {"tensor": layout.tensor, "pipeline": layout.pipeline, "expert": layout.expert, "data": layout.data}
    return {key: degree for key, degree in degrees.items() if degree > 1 or key == "tensor"}


def _replicas(number: int) -> dict[str, int]:
    return {"min": number, "max": number}


def _traffic(request: SizeRequest) -> dict[str, Any]:
    traffic: dict[str, Any] = {
        "requests_per_second": _plain(request.requests_per_second),
        "input_tokens": _lengths(request.input),
        "output_tokens": _lengths(request.output),
    }
    if request.cached_share:
        traffic["cached_share"] = round(request.cached_share, 4)
    return traffic


def _lengths(lengths: TokenLengths) -> dict[str, Any]:
    return {"mean": _plain(lengths.mean), "p99": _plain(lengths.p99)}


def _plain(number: float) -> float | int:
    """300, not 300.0."""
    return int(number) if float(number).is_integer() else number
