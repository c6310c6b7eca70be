"""Prices: the numbers against a second reading of them, and how honest the answers are."""

from __future__ import annotations

import statistics

import pytest

from catalog import Catalog

US_EAST_1 = {
    "p4d.24xlarge": 21.9576,
    "p4de.24xlarge": 27.4471,
    "p5.4xlarge": 6.88,
    "p5.48xlarge": 55.04,
    "p5en.48xlarge": 63.296,
    "p6-b200.48xlarge": 113.9328,
    "p6-b300.48xlarge": 142.416,
    "g7e.48xlarge": 33.144,
    "g7e.24xlarge": 16.572,
    "g7e.12xlarge": 8.286,
    "g6e.48xlarge": 30.131,
    "g6e.24xlarge": 15.066,
    "g6e.12xlarge": 10.493,
    "g6e.xlarge": 1.861,
    "g6e.2xlarge": 2.242,
    "g5.48xlarge": 16.288,
    "g5.12xlarge": 5.672,
    "g5.xlarge": 1.006,
    "g6.48xlarge": 13.350,
    "g6.12xlarge": 4.602,
    "g6.xlarge": 0.805,
}


@pytest.mark.parametrize(("instance", "usd"), US_EAST_1.items())
def test_on_demand_in_us_east_1(instance: str, usd: float, catalog: Catalog) -> None:
    price = catalog.prices.on_demand(instance, "us-east-1")
    assert price is not None
    assert price.usd == pytest.approx(usd, abs=0.001)
    assert (price.unit, price.region, price.borrowed, price.assumed) == ("hour", "us-east-1", False, False)


def test_every_instance_has_some_price(catalog: Catalog) -> None:
    prices = catalog.prices
    assert set(prices.instances) == set(catalog.instances)
    without = {name for name in catalog.instances if prices.on_demand(name, "us-east-1") is None}
    assert all(prices.capacity_block(name, "us-east-1") for name in without)


def test_capacity_block_prices_are_of_types_that_have_them(catalog: Catalog) -> None:
    for name, instance in catalog.instances.items():
        if catalog.prices.capacity_block(name, "us-east-1") is not None:
            assert instance.capacity_blocks, name


def test_a_region_without_a_price_borrows_and_says_so(catalog: Catalog) -> None:
    price = catalog.prices.on_demand("p5.48xlarge", "xx-nowhere-1")
    assert price is not None
    assert (price.region, price.borrowed) == ("us-east-1", True)
    service = catalog.prices.service("nat_gateway", "xx-nowhere-1")
    assert (service.region, service.borrowed, service.usd) == ("us-east-1", True, 0.045)
    assert not catalog.prices.service("nat_gateway", "us-east-1").borrowed


def test_a_quoted_spot_price_is_not_called_assumed(catalog: Catalog) -> None:
    price = catalog.prices.spot("p5en.48xlarge", "us-east-2")
    assert price is not None
    assert (price.region, price.borrowed, price.assumed) == ("us-east-2", False, False)
    assert price.low is not None
    assert price.high is not None
    assert price.low <= price.usd <= price.high


def test_without_a_quote_spot_is_a_share_of_on_demand_and_called_assumed(catalog: Catalog) -> None:
    unquoted = [name for name, kinds in catalog.prices.instances.items() if kinds.on_demand and not kinds.spot]
    assert unquoted
    for name in unquoted:
        spot, full = catalog.prices.spot(name, "us-east-1"), catalog.prices.on_demand(name, "us-east-1")
        assert spot is not None
        assert full is not None
        assert spot.assumed
        assert spot.usd == pytest.approx(full.usd * catalog.prices.spot_ratio.ratio)
        assert "assumption" in spot.source


def test_a_type_that_is_not_sold_on_demand_has_no_such_price(catalog: Catalog) -> None:
    if catalog.prices.instances["p5e.48xlarge"].on_demand:
        pytest.fail("p5e is sold on demand now: choose another type for this test")
    assert catalog.prices.on_demand("p5e.48xlarge", "us-east-1") is None
    assert catalog.prices.capacity_block("p5e.48xlarge", "us-east-1") is not None


def test_spot_never_costs_more_than_on_demand(catalog: Catalog) -> None:
    for name, kinds in catalog.prices.instances.items():
        for region, quote in kinds.spot.items():
            full = catalog.prices.on_demand(name, region)
            if full is not None and not full.borrowed:
                assert quote.usd <= full.usd * 1.001, (name, region)


def test_bands_hold_their_quote(catalog: Catalog) -> None:
    for name, kinds in catalog.prices.instances.items():
        for region, quote in kinds.spot.items():
            if quote.low is not None and quote.high is not None:
                assert quote.low <= quote.usd <= quote.high, (name, region)


def test_unknown_things_raise_key_error(catalog: Catalog) -> None:
    with pytest.raises(KeyError):
        catalog.prices.on_demand("p9.48xlarge", "us-east-1")
    with pytest.raises(KeyError):
        catalog.prices.service("tea", "us-east-1")


@pytest.mark.parametrize(
    ("service", "usd", "unit"),
    [
        ("eks_control_plane", 0.10, "hour"),
        ("nat_gateway", 0.045, "hour"),
        ("nat_gateway_data", 0.045, "gb"),
        ("interface_endpoint", 0.01, "hour"),
        ("public_ipv4", 0.005, "hour"),
        ("fsx_lustre_persistent_2_ssd_125", 0.145, "gb_month"),
        ("fsx_lustre_persistent_2_ssd_1000", 0.600, "gb_month"),
        ("ebs_gp3", 0.08, "gb_month"),
        ("s3_standard", 0.023, "gb_month"),
        ("kms_key", 1.0, "month"),
    ],
)
def test_services_in_us_east_1(service: str, usd: float, unit: str, catalog: Catalog) -> None:
    price = catalog.prices.service(service, "us-east-1")
    assert (price.usd, price.unit, price.borrowed) == (usd, unit, False)


def test_unverified_service_prices_are_called_assumed(catalog: Catalog) -> None:
    for name, entry in catalog.prices.services.items():
        assert catalog.prices.service(name, "us-east-1").assumed == (entry.evidence == "unverified"), name


def test_the_assumed_spot_share_is_near_what_quotes_say(catalog: Catalog) -> None:
    shares: list[float] = []
    for name, kinds in catalog.prices.instances.items():
        for region, quote in kinds.spot.items():
            full = catalog.prices.on_demand(name, region)
            if full is not None and not full.borrowed:
                shares.append(quote.usd / full.usd)
    assert len(shares) > 30
    assert statistics.median(shares) <= catalog.prices.spot_ratio.ratio <= statistics.quantiles(shares, n=4)[2]


def test_regional_prices_are_in_regions_that_offer_the_type(catalog: Catalog) -> None:
    for name, kinds in catalog.prices.instances.items():
        for region in {*kinds.on_demand, *kinds.spot}:
            assert name in catalog.regions[region].offerings, (name, region)
