"""Is the account ready: caller, region, offerings, prices of spot, subnets, and the way to the API server."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from catalog.load import load
from ops import aws
from ops.checks import Check
from planner import Plan
from planner.plan import CreatedNetworkPlan, EksPlan, ExistingNetworkPlan, PoolPlan

Reaches = Callable[[str, int], bool]
"""Whether a TCP connection to host and port opens."""

_ASSUMED_ROLE = re.compile(r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/")
_PRINCIPAL = re.compile(r"arn:(?P<partition>[\w-]+):iam::(?P<account>\d+):(?P<kind>role|user)/(?:.*/)?(?P<name>[^/]+)$")
_REACH_SECONDS = 3.0
_SPOT_HOURS = 24
_PREFIX_ADDRESSES = 16
"""The VPC CNI takes addresses in prefixes of /28. Source: EKS user guide, prefix delegation."""


def reaches(host: str, port: int) -> bool:
    """Opens a connection and closes it."""
    try:
        with socket.create_connection((host, port), timeout=_REACH_SECONDS):
            return True
    except OSError:
        return False


def caller(region: str) -> str:
    """ARN of who asks; raises what boto3 raises where nobody is known."""
    return str(aws.client("sts", region).get_caller_identity()["Arn"])


def check_admin(arn: str, admins: tuple[str, ...]) -> Iterator[Check]:
    """Whether the caller will be cluster-admin: else the first `up` ends with a cluster that it may not enter."""
    yield Check(name="credentials", status="ok", detail=arn)
    known = [match for admin in admins if (match := _PRINCIPAL.match(admin))]
    session = _ASSUMED_ROLE.match(arn)
    direct = _PRINCIPAL.match(arn)
    if session is not None:
        # A session's ARN has lost the path of its role.
        mine = (session["account"], "role", session["role"])
        role = f"arn:{session['partition']}:iam::{session['account']}:role/{session['role']}"
        found = f"aws iam get-role --role-name {session['role']} --query Role.Arn"
        fix = f"add the role to `target.admins`: {role} (with its path, if it has one: {found})"
    elif direct is not None:
        mine = (direct["account"], direct["kind"], direct["name"])
        fix = f"add {arn} to `target.admins`"
    else:
        yield Check(
            name="admin",
            status="fail",
            detail="neither a role nor a user of IAM (the root user cannot be an EKS admin)",
            fix="assume a role that is among `target.admins`",
        )
        return
    if mine in {(admin["account"], admin["kind"], admin["name"]) for admin in known}:
        yield Check(name="admin", status="ok", detail="the caller is among target.admins")
    else:
        yield Check(name="admin", status="fail", detail="the caller is not among target.admins", fix=fix)


def check_region(ec2: Any, region: str) -> Iterator[Check]:
    """Whether the account may use the region."""
    found = ec2.describe_regions(AllRegions=True, RegionNames=[region])["Regions"]
    status = found[0].get("OptInStatus", "opt-in-not-required") if found else "unknown"
    if status == "not-opted-in":
        yield Check(
            name="region",
            status="fail",
            detail=f"{region} is not enabled in this account",
            fix=f"aws account enable-region --region-name {region}",
        )
    else:
        yield Check(name="region", status="ok", detail=f"{region}: {status}")


def check_offerings(ec2: Any, plan: Plan) -> Iterator[Check]:
    """Whether each pool's zone sells its type to this account: the names of zones differ from account to account."""
    for pool, kind in [(each, kind) for each in plan.pools for kind in each.instance_types]:
        pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind]}]
        )
        zones = sorted(item["Location"] for page in pages for item in page["InstanceTypeOfferings"])
        without = [zone for zone in pool.zones if zone not in zones]
        if not without:
            yield Check(name=f"offering {kind}", status="ok", detail=f"{_and(pool.zones)} offers it (pool {pool.name})")
        else:
            yield Check(
                name=f"offering {kind}",
                status="fail",
                detail=f"{_and(without)} does not offer it to this account (pool {pool.name})",
                fix=f"set the zones of `{pool.name}` to some of {', '.join(zones)}"
                if zones
                else f"no zone of {plan.region} offers it: choose another region or instance type",
            )


def check_spot(ec2: Any, plan: Plan) -> Iterator[Check]:
    """The last spot price in each spot rung's zones beside the planned one."""
    for pool in plan.pools:
        for rung in pool.rungs:
            if rung.kind == "spot":
                for zone in (rung.zone,) if rung.zone else pool.zones:
                    yield _spot_price(ec2, pool, zone, rung.usd_per_node_hour)


def _and(zones: Sequence[str]) -> str:
    return " and ".join(zones)


