"""What is asked of the search, and the error where nothing can answer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from catalog.load import Catalog
from catalog.types import ModelCard
from planner.performance import TokenLengths
from planner.sizing.money import prices_known
from settings.errors import did_you_mean

Quantization = Literal["any", "checkpoint", "fp8", "awq"]
Dimension = Literal["cost", "latency", "resilience"]
EngineName = Literal["vllm", "sglang"]

DIMENSIONS: tuple[Dimension, ...] = ("cost", "latency", "resilience")
ENGINES: tuple[EngineName, ...] = ("vllm", "sglang")
_CONTEXT_STEP = 1024
_LEAST_RATE = 0.001
"""Requests a second; below it every answer is one idle replica, and dollars a million tokens mean nothing."""


class SizeError(Exception):
    """No answer. `help` says what the nearest is; `asked` tells a question that makes no sense from one that nothing
    answers."""

    def __init__(self, message: str, *, help: str | None = None, asked: bool = False) -> None:  # noqa: A002
        super().__init__(message)
        self.help = help
        self.asked = asked


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequest:
    """A model, its load and what users are promised."""

    model: str
    """Hub id of a catalog card."""
    requests_per_second: float
    input: TokenLengths
    output: TokenLengths
    cached_share: float = 0.0
    """Share of input tokens found in the prefix cache."""
    ttft_p99_ms: float
    tpot_p99_ms: float
    regions: tuple[str, ...]
    context_tokens: int | None = None
    """Longest prompt plus answer; the two 99th percentiles, rounded up, where left out."""
    engines: tuple[EngineName, ...] = ENGINES
    quantization: Quantization = "any"
    spot_share: float = 1.0
    """Most of the nodes that may be spot; 0: none."""
    availability: float | None = None
    """Share of requests that must be served at once, interruptions included; any where left out."""
    max_nodes: int = 64
    front: tuple[Dimension, ...] = DIMENSIONS
    """What options are weighed by."""

    def context(self, card: ModelCard) -> int:
        """Tokens that one sequence may have."""
        if self.context_tokens is not None:
            return self.context_tokens
        needed = math.ceil((self.input.p99 + self.output.p99) / _CONTEXT_STEP) * _CONTEXT_STEP
        return min(needed, card.max_context)


def card_of(request: SizeRequest, catalog: Catalog) -> ModelCard:
    """The model's card, after everything that is wrong with the question was told; raises SizeError."""
    card = catalog.models.get(request.model)
    if card is None:
        raise SizeError(
            f"`{request.model}` is not in the catalog of models",
            help=_known_models(request.model, catalog.models),
            asked=True,
        )
    _check_numbers(request)
    _check_lengths(request, card)
    for region in request.regions:
        _check_region(region, catalog)
    return card


_SHORTEST_PART = 2
"""Letters of a part of a name that say something: `r1`, `8b`."""


def _known_models(asked: str, known: Iterable[str]) -> str:
    """Hub ids that hold every part of what was asked for, else the nearest spelling, else how to add one."""
    near = did_you_mean(asked, known) if "/" in asked else None
    if near:
        return near
    parts = [part for part in re.split(r"[^a-z0-9.]+", asked.lower()) if len(part) >= _SHORTEST_PART]
    found = [name for name in known if parts and all(part in name.lower() for part in parts)]
    if found:
        return "hub ids in the catalog: " + ", ".join(found)
    return (
        did_you_mean(asked, known)
        or "catalog/models.yaml has the hub ids; `python -m ops model-card config.json` makes the card of another model"
    )


def _check_numbers(request: SizeRequest) -> None:
    positive: Mapping[str, float] = {
        "--rps": request.requests_per_second,
        "--ttft-p99": request.ttft_p99_ms,
        "--tpot-p99": request.tpot_p99_ms,
        "--max-nodes": request.max_nodes,
    }
    for option, value in positive.items():
        if not math.isfinite(value) or value <= 0:
            raise SizeError(f"{option} {value:g}: must be above 0", asked=True)
    if request.requests_per_second < _LEAST_RATE:
        raise SizeError(
            f"--rps {request.requests_per_second:g}: one request in {1 / _LEAST_RATE:,.0f} s is the least to size for",
            help=f"--rps {_LEAST_RATE:g}",
            asked=True,
        )
    if not 0 <= request.spot_share <= 1:
        raise SizeError(f"--spot-share {request.spot_share:g}: a share lies between 0 and 1", asked=True)
    if not 0 <= request.cached_share < 1:
        raise SizeError(
            f"--cached {request.cached_share:g}: a share from 0 to less than 1 of each prompt",
            help="for instance 0.6; some of each prompt is always new",
            asked=True,
        )
    if request.availability is not None and not 0 < request.availability < 1:
        raise SizeError(
            f"--availability {request.availability:g}: must lie between 0 and 1",
            help="for instance 0.999: one request in a thousand may meet missing capacity",
            asked=True,
        )


def _check_lengths(request: SizeRequest, card: ModelCard) -> None:
    for option, lengths in (("--input", request.input), ("--output", request.output)):
        if not (math.isfinite(lengths.mean) and math.isfinite(lengths.p99)) or lengths.mean < 1:
            raise SizeError(f"{option} {lengths.mean:g}: must be 1 token or more", asked=True)
        if lengths.p99 < lengths.mean:
            raise SizeError(
                f"{option} {lengths.mean:g}:{lengths.p99:g}: the 99th percentile is below the mean", asked=True
            )
    needed, context = request.input.p99 + request.output.p99, request.context_tokens
    if needed > card.max_context:
        raise SizeError(
            f"a prompt of {request.input.p99:,.0f} and an answer of {request.output.p99:,.0f} tokens (99th "
            f"percentiles) are more than the {card.max_context:,} that {card.name} was trained for",
            help="give shorter lengths, as --input mean:p99 and --output mean:p99",
            asked=True,
        )
    if context is None:
        return
    if context > card.max_context:
        raise SizeError(
            f"--context {context}: {card.name} was trained for {card.max_context:,}",
            help=f"--context {card.max_context} or less",
            asked=True,
        )
    if context < needed:
        raise SizeError(
            f"--context {context} is less than a prompt and an answer of {needed:,.0f} tokens (99th percentiles)",
            help=f"--context {math.ceil(needed / _CONTEXT_STEP) * _CONTEXT_STEP}",
            asked=True,
        )


def _check_region(region: str, catalog: Catalog) -> None:
    if region not in catalog.regions:
        raise SizeError(
            f"`{region}` is not in the catalog of regions",
            help=did_you_mean(region, catalog.regions) or "known: " + ", ".join(sorted(catalog.regions)),
            asked=True,
        )
    if prices_known(region, catalog):
        return
    known = [name for name in sorted(catalog.regions) if prices_known(name, catalog)]
    near = [name for name in known if name.partition("-")[0] == region.partition("-")[0]] or known
    raise SizeError(
        f"no price of any GPU instance is known for {region} (catalog/prices.yaml)",
        help=f"the nearest with prices: {', '.join(near)}; or `python -m ops prices refresh`",
        asked=True,
    )
