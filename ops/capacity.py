"""`capacity`: where a model's hardware can be had today: regions, zones and types by offering, spot price and quota."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from catalog.load import Catalog, load
from catalog.types import Instance, ModelCard
from ops import aws
from ops.console import FINDINGS, OK, err, out, print_json, table
from ops.errors import UsageError
from ops.preflight.market import spot_history
from ops.quotas import Quotas, ServiceQuotas
from planner.layout import Fit, choose, node_of
from planner.memory import Serving, served_weights_gb
from settings.errors import did_you_mean

Verdict = Literal["spot", "on demand", "quota", "unknown"]
"""What a place offers now: spot within the quota, only on-demand within it, none for want of quota, or not told."""

_ORDER: Mapping[Verdict, int] = {"spot": 0, "unknown": 1, "on demand": 2, "quota": 3}
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptions:
    """What the command line says."""

    model: str
    context_tokens: int | None
    replicas: int
    regions: str
    offline: bool
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The smallest way in which an instance type holds the model."""

    instance: Instance
    fit: Fit
    engine: str
    replicas: int

    @property
    def nodes(self) -> int:
        """Nodes of all replicas; several replicas of less than a node share it."""
        layout = self.fit.layout
        if layout.nodes > 1:
            return self.replicas * layout.nodes
        return -(-self.replicas // max(1, self.instance.gpus // layout.gpus_per_node))

    @property
    def vcpus(self) -> int:
        """What its nodes take of a quota."""
        return self.nodes * self.instance.vcpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One type in one zone."""

    region: str
    zone: str
    instance_type: str
    nodes: int
    gpu: str
    spot_usd_per_hour: float | None
    """Of all nodes; None where none is known."""
    on_demand_usd_per_hour: float | None
    spot_quota_vcpus: float | None
    on_demand_quota_vcpus: float | None
    needed_vcpus: int
    verdict: Verdict
    note: str


class Market(Protocol):
    """What can be had in a region."""

    def offered(self, region: str, instance_type: str) -> Sequence[str]:
        """Zones that sell a type."""
        ...

    def spot(self, region: str, zone: str, instance_type: str) -> tuple[float | None, str]:
        """Spot price of one node now in $/h, and where it is from; None where there is none."""
        ...

    def quotas(self, region: str) -> Quotas | None:
        """The account's limits; None where they cannot be asked."""
        ...


class CatalogMarket:
    """What the catalog knows, without an account: dated prices and offerings, no quotas."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def offered(self, region: str, instance_type: str) -> Sequence[str]:
        """See `Market.offered`."""
        return self._catalog.regions[region].offerings.get(instance_type, ())

    def spot(self, region: str, zone: str, instance_type: str) -> tuple[float | None, str]:
        """See `Market.spot`; the catalog has one price a region."""
        price = self._catalog.prices.spot(instance_type, region)
        if price is None:
            return None, f"{zone}: no price"
        notes = [f"catalog, {price.as_of}"]
        notes += [f"borrowed from {price.region}"] if price.borrowed else []
        notes += ["assumed"] if price.assumed else []
        return price.usd, "; ".join(notes)

    def quotas(self, region: str) -> Quotas | None:  # noqa: ARG002 - the protocol's
        """See `Market.quotas`."""
        return None


class AwsMarket:
    """What EC2 and Service Quotas say to this account."""

    def offered(self, region: str, instance_type: str) -> Sequence[str]:
        """See `Market.offered`."""
        pages = (
            aws.client("ec2", region)
            .get_paginator("describe_instance_type_offerings")
            .paginate(LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [instance_type]}])
        )
        return sorted(item["Location"] for page in pages for item in page["InstanceTypeOfferings"])

    def spot(self, region: str, zone: str, instance_type: str) -> tuple[float | None, str]:
        """See `Market.spot`."""
        found = spot_history(aws.client("ec2", region), instance_type, zone)
        if found is None:
            return None, "no spot price this week"
        return found.now, f"{found.low:.2f} to {found.high:.2f} this week"

    def quotas(self, region: str) -> Quotas | None:
        """See `Market.quotas`."""
        return ServiceQuotas(region)


def show_capacity(options: CapacityOptions, market: Market | None = None) -> int:
    """Rank and print; 1 where no place has what the model needs."""
    catalog = load()
    card = _card(options.model, catalog)
    regions = _regions(options.regions, catalog)
    context = options.context_tokens or min(card.max_context, 8192)
    needs = list(needed(card, catalog, context_tokens=context, replicas=options.replicas))
    if not needs:
        raise UsageError(
            f"no instance type of the catalog holds {card.name} with {context} tokens of context",
            help="fewer tokens with --context, or a smaller number format: `python -m ops size` searches them",
        )
    source = market or (CatalogMarket(catalog) if options.offline else AwsMarket())
    try:
        places = rank(needs, regions, source, catalog, tell=_progress)
    except aws.ERRORS as error:
        raise aws.explained(error, doing="asking what can be had (--offline asks the catalog alone)") from error
    usable = [place for place in places if place.verdict != "quota"]
    if options.as_json:
        print_json({"model": card.name, "context_tokens": context, "replicas": options.replicas, "places": places})
        return OK if usable else FINDINGS
    _print(card, context, options, places)
    return OK if usable else FINDINGS


def needed(card: ModelCard, catalog: Catalog, *, context_tokens: int, replicas: int) -> Iterator[Need]:
    """For each GPU instance type that holds the model as published, the layout with the fewest GPUs of both engines."""
    for instance in catalog.instances.values():
        if not instance.gpu:
            continue
        node = node_of(instance, catalog.gpus[instance.gpu])
        found: list[Need] = []
        for engine in ("vllm", "sglang"):
            serving = Serving(
                engine=engine,
                weights_gb=served_weights_gb(card, "checkpoint"),
                kv_bytes_per_value=2,
                context_tokens=context_tokens,
            )
            fit = choose(card, node, serving)
            if fit is not None:
                found.append(Need(instance=instance, fit=fit, engine=engine, replicas=replicas))
        if found:
            yield min(found, key=lambda need: (need.fit.layout.gpus, need.engine))


def rank(
    needs: Sequence[Need],
    regions: Sequence[str],
    market: Market,
    catalog: Catalog,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Place]:
    """Every place that sells a fitting type: what can be had on spot first, cheapest first."""
    places: list[Place] = []
    for region in regions:
        tell(region)
        quotas = market.quotas(region)
        limits: dict[str, float | None] = {}

        def limit(code: str, quotas: Quotas | None = quotas, known: dict[str, float | None] = limits) -> float | None:
            if quotas is None:
                return None
            if code not in known:
                known[code] = quotas.vcpus(code)
            return known[code]

        for need in needs:
            for zone in market.offered(region, need.instance.name):
                spot, note = market.spot(region, zone, need.instance.name)
                full = catalog.prices.on_demand(need.instance.name, region)
                on_spot, on_demand = limit(need.instance.quota_spot), limit(need.instance.quota_on_demand)
                places.append(
                    Place(
                        region=region,
                        zone=zone,
                        instance_type=need.instance.name,
                        nodes=need.nodes,
                        gpu=f"{need.fit.layout.gpus} x {need.instance.gpu}",
                        spot_usd_per_hour=None if spot is None else round(spot * need.nodes, 4),
                        on_demand_usd_per_hour=None if full is None else round(full.usd * need.nodes, 4),
                        spot_quota_vcpus=on_spot,
                        on_demand_quota_vcpus=on_demand,
                        needed_vcpus=need.vcpus,
                        verdict=_verdict(need.vcpus, spot, on_spot, on_demand),
                        note=note,
                    )
                )
    return sorted(places, key=_key)


def _verdict(needed_vcpus: int, spot: float | None, on_spot: float | None, on_demand: float | None) -> Verdict:
    if on_spot is None and on_demand is None:
        return "unknown"
    if spot is not None and (on_spot or 0) >= needed_vcpus:
        return "spot"
    return "on demand" if (on_demand or 0) >= needed_vcpus else "quota"


def _key(place: Place) -> tuple[object, ...]:
    usd = place.on_demand_usd_per_hour if place.verdict == "on demand" else place.spot_usd_per_hour
    return (_ORDER[place.verdict], usd is None, usd or 0.0, place.region, place.zone, place.instance_type)


def _card(model: str, catalog: Catalog) -> ModelCard:
    if model not in catalog.models:
        raise UsageError(f"`{model}` is not in the catalog", help=did_you_mean(model, catalog.models))
    return catalog.models[model]


def _regions(text: str, catalog: Catalog) -> tuple[str, ...]:
    if text == "all":
        return tuple(sorted(catalog.regions))
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in catalog.regions:
            raise UsageError(f"`{name}` is not in the catalog of regions", help=did_you_mean(name, catalog.regions))
    if not names:
        raise UsageError("--regions names none", help="--regions us-east-1,us-west-2, or --regions all")
    return names


def _progress(region: str) -> None:
    err.print(f"asking {region}", markup=False)


def _print(card: ModelCard, context: int, options: CapacityOptions, places: Sequence[Place]) -> None:
    def money(usd: float | None) -> str:
        return "?" if usd is None else f"{usd:,.2f}"

    def quota(vcpus: float | None) -> str:
        return "?" if vcpus is None else f"{vcpus:,.0f}"

    zones: dict[Place, list[str]] = {}
    for place in places:
        zones.setdefault(replace(place, zone=""), []).append(place.zone)
    rows = [
        (
            place.verdict,
            ", ".join([names[0], *(name.removeprefix(place.region) for name in names[1:])]),
            f"{place.nodes} x {place.instance_type}",
            place.gpu,
            money(place.spot_usd_per_hour),
            money(place.on_demand_usd_per_hour),
            f"{place.needed_vcpus:,} of {quota(place.spot_quota_vcpus)} / {quota(place.on_demand_quota_vcpus)}",
        )
        for place, names in list(zones.items())[:_SHOWN]
    ]
    title = f"{card.name}, {options.replicas} replica(s), {context:,} tokens of context: where it can be had"
    columns = ("now", "zones", "nodes", "GPUs a replica", "spot $/h", "on demand $/h", "vCPUs of spot / od quota")
    out.print(table(title, columns, rows, right=(4, 5)))
    if len(zones) > _SHOWN:
        out.print(f"{len(zones) - _SHOWN} more; --json has them all")
    if not places:
        out.print("no zone of these regions sells a type that holds it")
    elif places[0].verdict == "quota":
        out.print("no quota allows any of them: `python -m ops preflight` has the command that asks for more")
