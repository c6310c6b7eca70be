"""Zones and ranges of the VPC: pools that come and go must move nothing that is there."""

from __future__ import annotations

import ipaddress

import pytest

from catalog.load import load
from planner import load_and_plan
from planner.network import home_zones
from planner.plan import CreatedNetworkPlan, ZonePlan
from tests.stacks import changed, document


def zones_of(directory, *pool_zones: str) -> dict[str, ZonePlan]:
    """The dev stack's zones with one pool in each of these, in this order."""
    pools = document("dev")["config"]["inference-platform:platform"]["pools"]
    several = [{**pools[0], "name": f"pool-{zone[-1]}", "availability_zone": zone} for zone in pool_zones]
    changes = {"pools": several, "models.0.pool": several[0]["name"]}
    network = load_and_plan(changed(directory, "dev", changes, removed=("budget",)))[1].network
    assert isinstance(network, CreatedNetworkPlan)
    return {zone.zone: zone for zone in network.zones}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("us-east-1a",), ("us-east-1a", "us-east-1c")),
        (("us-east-1b",), ("us-east-1a", "us-east-1b")),
        (("us-east-1d",), ("us-east-1b", "us-east-1d")),
        (("us-east-1a", "us-east-1d"), ("us-east-1d", "us-east-1a")),
    ],
)
def test_a_new_pool_moves_no_zone_that_is_there(tmp_path, before, after):
    """A subnet whose range changes is replaced, which EC2 refuses while nodes are in it."""
    old, new = zones_of(tmp_path, *before), zones_of(tmp_path, *after)
    assert old.keys() <= new.keys()
    assert {name: new[name] for name in old} == old


def test_a_zone_of_pools_alone_gets_neither_control_plane_nor_system_nodes(tmp_path):
    """Subnets of a node group cannot change: the zones of the system nodes are the same in every plan."""
    zones = zones_of(tmp_path, "us-east-1d")
    assert [name for name, zone in zones.items() if zone.control_plane] == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert not zones["us-east-1d"].control_plane


def test_nodes_without_internet_reach_what_their_agents_call(tmp_path):
    """Endpoints of Session Manager (its user guide, VPC endpoints), the only way to a shell on a node."""
    mirror = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror"
    changes = {"network.egress": "vpc_endpoints", "images": {"mirror": mirror}}
    network = load_and_plan(changed(tmp_path, "dev", changes))[1].network
    assert isinstance(network, CreatedNetworkPlan)
    assert {"ssm", "ssmmessages"} <= set(network.interface_endpoints)


def test_every_region_has_room_for_a_pool_in_each_of_its_zones():
    """Seven of the VPC's eight blocks are private subnets, one a zone."""
    for region in load().regions.values():
        assert len(region.zones) <= 7, region.name
        assert 2 <= len(home_zones(region)) <= 3, region.name
    blocks = list(ipaddress.ip_network("10.0.0.0/20").subnets(prefixlen_diff=3))
    assert len(list(blocks[-1].subnets(new_prefix=28))) >= 7, "public subnets of the smallest VPC"
