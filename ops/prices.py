"""`prices refresh`: today's prices from AWS into catalog/prices.yaml: old -> new is shown, the file changes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from catalog.load import DIRECTORY, Catalog, load
from ops import aws
from ops.console import OK, out, print_json, table
from ops.errors import UsageError
from ops.price_file import Change, PriceFile
from ops.price_sources import Kind, Quoted, ServiceQuery, capacity_block, on_demand, service, spot
from settings.errors import did_you_mean

PRICES = DIRECTORY / "prices.yaml"
_PRICE_LIST_REGION = "us-east-1"
"""The API answers for all regions, and is in three of them."""
_ODD = 2.0
"""A price that moved by more than this factor is pointed at: a query that finds the wrong product looks like this."""
_NOT_OFFERED = {
    "InvalidParameterValue",
    "InvalidInstanceType",
    "Unsupported",
    "UnsupportedOperation",
    "InvalidParameter",
}

Client = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshOptions:
    """What `prices refresh` is asked for."""

    regions: Sequence[str]
    instances: Sequence[str] = ()
    """Instance types; all of the catalog that the region offers where empty, and then services too."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A price that AWS did not tell; the catalog keeps what it has."""

    name: str
    kind: str
    region: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """What a refresh found."""

    changes: tuple[Change, ...]
    unanswered: tuple[Unanswered, ...]
    written: bool


def show_refresh(
    options: RefreshOptions,
    *,
    as_json: bool,
    path: Path = PRICES,
    client: Client = aws.client,
    at: datetime | None = None,
) -> int:
    """Read prices, show them and, unless it is a dry run, write the file."""
    found = refresh(options, path=path, client=client, at=at or datetime.now(UTC))
    if as_json:
        print_json(found)
        return OK
    moved = [change for change in found.changes if change.old != change.new.usd]
    if moved:
        rows = [
            (change.name, (change.kind or "service").replace("_", " "), change.region, *_shown(change))
            for change in moved
        ]
        out.print(
            table("Prices, $ of the catalog's unit", ("what", "kind", "region", "old", "new", ""), rows, right=(3, 4))
        )
    out.print(f"{len(moved)} prices moved, {len(found.changes) - len(moved)} are as they were")
    for missing in found.unanswered:
        out.print(
            f"note: {missing.name} {missing.kind} in {missing.region}: {missing.why}", markup=False, soft_wrap=True
        )
    if found.written:
        out.print(f"written: {path.name}; `git diff` shows it, `python -m ops check` judges the stacks by it")
    elif found.changes:
        out.print("nothing written: --dry-run")
    return OK


def _shown(change: Change) -> tuple[str, str, str]:
    ratio = change.ratio
    odd = ratio is not None and not 1 / _ODD <= ratio <= _ODD
    words = "new" if ratio is None else f"{ratio - 1:+.0%}"
    return (
        "" if change.old is None else f"{change.old:g}",
        f"{change.new.usd:g}",
        f"{words}: look before you commit" if odd else words,
    )


def refresh(options: RefreshOptions, *, path: Path, client: Client, at: datetime) -> Refresh:
    """Ask AWS for every price, then change the file in one step.

    Args:
        options: what to ask for.
        path: the file.
        client: makes a boto3 client of a service in a region.
        at: now; the date that the prices get.

    Raises:
        UsageError: a region or an instance type that the catalog does not know.
        MissingError: AWS cannot be asked, or the file cannot be written. It is as it was.
    """
    catalog = load()
    _check(options, catalog)
    file = PriceFile(path)
    changes: list[Change] = []
    unanswered: list[Unanswered] = []
    try:
        pricing = client("pricing", _PRICE_LIST_REGION)
        for region in options.regions:
            ec2 = client("ec2", region)
            for name, kind, ask in _questions(options, catalog, pricing, ec2, region, at):
                answer = _ask(ask)
                if isinstance(answer, Quoted):
                    old = file.old(name, kind, region)
                    changes.append(Change(name=name, kind=kind, region=region, old=old, new=answer))
                else:
                    unanswered.append(Unanswered(name=name, kind=kind or "service", region=region, why=answer))
    except aws.ERRORS as error:
        raise aws.explained(error, doing="asking for prices") from error
    written = bool(changes) and not options.dry_run
    if written:
        file.apply(changes, at.date())
        file.save()
    return Refresh(changes=tuple(changes), unanswered=tuple(unanswered), written=written)


def _check(options: RefreshOptions, catalog: Catalog) -> None:
    for region in options.regions:
        if region not in catalog.regions:
            hint = did_you_mean(region, catalog.regions) or "regions: " + ", ".join(catalog.regions)
            raise UsageError(f"`{region}` is not in the catalog of regions", help=hint)
    for name in options.instances:
        if name not in catalog.instances:
            hint = did_you_mean(name, catalog.instances) or "see catalog/instances.yaml"
            raise UsageError(f"`{name}` is not in the catalog of instance types", help=hint)


def _questions(
    options: RefreshOptions, catalog: Catalog, pricing: Any, ec2: Any, region: str, at: datetime
) -> Iterator[tuple[str, Kind | None, Callable[[], Quoted | None]]]:
    offered = catalog.regions[region].offerings
    wanted = options.instances or tuple(catalog.instances)
    for name in wanted:
        instance = catalog.instances[name]
        if instance.gpus and name not in offered:
            continue
        if "on-demand" in instance.usage_classes:
            yield name, "on_demand", lambda name=name: on_demand(pricing, name, region)
        if instance.gpus and "spot" in instance.usage_classes:
            yield name, "spot", lambda name=name: spot(ec2, name, at)
        if instance.capacity_blocks:
            yield name, "capacity_block", lambda name=name: capacity_block(ec2, name)
    if not options.instances:
        for name, query in queries().items():
            yield name, None, lambda query=query: service(pricing, query, region)


def _ask(question: Callable[[], Quoted | None]) -> Quoted | str:
    """The answer, or why there is none. A permission that is missing concerns one kind of price, not all."""
    try:
        return question() or "AWS has none; the catalog keeps its own"
    except aws.ERRORS as error:
        if aws.is_denied(error) or aws.error_code(error) in _NOT_OFFERED:
            return str(aws.explained(error).args[0])
        raise


def queries() -> Mapping[str, ServiceQuery]:
    """Of services: where the Price List API has them. Those without one (FSx) are read by hand."""
    document = yaml.safe_load((DIRECTORY / "price_queries.yaml").read_text(encoding="utf-8"))
    return {
        name: ServiceQuery(
            service=entry["service"],
            usage=entry["usage"],
            filters=entry.get("filters", {}),
            units=float(entry.get("units", 1)),
        )
        for name, entry in document.items()
    }
