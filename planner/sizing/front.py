"""The answer: the Pareto front of what serves a load, in money, and why the rest lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from catalog.load import load as load_catalog
from planner.model_performance import gpu_time
from planner.performance import Workload
from planner.sizing.losses import Lost
from planner.sizing.nearest import explain_nothing
from planner.sizing.options import Option
from planner.sizing.pareto import pareto
from planner.sizing.request import SizeRequest
from planner.sizing.search import Searched, look

_SECONDS_PER_HOUR = 3600
LEFT_OUT = (
    "capacity blocks and reservations: they are bought before they are planned with",
    "a KV cache in FP8, and expert parallelism without data parallel attention",
    "one replica over several nodes where the weights take less than a quarter of one node, or over more than 4 where "
    "fewer hold them",
    "more spare nodes than one or half as many again",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """Dollars of a million tokens; prefill's share of the GPU time pays for the input, the rest for the output."""

    usd_per_useful_hour: float
    """With what bills without serving after interruptions and failures."""
    prefill_share: float
    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One answer of the front."""

    number: int
    """From 1, as people choose it."""
    option: Option
    tokens: TokenPrice
    beats: int
    """Options that it is no worse than in anything weighed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What serves a load, and why the rest does not."""

    request: SizeRequest
    context_tokens: int
    front: tuple[Member, ...]
    """What nothing beats in everything that is weighed, the best in the first of it first."""
    dominated: tuple[tuple[Option, int], ...]
    """Options that serve, each with the number of a member of the front that is no worse in anything weighed."""
    lost: tuple[Lost, ...]
    """Everything else, by reason."""
    searched: Searched
    left_out: tuple[str, ...]
    """What was not tried at all."""
    remarks: tuple[str, ...]


def size(request: SizeRequest, catalog: Catalog | None = None) -> Sizing:
    """The Pareto front of everything that serves a load.

    Raises:
        SizeError: the question makes no sense, or nothing serves; then with the nearest answer.
    """
    facts = catalog or load_catalog()
    found = look(request, facts)
    if not found.options:
        raise explain_nothing(request, found, facts)
    front = pareto(found.options, lambda option: option.vector(request.front), lambda option: option.tie())
    beaten = [0] * len(front.members)
    for _, by in front.dominated:
        beaten[by] += 1
    return Sizing(
        request=request,
        context_tokens=request.context(found.card),
        front=tuple(
            Member(number=at + 1, option=option, tokens=token_price(option, request), beats=beaten[at])
            for at, option in enumerate(front.members)
        ),
        dominated=tuple((option, by + 1) for option, by in front.dominated),
        lost=found.losses.groups(),
        searched=found.searched,
        left_out=LEFT_OUT,
        remarks=tuple(_remarks(front.members)),
    )


def token_price(option: Option, request: SizeRequest) -> TokenPrice:
    """As the cost of a stack counts it (planner/cost/tokens.py), for these nodes alone."""
    workload = Workload(
        requests_per_second=request.requests_per_second,
        input=request.input,
        output=request.output,
        cached_share=request.cached_share,
    )
    taken = gpu_time(option.served.replica, workload, option.performance.concurrency)
    offer, risk = option.offer, option.risk
    useful = 0.0
    for nodes, price, spot in ((option.on_demand_nodes, offer.on_demand, False), (option.spot_nodes, offer.spot, True)):
        if nodes and price is not None:
            useful += nodes * price.usd * risk.useful_factor(spot=spot)
    per_million = 1e6 / (request.requests_per_second * _SECONDS_PER_HOUR)
    share = taken.prefill_ms / (taken.prefill_ms + taken.decode_ms)
    return TokenPrice(
        usd_per_useful_hour=useful,
        prefill_share=share,
        input_usd_per_million=useful * share * per_million / request.input.mean,
        output_usd_per_million=useful * (1 - share) * per_million / request.output.mean,
    )


def _remarks(front: Sequence[Option]) -> Iterator[str]:
    if any(not option.served.variant.published for option in front):
        yield (
            "weights in another number format than the published ones may answer worse: --quantization checkpoint "
            "leaves them out"
        )
    if any(
        option.offer.guesses(on_demand_nodes=option.on_demand_nodes, spot_nodes=option.spot_nodes) for option in front
    ):
        yield "~: a price borrowed from another region or assumed; `python -m ops prices refresh`"
    if any(option.spot_nodes for option in front):
        yield (
            "spot prices and reclaims move by the hour: read them as sizes; the market is taken to reclaim all spot "
            "nodes of a pool at once"
        )
    yield "a pool lies in one zone: the loss of that zone takes all of it"
