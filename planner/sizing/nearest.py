"""Where nothing serves: the limit that stands against it, and the nearest question that has an answer."""

from __future__ import annotations

import math
from dataclasses import replace

from catalog.load import Catalog
from planner.performance import Floor
from planner.sizing.money import prices_known
from planner.sizing.options import MOST_REPLICAS, Option, most_units
from planner.sizing.request import ENGINES, SizeError, SizeRequest
from planner.sizing.search import Found, look
from planner.sizing.serving import Failed

_LOOSER = (1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0, 10.0)
"""How much more latency is allowed, step by step, until something serves."""


def explain_nothing(request: SizeRequest, found: Found, catalog: Catalog) -> SizeError:
    """The error of a search without options."""
    if found.unavailable:
        return _not_available(request, found)
    if found.spreads:
        return _too_much(request, found)
    if any(failed.floor is not None for failed in found.trials.failed):
        return _too_slow(request, found, catalog)
    return _does_not_fit(request, found, catalog)


def _not_available(request: SizeRequest, found: Found) -> SizeError:
    best = max(found.unavailable, key=lambda o: (o.availability, -o.usd_per_hour))
    return SizeError(
        f"an availability of {request.availability:g} is not reached within {request.max_nodes} nodes: at best "
        f"{_floored(best.availability)} by {_priced(best)}",
        help=f"--availability {_floored(best.availability)}, or more --max-nodes",
    )


def _too_much(request: SizeRequest, found: Found) -> SizeError:
    """Something serves, but not so much of it."""

    def most_rps(at: int) -> float:
        spread, _ = found.spreads[at]
        replicas = most_units(spread, request) * spread.replicas_per_unit
        return replicas * spread.served.capacity.requests_per_second

    indices = range(len(found.spreads))
    best = max(indices, key=most_rps)
    spread, offer = found.spreads[best]
    if most_rps(best) <= 0:
        fewest = min(spread.nodes_per_unit for spread, _ in found.spreads)
        return SizeError(
            f"one replica takes {fewest} nodes at least, more than {request.max_nodes}", help=f"--max-nodes {fewest}"
        )
    units = most_units(spread, request)
    enough = [
        spread.fewest_units * spread.nodes_per_unit
        for spread, _ in found.spreads
        if spread.fewest_units * spread.replicas_per_unit <= MOST_REPLICAS
    ]
    rate = _rate(most_rps(best))
    advice = f"--rps {rate}"
    if enough:
        advice += f", or --max-nodes {min(enough)}"
    return SizeError(
        f"{request.requests_per_second:g} requests/s are too many: at most {rate} with {units * spread.nodes_per_unit} "
        f"nodes, {units * spread.replicas_per_unit} replicas of {spread.served.layout.gpus} x {spread.served.gpu} "
        f"({spread.served.words}) on {offer.instance.name}",
        help=f"{advice}; a stack file gives one model at most {MOST_REPLICAS} replicas",
    )


def _too_slow(request: SizeRequest, found: Found, catalog: Catalog) -> SizeError:
    """It fits and is slower than an objective even without load."""
    slow = [failed for failed in found.trials.failed if failed.floor is not None]

    def broken_by(failed: Failed) -> float:
        assert failed.floor is not None  # noqa: S101 - filtered above
        return max(failed.floor.ttft_ms / request.ttft_p99_ms, failed.floor.tpot_ms / request.tpot_p99_ms)

    best = min(slow, key=broken_by)
    assert best.floor is not None  # noqa: S101 - filtered above
    return SizeError(
        _limit_words(request, best, best.floor),
        help="the nearest: "
        + (_nearest_latency(request, catalog, broken_by(best)) or "shorter prompts, or fewer of them"),
    )


