"""The answer: the Pareto front of what serves a load, in money, and why the rest lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catalog.load import Catalog
from catalog.load import load as load_catalog
from planner.model_performance import gpu_time
from planner.performance import Workload
from planner.sizing.apart import LEFT_OUT_APART, Apart, Gain, look_apart
from planner.sizing.apart_options import ApartOption
from planner.sizing.losses import Lost
from planner.sizing.money import Offer
from planner.sizing.nearest import explain_nothing
from planner.sizing.options import Option
from planner.sizing.pareto import pareto
from planner.sizing.request import SizeError, SizeRequest
from planner.sizing.resilience import Risk
from planner.sizing.search import Found, Searched, look

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
class ApartMember:
    """One experimental answer; it is never chosen unless its number is said."""

    number: int
    """After those of the front."""
    option: ApartOption
    tokens: TokenPrice
    gain: Gain | None
    """None where nothing ordinary serves."""
    over: int | None
    """Number of the member of the front that `gain` is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experimental:
    """Prefill and decode apart, beside the front."""

    members: tuple[ApartMember, ...]
    searched: Apart


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
    experimental: Experimental | None = None
    """None where it was not asked for."""

    def member(self, number: int) -> Member | ApartMember | None:
        """The answer of a number."""
        others = self.experimental.members if self.experimental else ()
        return next((member for member in (*self.front, *others) if member.number == number), None)


def size(request: SizeRequest, catalog: Catalog | None = None, *, experimental: bool = False) -> Sizing:
    """The Pareto front of everything that serves a load; with `experimental` also prefill and decode apart.

    Raises:
        SizeError: the question makes no sense, or nothing serves; then with the nearest answer.
    """
    facts = catalog or load_catalog()
    found = look(request, facts)
    if not found.options:
        apart = look_apart(request, facts, ())
        if not (apart.members and experimental):
            raise _nothing(request, found, facts, apart)
    front = pareto(found.options, lambda option: option.vector(request.front), lambda option: option.tie())
    beaten = [0] * len(front.members)
    for _, by in front.dominated:
        beaten[by] += 1
    members = tuple(
        Member(number=at + 1, option=option, tokens=token_price(option, request), beats=beaten[at])
        for at, option in enumerate(front.members)
    )
    return Sizing(
        request=request,
        context_tokens=request.context(found.card),
        front=members,
        dominated=tuple((option, by + 1) for option, by in front.dominated),
        lost=found.losses.groups(),
        searched=found.searched,
        left_out=(*LEFT_OUT, *(LEFT_OUT_APART if experimental else ())),
        remarks=tuple(_remarks(front.members)),
        experimental=_experimental(request, facts, members) if experimental else None,
    )


def _nothing(request: SizeRequest, found: Found, catalog: Catalog, apart: Apart) -> SizeError:
    """The error of a search without options; it names the experimental way where that one serves."""
    error = explain_nothing(request, found, catalog)
    if apart.members:
        error.help = f"{error.help}; or, experimental, prefill and decode apart: --experimental"
    return error


def _experimental(request: SizeRequest, catalog: Catalog, front: Sequence[Member]) -> Experimental:
    found = look_apart(request, catalog, [member.option for member in front])
    numbers = {id(member.option): member.number for member in front}
    return Experimental(
        members=tuple(
            ApartMember(
                number=len(front) + at,
                option=option,
                tokens=apart_price(option, request),
                gain=gain,
                over=numbers[id(gain.over)] if gain else None,
            )
            for at, (option, gain) in enumerate(found.members, start=1)
        ),
        searched=found,
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
    useful = _useful(offer, risk, on_demand=option.on_demand_nodes, spot=option.spot_nodes)
    return _shared(useful, taken.prefill_ms / (taken.prefill_ms + taken.decode_ms), request)


def apart_price(option: ApartOption, request: SizeRequest) -> TokenPrice:
    """Of two groups: prefill's GPUs pay for the input, decode's for the output."""
    useful = sum(
        _useful(pool.offer, pool.risk, on_demand=pool.on_demand_nodes, spot=pool.spot_nodes) for pool in option.pools
    )
    return _shared(useful, option.prefill_share, request)


def _useful(offer: Offer, risk: Risk, *, on_demand: int, spot: int) -> float:
    """Dollars of an hour that serves."""
    useful = 0.0
    for nodes, price, of_spot in ((on_demand, offer.on_demand, False), (spot, offer.spot, True)):
        if nodes and price is not None:
            useful += nodes * price.usd * risk.useful_factor(spot=of_spot)
    return useful


def _shared(useful: float, share: float, request: SizeRequest) -> TokenPrice:
    per_million = 1e6 / (request.requests_per_second * _SECONDS_PER_HOUR)
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
