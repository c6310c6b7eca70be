"""Zones and address ranges of the network."""

from __future__ import annotations

import ipaddress

from catalog.types import Region
from planner.addresses import check_services, check_subnets
from planner.plan import (
    CreatedNetworkPlan,
    ExistingNetworkPlan,
    ExistingSubnetPlan,
    ZonePlan,
)
from planner.problems import Findings
from settings.network import CreateNetwork, ExistingNetwork
from settings.root import Settings
from settings.target import EksTarget, PrivateEndpoint

# Three zones let the system nodes survive the loss of one; EKS itself asks for two.
_WANTED_ZONES = 3
_PREFIX_RANGE = range(16, 21)

# Services that nodes without internet call. Source: EKS user guide, private clusters; facts: there is none for iam.
INTERFACE_ENDPOINTS = (
    "autoscaling",
    "ec2",
    "ecr.api",
    "ecr.dkr",
    "eks",
    "eks-auth",
    "elasticloadbalancing",
    "fsx",
    "kms",
    "logs",
    "secretsmanager",
    "ssm",
    "ssmmessages",  # sessions: nodes have no SSH key
    "sts",
)


def plan_network(
    settings: Settings, region: Region | None, pool_zones: tuple[str, ...], findings: Findings
) -> CreatedNetworkPlan | ExistingNetworkPlan | None:
    """The network of an EKS target; None for a cluster that exists, or where the region is not known."""
    if not isinstance(settings.target, EksTarget):
        if settings.network is not None:
            findings.problem(
                ("network",), "an existing cluster has its network already", "remove `network`, or use target kind eks"
            )
        return None
    if settings.network is None:
        findings.problem(("network",), "is missing", "an EKS target needs `network: {kind: create}` or an existing VPC")
        return None
    _check_endpoint(settings.target, settings.network, findings)
    check_services(settings, findings)
    if region is None:
        return None
    if isinstance(settings.network, ExistingNetwork):
        return _existing(settings.network, settings, region, findings)
    return _created(settings.network, settings, region, pool_zones, findings)


def _check_endpoint(target: EksTarget, network: CreateNetwork | ExistingNetwork, findings: Findings) -> None:
    if not isinstance(target.endpoint, PrivateEndpoint) or isinstance(network, ExistingNetwork):
        return
    if network.connection is None:
        findings.problem(
            ("target", "endpoint"),
            "nobody can reach a private endpoint inside a VPC that this stack has yet to make",
            "declare `network.connection` (a transit gateway), use an existing VPC that your runner reaches, or "
            "`access: public_and_private` with your address range",
        )


def _existing(network: ExistingNetwork, settings: Settings, region: Region, findings: Findings) -> ExistingNetworkPlan:
    zones = {subnet.availability_zone for subnet in network.subnets}
    for index, subnet in enumerate(network.subnets):
        if subnet.availability_zone not in zone_names(region):
            findings.problem(
                ("network", "subnets", index, "availability_zone"),
                f"`{subnet.availability_zone}` is not a zone of {region.name}",
                "zones: " + ", ".join(zone_names(region)),
            )
    for index, pool in enumerate(settings.pools):
        if pool.provisioner == "existing":
            continue
        for zone in pool.zones:
            if zone not in zones:
                findings.problem(
                    ("pools", index, "availability_zones" if pool.availability_zones else "availability_zone"),
                    f"the network has no subnet in `{zone}`",
                    "add a subnet of that zone to `network.subnets`",
                )
    control_plane = {zone.name: zone.control_plane for zone in region.zones}
    usable = [zone for zone in zones if control_plane.get(zone, True)]
    if len(usable) < 2:
        findings.problem(
            ("network", "subnets"),
            "EKS places no control plane in all but one of these zones",
            "add a subnet in one of: " + ", ".join(zone.name for zone in region.zones if zone.control_plane),
        )
    return ExistingNetworkPlan(
        vpc_id=network.vpc,
        subnets=tuple(
            ExistingSubnetPlan(
                subnet_id=subnet.id,
                zone=subnet.availability_zone,
                control_plane=control_plane.get(subnet.availability_zone, True),
            )
            for subnet in network.subnets
        ),
    )


