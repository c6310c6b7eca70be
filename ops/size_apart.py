"""What `size --experimental` tells of prefill and decode apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ops.console import out, table
from ops.size_words import percent_words, price_words
from planner.handoff import EXPERIMENTAL
from planner.sizing.front import ApartMember, Experimental
from planner.sizing.resilience import per_month
from planner.sizing.serving import layout_words


def apart_data(found: Experimental) -> dict[str, Any]:
    """For machines."""
    searched = found.searched
    return {
        "note": EXPERIMENTAL,
        "answers": [_member_data(member) for member in found.members],
        "options": searched.options,
        "beaten": searched.beaten,
        "lost": [{"reason": reason, "count": count} for reason, count in searched.lost.items()],
    }


def _member_data(member: ApartMember) -> dict[str, Any]:
    option, gain = member.option, member.gain
    pair = option.pair
    return {
        "number": member.number,
        "experimental": True,
        "gain": gain
        and {
            "over": member.over,
            "alike": gain.alike,
            "saved_share": round(gain.saved_share, 4),
            "latency_share": round(gain.latency_share, 4),
        },
        "region": option.region,
        "pools": [
            {
                "instance_type": pool.offer.instance.name,
                "zones": pool.offer.zones,
                "nodes": {"on_demand": pool.on_demand_nodes, "spot": pool.spot_nodes},
                "roles": [group.role for group, _ in pool.groups],
                "back_seconds": pool.risk.back_seconds,
                "reclaims_per_month": per_month(pool.risk) if pool.spot else 0.0,
            }
            for pool in option.pools
        ],
        "engine": pair.engine,
        "model": pair.variant.card.name,
        "quantization": pair.variant.quantization,
        "groups": [
            {
                "role": group.role,
                "replicas": replicas,
                "gpu": group.gpu,
                "gpus_per_replica": group.layout.gpus,
                "layout": group.layout,
                "requests_per_second_per_replica": group.capacity.requests_per_second,
                "limited_by": group.capacity.limited_by,
                "ttft_p99_ms": ttft,
                "memory": group.replica.memory,
            }
            for (group, replicas), ttft in zip(
                option.counts, (option.prefill_ttft_ms, option.decode_ttft_ms), strict=True
            )
        ],
        "transfer_ms": pair.transfer_ms,
        "usd_per_hour": round(option.usd_per_hour, 4),
        "tokens": member.tokens,
        "ttft_p99_ms": option.ttft_ms,
        "tpot_p99_ms": option.tpot_ms,
        "availability": option.availability,
        "survives": {"node": option.survives_node, "spot": 0.0 if option.spot else 1.0, "zone": 0.0},
    }


def print_apart(found: Experimental) -> None:
    """For people: the answers with what each gains, or why there is none."""
    if found.members:
        rows = [_row(member) for member in found.members]
        columns = ("#", "$/h", "$/1M in / out", "TTFT / TPOT", "available %", "node lost %", "spot %", "nodes")
        out.print(table("Experimental: prefill and decode apart", columns, rows, right=(0, 1, 2, 3, 4, 5, 6)))
        for member in found.members:
            out.print(_line(member), markup=False, soft_wrap=True)
        out.print(EXPERIMENTAL, markup=False, soft_wrap=True)
    for text in _rest(found):
        out.print(text, markup=False, soft_wrap=True)
    out.print()


def _row(member: ApartMember) -> tuple[str, ...]:
    option = member.option
    return (
        str(member.number),
        price_words(option),
        f"{member.tokens.input_usd_per_million:.2f} / {member.tokens.output_usd_per_million:.2f}",
        f"{option.ttft_ms:,.0f} / {option.tpot_ms:,.0f}",
        percent_words(option.availability).removesuffix(" %"),
        f"{int(option.survives_node * 100)}",
        "100" if option.spot else "0",
        option.nodes_words,
    )


def _line(member: ApartMember) -> str:
    option = member.option
    pair = option.pair
    groups = " and ".join(
        f"{replicas} x {group.role} ({group.layout.gpus} {group.gpu}, {layout_words(group.layout)})"
        for group, replicas in option.counts
    )
    return (
        f"#{member.number}: {groups}, {pair.engine}, {pair.variant.words}, in {option.region}; the cache of a "
        f"long prompt takes {pair.transfer_ms:.0f} ms; {_gain(member)}"
    )


def _gain(member: ApartMember) -> str:
    gain = member.gain
    if gain is None:
        return "nothing ordinary serves this"
    saved = f"saves {gain.saved_share:.0%}" if gain.saved_share >= 0 else f"costs {-gain.saved_share:.0%} more"
    if gain.alike:
        return f"{saved} against #{member.over}, the best ordinary answer that is no worse in anything else weighed"
    return (
        f"no ordinary answer is as fast and as resilient: latency {gain.latency_share:.0%} of that of "
        f"#{member.over}, {saved}"
    )


def _rest(found: Experimental) -> Iterator[str]:
    searched = found.searched
    if searched.nearest is not None:
        yield (
            f"apart, {searched.beaten} further answer(s) are no better than an ordinary one, the cheapest: "
            f"{searched.nearest.words}, {searched.nearest.usd_per_hour:,.2f} $/h"
        )
    elif not found.members:
        yield "prefill and decode apart: nothing serves this load"
    for reason, count in sorted(searched.lost.items(), key=lambda item: -item[1]):
        yield f"apart, {count} lost: {reason}"