def _limit_words(request: SizeRequest, best: Failed, limit: Floor) -> str:
    where = f"on {best.words}, the nearest of what was searched"
    if limit.ttft_ms > request.ttft_p99_ms:
        return (
            f"TTFT p99 {request.ttft_p99_ms:g} ms is under the physical limit of {limit.ttft_ms:,.0f} ms: that is how "
            f"long the prefill of a prompt of {request.input.p99:,.0f} tokens (p99) takes alone {where} "
            "(products of matrices, kernels and sums between GPUs in each layer; docs/explanation/performance.md)"
        )
    if limit.tpot_ms > request.tpot_p99_ms:
        return (
            f"TPOT p99 {request.tpot_p99_ms:g} ms is under the physical limit of {limit.tpot_ms:,.1f} ms: that is how "
            f"long one decode step takes alone {where} (reading the weights, kernels and sums between GPUs in each "
            "layer; docs/explanation/performance.md)"
        )
    return (
        f"TTFT p99 {request.ttft_p99_ms:g} ms and TPOT p99 {request.tpot_p99_ms:g} ms: requests that meet break them "
        f"at any load; alone, {limit.ttft_ms:,.0f} ms and {limit.tpot_ms:,.1f} ms {where}"
    )


def _nearest_latency(request: SizeRequest, catalog: Catalog, start: float) -> str | None:
    """The tightest of some looser objectives with which the whole load is served."""
    for factor in _LOOSER:
        ratio = max(1.0, start) * factor
        for looser, words in _looser(request, ratio):
            found = look(looser, catalog)
            if found.options:
                cheapest = min(found.options, key=lambda o: (o.usd_per_hour, o.tie()))
                return f"{words} is served by {_priced(cheapest)}"
    return None


def _looser(request: SizeRequest, ratio: float) -> list[tuple[SizeRequest, str]]:
    """One objective looser by `ratio`, then both."""
    ttft, tpot = math.ceil(request.ttft_p99_ms * ratio), math.ceil(request.tpot_p99_ms * ratio)
    return [
        (replace(request, ttft_p99_ms=ttft), f"--ttft-p99 {ttft}"),
        (replace(request, tpot_p99_ms=tpot), f"--tpot-p99 {tpot}"),
        (replace(request, ttft_p99_ms=ttft, tpot_p99_ms=tpot), f"--ttft-p99 {ttft} --tpot-p99 {tpot}"),
    ]


def _does_not_fit(request: SizeRequest, found: Found, catalog: Catalog) -> SizeError:
    nearest = min(
        (f for f in found.trials.failed if f.failure == "memory"), key=lambda f: f.shortfall_gib, default=None
    )
    said = (
        f"{found.card.name} with a context of {request.context(found.card):,} tokens fits on nothing that was searched"
        + (f"; {nearest.words} lacks {nearest.shortfall_gib:,.0f} GiB on each GPU" if nearest else "")
    )
    for wider, words in _wider(request, catalog):
        answer = look(wider, catalog)
        if answer.options:
            cheapest = min(answer.options, key=lambda o: (o.usd_per_hour, o.tie()))
            return SizeError(said, help=f"the nearest: {words} is served by {_priced(cheapest)}")
    return SizeError(said, help="a shorter --context, or quantised weights")


def _wider(request: SizeRequest, catalog: Catalog) -> list[tuple[SizeRequest, str]]:
    """The same question with more allowed, the smallest change first."""
    everywhere = tuple(name for name in sorted(catalog.regions) if prices_known(name, catalog))
    shorter = math.ceil(request.input.p99 + request.output.p99)
    return [
        (replace(request, context_tokens=shorter), f"--context {shorter}"),
        (replace(request, engines=ENGINES), "--engine any"),
        (replace(request, quantization="any"), "--quantization any"),
        (replace(request, regions=everywhere), "--regions all"),
        (replace(request, engines=ENGINES, quantization="any", regions=everywhere), "all engines, formats and regions"),
    ]


def _priced(option: Option) -> str:
    return f"{option.words} at {option.usd_per_hour:,.2f} $/h"


def _rate(rate: float) -> str:
    """Rounded down, so that asking for it has an answer."""
    if rate >= 100:
        return f"{math.floor(rate)}"
    digits = 2 - math.floor(math.log10(rate))
    return f"{math.floor(rate * 10**digits) / 10**digits:g}"


def _floored(share: float) -> str:
    """Rounded down to six places."""
    return f"{math.floor(share * 1e6) / 1e6:g}"
