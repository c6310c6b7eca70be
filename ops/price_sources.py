"""Today's prices as AWS tells them: the Price List API, the spot price history and the capacity block offerings."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Kind = Literal["on_demand", "spot", "capacity_block"]

PRICE_LIST = "AWS Price List API"
SPOT_HISTORY = "EC2 spot price history, median over the zones"
BLOCK_OFFERINGS = "EC2 capacity block offerings, one instance for a day, the cheapest"
_BLOCK_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """A price that AWS told."""

    usd: float
    source: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceQuery:
    """Where the Price List API has the price of a service."""

    service: str
    usage: str
    """Usage type without the prefix of its region."""
    filters: Mapping[str, str]
    units: float
    """Units of the API in one unit of the catalog."""


def on_demand(pricing: Any, instance: str, region: str) -> Quoted | None:
    """Dollars an hour of a Linux instance on demand; None where the API has none. Raises boto3's errors."""
    filters = {
        "instanceType": instance,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    found = [usd for product in _products(pricing, "AmazonEC2", filters) if (usd := _first_rate(product)) is not None]
    return Quoted(usd=round(min(found), 6), source=PRICE_LIST) if found else None


def service(pricing: Any, query: ServiceQuery, region: str) -> Quoted | None:
    """Dollars of one unit of a service; None where the API has no product of that usage type. Raises boto3's errors."""
    # us-east-1 has no prefix, KMS has the region's whole name, all others a code such as `EUC1-`.
    usage = re.compile(rf"(?:[A-Za-z0-9-]+-)?{re.escape(query.usage)}")
    found = [
        rate
        for product in _products(pricing, query.service, {**query.filters, "regionCode": region})
        if usage.fullmatch(product["product"]["attributes"].get("usagetype", ""))
        and (rate := _first_rate(product)) is not None
    ]
    return Quoted(usd=round(min(found) * query.units, 6), source=PRICE_LIST) if found else None


def _products(pricing: Any, service_code: str, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode=service_code,
        FormatVersion="aws_v1",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in filters.items()],
    )
    for page in pages:
        for item in page["PriceList"]:
            yield json.loads(item) if isinstance(item, str) else item


def _first_rate(product: Mapping[str, Any]) -> float | None:
    """Dollars of the first tier that is not free."""
    tiers = [
        (float(dimension.get("beginRange") or 0), float(dimension["pricePerUnit"]["USD"]))
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"]
    ]
    return next((usd for _, usd in sorted(tiers) if usd > 0), None)


def spot(ec2: Any, instance: str, at: datetime) -> Quoted | None:
    """Dollars an hour on spot: the median over the zones of the client's region. Raises boto3's errors."""
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        # From now on: the last price of each zone, however old.
        InstanceTypes=[instance],
        ProductDescriptions=["Linux/UNIX"],
        StartTime=at,
    )
    last: dict[str, tuple[datetime, float]] = {}
    for page in pages:
        for entry in page["SpotPriceHistory"]:
            seen = (entry["Timestamp"], float(entry["SpotPrice"]))
            zone = entry["AvailabilityZone"]
            last[zone] = max(last.get(zone, seen), seen)
    prices = [price for _, price in last.values()]
    if not prices:
        return None
    return Quoted(
        usd=round(statistics.median(prices), 4),
        low=round(min(prices), 4),
        high=round(max(prices), 4),
        source=SPOT_HISTORY,
    )


def capacity_block(ec2: Any, instance: str) -> Quoted | None:
    """Dollars an hour of the cheapest block of one instance for a day, if any. Raises boto3's errors."""
    pages = ec2.get_paginator("describe_capacity_block_offerings").paginate(
        InstanceType=instance, InstanceCount=1, CapacityDurationHours=_BLOCK_HOURS
    )
    hourly = [
        float(offer["UpfrontFee"])
        / (
            (offer["CapacityBlockDurationHours"] + offer.get("CapacityBlockDurationMinutes", 0) / 60)
            * offer["InstanceCount"]
        )
        for page in pages
        for offer in page["CapacityBlockOfferings"]
        if offer.get("CurrencyCode", "USD") == "USD"
    ]
    return Quoted(usd=round(min(hourly), 4), source=BLOCK_OFFERINGS) if hourly else None
