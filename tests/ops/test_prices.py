"""`prices refresh`: what AWS tells gets into the catalog's file, and nothing else about the file changes."""

from __future__ import annotations

import difflib
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from ruamel.yaml import YAML

from catalog.load import DIRECTORY, Catalog
from ops.errors import MissingError, UsageError
from ops.price_file import PriceFile
from ops.price_sources import ServiceQuery, service, spot
from ops.prices import RefreshOptions, queries, refresh, show_refresh

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def product(usage: str, *tiers: tuple[int, float], **attributes: str) -> str:
    dimensions = {
        f"tier{index}": {"beginRange": str(begin), "pricePerUnit": {"USD": f"{usd:.10f}"}}
        for index, (begin, usd) in enumerate(tiers)
    }
    return json.dumps(
        {
            "product": {"attributes": {"usagetype": usage, **attributes}},
            "terms": {"OnDemand": {"term": {"priceDimensions": dimensions}}},
        }
    )


class FakeClient:
    """Answers of AWS by operation; an exception is raised."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get_paginator(self, operation: str) -> Any:
        outer = self

        class Paginator:
            def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
                outer.asked.append((operation, arguments))
                answer = outer.answers[operation]
                if isinstance(answer, Exception):
                    raise answer
                return answer(arguments) if callable(answer) else answer

        return Paginator()


def price_list(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    filters = {entry["Field"]: entry["Value"] for entry in arguments["Filters"]}
    assert filters["regionCode"] == "us-east-1"
    if filters.get("instanceType") == "p4d.24xlarge":
        return [{"PriceList": [product("BoxUsage:p4d.24xlarge", (0, 20.5))]}]
    if arguments["ServiceCode"] == "AmazonS3":
        return [
            {"PriceList": [product("USE1-Requests-Tier1", (0, 0.000005)), product("Requests-Tier2", (0, 0.0000004))]},
            {"PriceList": [product("TimedStorage-ByteHrs", (0, 0.0), (50, 0.022), (500, 0.021))]},
        ]
    return [{"PriceList": []}]


def history(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    if arguments["InstanceTypes"] != ["p4d.24xlarge"]:
        return [{"SpotPriceHistory": []}]

    def entry(zone: str, hour: int, price: str) -> dict[str, Any]:
        when = datetime(2026, 11, 22, hour, tzinfo=UTC)
        return {"AvailabilityZone": zone, "Timestamp": when, "SpotPrice": price}

    return [
        {"SpotPriceHistory": [entry("us-east-1a", 1, "99"), entry("us-east-1a", 9, "7"), entry("us-east-1b", 2, "8")]},
        {"SpotPriceHistory": [entry("us-east-1c", 3, "12")]},
    ]


BLOCKS = [
    {
        "CapacityBlockOfferings": [
            {"UpfrontFee": "400.00", "CapacityBlockDurationHours": 24, "InstanceCount": 1, "CurrencyCode": "USD"},
            {"UpfrontFee": "354.00", "CapacityBlockDurationHours": 24, "InstanceCount": 1, "CurrencyCode": "USD"},
        ]
    }
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    copy = tmp_path / "prices.yaml"
    copy.write_text((DIRECTORY / "prices.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return copy


def clients(**answers: Any) -> Any:
    told = {
        "get_products": price_list,
        "describe_spot_price_history": history,
        "describe_capacity_block_offerings": BLOCKS,
        **answers,
    }
    return lambda _service, _region: FakeClient(told)


P4D = RefreshOptions(regions=["us-east-1"], instances=["p4d.24xlarge"])


def test_the_committed_file_survives_reading_and_writing_byte_by_byte(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    assert PriceFile(path).text() == before


def test_prices_of_one_type_change_and_nothing_else_does(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    found = refresh(P4D, path=path, client=clients(), at=NOW)
    assert found.written
    assert {(c.kind, c.old, c.new.usd) for c in found.changes} == {
        ("on_demand", 21.957642, 20.5),
        ("spot", 8.0001, 8.0),
        ("capacity_block", 14.75, 14.75),
    }
    after = path.read_text(encoding="utf-8")
    changed = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert len(changed) == 6
    prices = Catalog(path.parent).prices
    price = prices.spot("p4d.24xlarge", "us-east-1")
    assert price is not None
    assert (price.usd, price.low, price.high, price.as_of) == (8.0, 7.0, 12.0, date(2026, 11, 22))
    block = prices.capacity_block("p4d.24xlarge", "us-east-1")
    assert block is not None
    assert block.as_of == date(2026, 11, 22)  # confirmed today, though the number is the same


def test_services_are_found_behind_region_prefixes_and_tiers(path: Path) -> None:
    options = RefreshOptions(regions=["us-east-1"])
    found = refresh(options, path=path, client=clients(), at=NOW)
    services = {c.name: c.new.usd for c in found.changes if c.kind is None}
    assert services == {"s3_get_requests": 0.4, "s3_put_requests": 5.0, "s3_standard": 0.022}
    price = Catalog(path.parent).prices.service("s3_standard", "us-east-1")
    assert (price.usd, price.as_of, price.assumed) == (0.022, date(2026, 11, 22), False)
    assert {missing.name for missing in found.unanswered} >= {"kms_key", "nat_gateway"}


def test_a_new_region_leaves_the_date_of_the_others_alone(path: Path) -> None:
    answer = [{"PriceList": [product("EUC1-NatGateway-Hours", (0, 0.052))]}]
    options = RefreshOptions(regions=["eu-central-1"])
    refresh(options, path=path, client=clients(get_products=answer), at=NOW)
    prices = Catalog(path.parent).prices
    there = prices.service("nat_gateway", "eu-central-1")
    assert (there.usd, there.borrowed, there.as_of) == (0.052, False, date(2026, 11, 1))


def test_a_dry_run_writes_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    options = RefreshOptions(regions=["us-east-1"], instances=["p4d.24xlarge"], dry_run=True)
    assert show_refresh(options, as_json=True, path=path, client=clients(), at=NOW) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] is False
    assert len(told["changes"]) == 3
    assert path.read_bytes() == before


@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_a_refresh_that_fails_leaves_the_file_as_it_was(path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    if when == "in the middle":
        failure = ClientError({"Error": {"Code": "InternalError", "Message": "try again"}}, "DescribeSpotPriceHistory")
        client = clients(describe_spot_price_history=failure)
    else:
        client = clients()

        def full(self: Path, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MissingError):
        refresh(P4D, path=path, client=client, at=NOW)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["prices.yaml"]


def test_a_missing_permission_costs_its_kind_of_price_alone(path: Path) -> None:
    denied = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DescribeSpotPriceHistory")
    found = refresh(P4D, path=path, client=clients(describe_spot_price_history=denied), at=NOW)
    assert {change.kind for change in found.changes} == {"on_demand", "capacity_block"}
    (missing,) = found.unanswered
    assert missing.kind == "spot"
    assert "not allowed" in missing.why


def test_without_credentials_it_says_how_to_get_some(path: Path) -> None:
    with pytest.raises(MissingError, match="does not know the caller") as caught:
        refresh(P4D, path=path, client=clients(get_products=NoCredentialsError()), at=NOW)
    assert "aws sso login" in str(caught.value)


def test_unknown_regions_and_types_get_a_suggestion(path: Path) -> None:
    with pytest.raises(UsageError, match="us-east-7") as caught:
        refresh(RefreshOptions(regions=["us-east-7"]), path=path, client=clients(), at=NOW)
    assert "did you mean `us-east-" in str(caught.value)
    wrong = RefreshOptions(regions=["us-east-1"], instances=["p4d.24xl"])
    with pytest.raises(UsageError, match=r"p4d\.24xl"):
        refresh(wrong, path=path, client=clients(), at=NOW)


def test_prices_that_jump_are_pointed_at(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cheap(arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"PriceList": [product("BoxUsage:p4d.24xlarge", (0, 2.19))]}]

    show_refresh(P4D, as_json=False, path=path, client=clients(get_products=cheap), at=NOW)
    assert "look before" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("aws")
def test_spot_prices_come_through_boto3() -> None:
    price = spot(boto3.client("ec2", region_name="us-east-1"), "p4d.24xlarge", NOW)
    assert price is not None
    assert price.usd == pytest.approx(0.00001, abs=1e-4)


def test_a_usage_type_that_only_ends_alike_is_another_product() -> None:
    query = ServiceQuery(service="AmazonEC2", usage="NatGateway-Hours", filters={}, units=1)
    answers = [
        {"PriceList": [product("USE1-RegionalNatGateway-Hours", (0, 9.0)), product("NatGateway-Hours", (0, 0.045))]}
    ]
    found = service(FakeClient({"get_products": answers}), query, "us-east-1")
    assert found is not None
    assert found.usd == 0.045


def test_every_query_is_of_a_service_in_the_catalog() -> None:
    assert set(queries()) < set(Catalog().prices.services)
    by_hand = set(Catalog().prices.services) - set(queries())
    assert all(name.startswith(("fsx_", "eks_control_plane_extended")) for name in by_hand)


def test_what_is_written_is_yaml_that_others_read(path: Path) -> None:
    refresh(P4D, path=path, client=clients(), at=NOW)
    document = YAML(typ="safe").load(io.StringIO(path.read_text(encoding="utf-8")))
    assert document["instances"]["p4d.24xlarge"]["on_demand"]["us-east-1"]["as_of"] == date(2026, 11, 22)