def _spot_price(ec2: Any, pool: PoolPlan, zone: str, planned: float) -> Check:
    kind = str(pool.hardware.instance_type)
    answer = ec2.describe_spot_price_history(
        InstanceTypes=[kind],
        AvailabilityZone=zone,
        ProductDescriptions=["Linux/UNIX"],
        StartTime=datetime.now(UTC) - timedelta(hours=_SPOT_HOURS),
        MaxResults=100,
    )
    history = sorted(answer["SpotPriceHistory"], key=lambda item: item["Timestamp"])
    if not history:
        return Check(
            name=f"spot {kind}",
            status="note",
            detail=f"no price in {zone} within {_SPOT_HOURS} hours: there may be none to be had",
            fix=f"give pool `{pool.name}` an on_demand rung, or a zone with a price",
        )
    last = float(history[-1]["SpotPrice"])
    fix = "the budget counts the planned price" if last > 1.25 * planned else None
    return Check(
        name=f"spot {kind}",
        status="note" if fix else "ok",
        detail=f"{last:.2f} $/h in {zone} now, planned {planned:.2f} $/h",
        fix=fix,
    )


def check_network(ec2: Any, plan: Plan) -> Iterator[Check]:
    """For a VPC that exists: that its subnets are where the stack file says and hold the nodes and pods."""
    network = plan.network
    if not isinstance(network, ExistingNetworkPlan):
        return
    wanted = {subnet.subnet_id: subnet.zone for subnet in network.subnets}
    answer = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": list(wanted)}])
    found = {subnet["SubnetId"]: subnet for subnet in answer["Subnets"]}
    for subnet_id, zone in wanted.items():
        subnet = found.get(subnet_id)
        if subnet is None or subnet["VpcId"] != network.vpc_id:
            where = "does not exist in this region" if subnet is None else f"is in {subnet['VpcId']}"
            yield Check(
                name=f"subnet {subnet_id}",
                status="fail",
                detail=where,
                fix=f"aws ec2 describe-subnets --filters Name=vpc-id,Values={network.vpc_id}",
            )
            continue
        if subnet["AvailabilityZone"] != zone:
            yield Check(
                name=f"subnet {subnet_id}",
                status="fail",
                detail=f"is in {subnet['AvailabilityZone']}, the stack file says {zone}",
                fix="correct `network.subnets` in the stack file",
            )
            continue
        yield _addresses(subnet, _addresses_needed(plan, zone))


def _addresses(subnet: Any, needed: int) -> Check:
    name, free = f"subnet {subnet['SubnetId']}", int(subnet["AvailableIpAddressCount"])
    detail = f"{free} free addresses, nodes and pods in {subnet['AvailabilityZone']} take up to {needed}"
    if free >= needed:
        return Check(name=name, status="ok", detail=detail)
    return Check(name=name, status="fail", detail=detail, fix="use a larger subnet of that zone, or fewer nodes")


def _addresses_needed(plan: Plan, zone: str) -> int:
    """Addresses that all nodes of a zone take at their maximum: interfaces, and one warm prefix beside the first."""
    needed = 0
    for pool in plan.pools:
        if zone in pool.zones:
            with_address = sum(one.interface_type != "efa-only" for one in pool.network_interfaces) or 1
            nodes = sum(rung.max_nodes for rung in pool.rungs if rung.zone in {None, zone})
            needed += nodes * (with_address + 2 * _PREFIX_ADDRESSES)
    if isinstance(plan.target, EksPlan):
        system = plan.target.system
        nodes = -(-system.max_nodes // max(1, len(plan.zones)))
        # Every pod of a full system node has an address, taken by the prefix.
        needed += nodes * (load().instances[system.instance_type].card0_enis + system.max_pods + _PREFIX_ADDRESSES)
    return needed


def check_endpoint(eks: Any, plan: Plan, target: EksPlan, *, reach: Reaches = reaches) -> Iterator[Check]:
    """Whether this machine can talk to the API server, where the cluster is there; else what it will take."""
    who = "from the VPC only" if not target.public_cidrs else f"from {', '.join(target.public_cidrs)} and the VPC"
    try:
        cluster = eks.describe_cluster(name=target.cluster_name)["cluster"]
    except aws.ERRORS as error:
        if aws.error_code(error) != "ResourceNotFoundException":
            raise
        fix = None if target.public_cidrs else f"run `make up` {_inside(plan)}"
        yield Check(
            name="endpoint",
            status="ok" if target.public_cidrs else "note",
            detail=f"the cluster is not there yet; its API server will answer {who}",
            fix=fix,
        )
        return
    host = urlsplit(str(cluster["endpoint"])).hostname or ""
    if reach(host, 443):
        yield Check(name="endpoint", status="ok", detail=f"the API server answers ({who})")
        return
    fix = "add this machine's address range to `target.endpoint.admin_cidrs` and run `make up` from where it works"
    yield Check(
        name="endpoint",
        status="fail",
        detail=f"the API server does not answer here; it does {who}",
        fix=fix if target.public_cidrs else f"work {_inside(plan)}",
    )


def _inside(plan: Plan) -> str:
    network = plan.network
    if isinstance(network, CreatedNetworkPlan) and network.connection_cidrs:
        return f"from {', '.join(network.connection_cidrs)}, behind {network.transit_gateway}"
    where = network.vpc_id if isinstance(network, ExistingNetworkPlan) else "the VPC"
    return f"from a runner inside {where} or a network that is connected to it"
