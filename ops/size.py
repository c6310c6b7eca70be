"""`size`: how many of which machines serve a load, what that costs, and why the rest lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from catalog.assumptions import assumed
from catalog.load import load
from ops.console import OK, out, print_json, table
from ops.errors import FindingsError, OpsError, UsageError
from ops.size_apart import apart_data, print_apart
from ops.size_words import percent_words, price_words
from ops.size_write import WriteOptions, write_choice
from planner.performance import TokenLengths
from planner.sizing import DIMENSIONS, ENGINES, Member, Option, SizeError, SizeRequest, Sizing, size
from planner.sizing.losses import TITLES
from planner.sizing.money import prices_known
from planner.sizing.request import Dimension, Quantization
from planner.sizing.serving import layout_words
from settings.errors import did_you_mean
from settings.load import read
from settings.serving import Objectives


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOptions:
    """The options of `size`, as given."""

    model: str
    rps: float
    input: str
    """`mean` or `mean:p99`."""
    output: str
    ttft_p99: float | None = None
    tpot_p99: float | None = None
    region: str | None = None
    regions: str | None = None
    """Names with commas between, or `all`."""
    spot_share: float = 1.0
    engine: Literal["vllm", "sglang", "any"] = "any"
    context: int | None = None
    cached: float = 0.0
    availability: float | None = None
    quantization: Quantization = "any"
    max_nodes: int = 64
    front: str = ",".join(DIMENSIONS)
    experimental: bool = False


def show_size(options: SizeOptions, write: WriteOptions | None, *, as_json: bool) -> int:
    """Search, print the front and why the rest lost, and write the choice where that is asked for."""
    started = time.perf_counter()
    try:
        sizing = size(request_of(options, write.file if write else None), experimental=options.experimental)
        seconds = time.perf_counter() - started
        if write is None:
            print_json(as_data(sizing)) if as_json else _print(sizing, seconds)
            return OK
        return write_choice(sizing, write)
    except SizeError as error:
        raise _told(error) from None


def write_options(
    file: Path | None,
    name: str | None,
    *,
    choose: int | None,
    pool: str | None,
    replace: bool,
    dry_run: bool,
    revision: str | None,
    image: str | None,
) -> WriteOptions | None:
    """Where the choice goes; None where nothing is written. Raises UsageError for half an instruction."""
    if file is None:
        given = {"--name": name, "--pool": pool, "--replace": replace, "--dry-run": dry_run}
        alone = [option for option, value in given.items() if value]
        if alone:
            raise UsageError(f"{alone[0]} goes with --write", help="--write Pulumi.<stack>.yaml --name <model>")
        return None
    if name is None:
        raise UsageError("--write needs a name for the model", help="--name my-model")
    return WriteOptions(
        file=file,
        name=name,
        choose=choose,
        pool=pool,
        replace=replace,
        dry_run=dry_run,
        revision=revision,
        image=image,
    )


def _told(error: SizeError) -> OpsError:
    kind = UsageError if error.asked else FindingsError
    return kind(str(error), help=error.help)


def request_of(options: SizeOptions, file: Path | None) -> SizeRequest:
    """The question of a command line; raises UsageError for what cannot be read."""
    defaults = Objectives()
    return SizeRequest(
        model=options.model,
        requests_per_second=options.rps,
        input=_lengths("--input", options.input),
        output=_lengths("--output", options.output),
        cached_share=options.cached,
        ttft_p99_ms=defaults.ttft_p99_ms if options.ttft_p99 is None else options.ttft_p99,
        tpot_p99_ms=defaults.tpot_p99_ms if options.tpot_p99 is None else options.tpot_p99,
        regions=_regions(options, file),
        context_tokens=options.context,
        engines=ENGINES if options.engine == "any" else (options.engine,),
        quantization=options.quantization,
        spot_share=options.spot_share,
        availability=options.availability,
        max_nodes=options.max_nodes,
        front=_dimensions(options.front),
    )


def _lengths(option: str, text: str) -> TokenLengths:
    mean, _, p99 = text.partition(":")
    try:
        value = float(mean)
        return TokenLengths(mean=value, p99=float(p99) if p99 else value * assumed("token_length_p99_ratio"))
    except ValueError as error:
        reason = str(error) if str(error).startswith("no log-normal") else "must be a number of tokens"
        raise UsageError(
            f"{option} {text}: {reason}", help=f"for instance {option} 1024, or {option} 1024:4096"
        ) from None


def _regions(options: SizeOptions, file: Path | None) -> tuple[str, ...]:
    catalog = load()
    if options.region and options.regions:
        raise UsageError("--region and --regions say different things", help="give one of them")
    if options.regions == "all":
        return tuple(name for name in sorted(catalog.regions) if prices_known(name, catalog))
    if options.regions is not None:
        names = tuple(dict.fromkeys(name.strip() for name in options.regions.split(",") if name.strip()))
        if not names:
            raise UsageError("--regions names none", help="--regions us-east-1,us-west-2, or --regions all")
        return names
    if options.region:
        return (options.region,)
    stack_region = read(file).region if file else None
    return (stack_region or catalog.prices.home_region,)


def _dimensions(text: str) -> tuple[Dimension, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in DIMENSIONS:
            raise UsageError(f"--front {name}: nothing is weighed by that", help=did_you_mean(name, DIMENSIONS))
    if not names:
        raise UsageError("--front names nothing to weigh by", help=f"some of {','.join(DIMENSIONS)}")
    return cast("tuple[Dimension, ...]", names)


def as_data(sizing: Sizing) -> dict[str, Any]:
    """The answer for machines."""
    return {
        "request": sizing.request,
        "context_tokens": sizing.context_tokens,
        "front": [_member_data(member) for member in sizing.front],
        "lost": [
            *(
                {
                    "kind": lost.kind,
                    "reason": lost.reason or TITLES[lost.kind],
                    "count": lost.count,
                    "examples": lost.examples,
                }
                for lost in sizing.lost
            ),
            *(
                {
                    "kind": "dominated",
                    "reason": f"no better than #{member.number} in anything weighed",
                    "count": member.beats,
                    "examples": [option.words for option, by in sizing.dominated if by == member.number][:3],
                }
                for member in sizing.front
            ),
        ],
        "searched": sizing.searched,
        "experimental": apart_data(sizing.experimental) if sizing.experimental else None,
        "left_out": sizing.left_out,
        "remarks": sizing.remarks,
    }


def _member_data(member: Member) -> dict[str, Any]:
    option = member.option
    served, offer, found = option.served, option.offer, option.performance
    prices = {
        "on_demand": offer.on_demand if option.on_demand_nodes else None,
        "spot": offer.spot if option.spot_nodes else None,
    }
    return {
        "number": member.number,
        "instance_type": offer.instance.name,
        "region": offer.region,
        "zones": offer.zones,
        "nodes": {"on_demand": option.on_demand_nodes, "spot": option.spot_nodes},
        "replicas": option.replicas,
        "spare_replicas": option.spare_replicas,
        "gpus_per_replica": served.layout.gpus,
        "gpu": served.gpu,
        "layout": served.layout,
        "engine": served.engine,
        "model": served.variant.card.name,
        "quantization": served.variant.quantization,
        "usd_per_hour": round(option.usd_per_hour, 4),
        "prices": prices,
        "tokens": member.tokens,
        "ttft_ms": found.ttft_ms,
        "tpot_ms": found.tpot_ms,
        "band": found.band,
        "utilization": found.utilization,
        "requests_per_second_per_replica": served.capacity.requests_per_second,
        "limited_by": served.capacity.limited_by,
        "availability": option.availability,
        "survives": {"node": option.survives_node, "spot": option.survives_spot, "zone": 0.0},
        "reclaims_per_month": option.reclaims_per_month,
        "back_seconds": option.risk.back_seconds,
        "memory": served.replica.memory,
        "why": found.why,
    }


def _print(sizing: Sizing, seconds: float) -> None:
    request, searched = sizing.request, sizing.searched
    out.print(
        f"{request.model}: {request.requests_per_second:g} requests/s, input {_tokens(request.input)}, output "
        f"{_tokens(request.output)}, TTFT p99 {request.ttft_p99_ms:g} ms, TPOT p99 {request.tpot_p99_ms:g} ms, context "
        f"{sizing.context_tokens:,}",
        markup=False,
        soft_wrap=True,
    )
    out.print(
        f"searched {searched.replicas} replicas on {searched.instance_types} instance types in {searched.regions} "
        f"region(s): {searched.options:,} options in {seconds:.1f} s\n",
        markup=False,
        soft_wrap=True,
    )
    if sizing.front:
        out.print(_front(sizing))
        for text in _legend(sizing):
            out.print(text, markup=False, soft_wrap=True)
        out.print()
    if sizing.experimental is not None:
        print_apart(sizing.experimental)
    out.print(_losers(sizing))
    out.print()
    for text in sizing.left_out:
        out.print(f"not tried: {text}", markup=False, soft_wrap=True)
    for text in sizing.remarks:
        out.print(f"note: {text}", markup=False, soft_wrap=True)


def _front(sizing: Sizing) -> object:
    rows = [
        (
            str(member.number),
            price_words(member.option),
            f"{member.tokens.input_usd_per_million:.2f} / {member.tokens.output_usd_per_million:.2f}",
            f"{member.option.performance.ttft_ms.p99:,.0f} / {member.option.performance.tpot_ms.p99:,.0f}",
            percent_words(member.option.availability).removesuffix(" %"),
            f"{int(member.option.survives_node * 100)}",
            f"{member.option.spot_share * 100:.0f}",
            f"{member.option.nodes} {member.option.offer.instance.name}",
        )
        for member in sizing.front
    ]
    columns = ("#", "$/h", "$/1M in / out", "TTFT / TPOT", "available %", "node lost %", "spot %", "nodes")
    weighed = ", ".join(sizing.request.front)
    return table(f"Nothing beats these in {weighed}", columns, rows, right=(0, 1, 2, 3, 4, 5, 6))


def _legend(sizing: Sizing) -> Iterator[str]:
    """What does not fit into the table, a line for each answer, and what the columns mean."""
    for member in sizing.front:
        option = member.option
        served, band = option.served, option.performance.band
        gpus = f"{served.layout.gpus} {served.gpu}, {layout_words(served.layout)}"
        weights = served.variant.words
        if not served.variant.published and served.variant.quantization == "checkpoint":
            weights = served.variant.card.name
        yield (
            f"#{member.number}: {option.replicas} x ({gpus}), "
            f"{served.engine}, {weights}, in {option.offer.region}; throughput x {band.low:.2f} to "
            f"{band.high:.2f} ({band.evidence})"
        )
    yield (
        "TTFT / TPOT: p99 in ms; available: requests that meet capacity; node lost: load within the objectives with "
        "one node gone"
    )


def _tokens(lengths: TokenLengths) -> str:
    return f"{lengths.mean:,.0f} (p99 {lengths.p99:,.0f})"


def _losers(sizing: Sizing) -> object:
    rows = [
        (
            TITLES[lost.kind] + (f": {lost.reason}" if lost.reason else ""),
            f"{lost.count:,}",
            "; ".join(lost.examples[: 3 if lost.kind == "place" else 1]),
        )
        for lost in sizing.lost
    ]
    by_type: dict[str, list[tuple[Option, int]]] = {}
    for option, by in sizing.dominated:
        by_type.setdefault(option.offer.instance.name, []).append((option, by))
    for members in sorted(by_type.values(), key=lambda found: found[0][0].usd_per_hour):
        option, by = members[0]
        found = option.performance
        rows.append(
            (
                f"no better than #{by} in anything weighed",
                f"{len(members):,}",
                f"{option.words}: {option.usd_per_hour:,.2f} $/h, {found.ttft_ms.p99:,.0f} / {found.tpot_ms.p99:,.0f} "
                f"ms, {percent_words(option.availability)}",
            )
        )
    return table("Why the rest lost", ("reason", "options", "the nearest"), rows, right=(1,))