def _created(
    network: CreateNetwork, settings: Settings, region: Region, pool_zones: tuple[str, ...], findings: Findings
) -> CreatedNetworkPlan | None:
    cidr = _parse(network.cidr, ("network", "cidr"), findings)
    if cidr is None:
        return None
    if cidr.prefixlen not in _PREFIX_RANGE:
        findings.problem(
            ("network", "cidr"),
            f"/{cidr.prefixlen} is not between /16 and /20",
            "each GPU node and each pod takes addresses: /16 is the usual choice",
        )
        return None
    if not cidr.is_private:
        findings.problem(("network", "cidr"), f"{cidr} is not a private range", "use a part of 10.0.0.0/8")
    connection_cidrs: tuple[str, ...] = ()
    if network.connection is not None:
        connection_cidrs = tuple(network.connection.cidrs)
        for index, text in enumerate(network.connection.cidrs):
            other = _parse(text, ("network", "connection", "cidrs", index), findings)
            if other is not None and other.overlaps(cidr):
                findings.problem(
                    ("network", "connection", "cidrs", index),
                    f"{text} overlaps the VPC's own {cidr}",
                    "choose another `network.cidr`",
                )
    internet = network.egress != "vpc_endpoints"
    if not internet and settings.images.mirror is None:
        findings.problem(
            ("network", "egress"),
            "without internet, nodes cannot pull images from their public registries",
            "set `images.mirror` to a registry that the VPC endpoints reach, such as ECR in this region",
        )
    home = home_zones(region)
    blocks = list(cidr.subnets(prefixlen_diff=3))
    public_blocks = list(blocks[-1].subnets(new_prefix=min(blocks[-1].prefixlen + 5, 28)))
    nat_in_all = network.egress == "nat_gateway_per_zone"
    plans = tuple(
        # Block and gateway follow from the zone alone: a subnet that changes its range is replaced, and with it the
        # nodes in it, so pools that come and go must move no zone.
        ZonePlan(
            zone=zone,
            private_cidr=str(blocks[index]),
            public_cidr=str(public_blocks[index]) if internet else None,
            nat_gateway=internet and (nat_in_all or zone == home[0]),
            control_plane=zone in home,
        )
        for index, zone in enumerate(zone_names(region))
        if zone in home or zone in pool_zones
    )
    endpoints = () if internet else _endpoints(settings)
    check_subnets(settings, plans, endpoints=len(endpoints), findings=findings)
    return CreatedNetworkPlan(
        cidr=str(cidr),
        zones=plans,
        interface_endpoints=endpoints,
        transit_gateway=network.connection.transit_gateway if network.connection else None,
        connection_cidrs=connection_cidrs,
        flow_log_retention_days=network.flow_log_retention_days,
    )


def _endpoints(settings: Settings) -> tuple[str, ...]:
    """Karpenter reads its interruption queue."""
    karpenter = any(pool.provisioner == "karpenter" for pool in settings.pools)
    return (*INTERFACE_ENDPOINTS, *(("sqs",) if karpenter else ()))


def zone_names(region: Region) -> tuple[str, ...]:
    """Names of a region's zones."""
    return tuple(zone.name for zone in region.zones)


def home_zones(region: Region) -> tuple[str, ...]:
    """Zones of the control plane and of the system nodes: the region's first three that EKS supports, in every plan."""
    return tuple(zone.name for zone in region.zones if zone.control_plane)[:_WANTED_ZONES]


def _parse(text: str, path: tuple[str | int, ...], findings: Findings) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        reason = str(error).removeprefix(f"{text} ")
        findings.problem(path, f"`{text}` is not a network: {reason}", "write the first address, as in 10.20.0.0/16")
        return None


def control_plane_zones(network: CreatedNetworkPlan | ExistingNetworkPlan | None) -> tuple[str, ...]:
    """Zones of a network that EKS places its control plane in."""
    if isinstance(network, CreatedNetworkPlan):
        return tuple(zone.zone for zone in network.zones if zone.control_plane)
    if isinstance(network, ExistingNetworkPlan):
        return tuple(subnet.zone for subnet in network.subnets if subnet.control_plane)
    return ()
