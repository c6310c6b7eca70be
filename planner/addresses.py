"""Whether addresses suffice: those of the subnets for nodes and pods, and those of the cluster's Services."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.plan import ZonePlan
from planner.problems import Findings
from settings.network import CreateNetwork
from settings.pools import ExistingPool, NodeRange, Pool
from settings.root import Settings
from settings.target import EksTarget

SYSTEM_NODE_PODS = 110
"""Pods of a system node with prefix delegation: EKS's value for nodes of less than 30 vCPUs."""

# AWS keeps five addresses of each subnet. Source: VPC user guide, "Subnet CIDR blocks".
_RESERVED = 5
# EKS asks for six free addresses in a subnet of its control plane. Source: EKS user guide, network requirements.
_CONTROL_PLANE = 6
# A prefix has 16 addresses, and the VPC CNI keeps one free prefix a node (WARM_PREFIX_TARGET=1, planner/target.py). The
# pods of a GPU node (models, agents, plugins) fit one prefix; EFA-only interfaces take no address. Source: VPC CNI,
# prefix mode.
_PREFIX = 16
_GPU_NODE = 1 + 2 * _PREFIX

# EKS takes a Service range of /12 to /24. Source: EKS API, KubernetesNetworkConfigRequest.
_SERVICE_PREFIXES = range(12, 25)
_PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Addresses that something of a zone takes when it is as large as the stack file allows."""

    what: str
    addresses: int


def check_subnets(settings: Settings, zones: Sequence[ZonePlan], *, endpoints: int, findings: Findings) -> None:
    """Refuses a VPC whose private subnets are too small for the nodes and pods that may come.

    Args:
        settings: the stack file.
        zones: zones with their private ranges.
        endpoints: interface endpoints, each with an address in every zone.
        findings: takes one problem, of the zone that lacks most.
    """
    worst: tuple[int, str] | None = None
    for zone in zones:
        room = ipaddress.IPv4Network(zone.private_cidr).num_addresses - _RESERVED
        needs = _needs(settings, zone, zones, endpoints=endpoints)
        total = sum(need.addresses for need in needs)
        if total > room and (worst is None or total - room > worst[0]):
            parts = ", ".join(f"{need.what} {need.addresses}" for need in needs)
            worst = (
                total - room,
                f"{zone.zone} has {room} addresses ({zone.private_cidr}) and may need {total}: {parts}",
            )
    if worst is not None:
        findings.problem(
            ("network", "cidr"), worst[1], "use a larger range, such as a /16, or lower `nodes.max` of the pools"
        )


def _needs(settings: Settings, zone: ZonePlan, zones: Sequence[ZonePlan], *, endpoints: int) -> list[Need]:
    needs: list[Need] = []
    for pool in settings.pools:
        if not isinstance(pool, ExistingPool) and zone.zone in pool.zones:
            nodes = _most_nodes(pool)
            needs.append(Need(what=f"{nodes} nodes of `{pool.name}`", addresses=nodes * _GPU_NODE))
    if zone.control_plane and isinstance(settings.target, EksTarget):
        homes = sum(other.control_plane for other in zones)
        nodes = math.ceil(settings.target.system_nodes.max / homes)
        prefixes = math.ceil(SYSTEM_NODE_PODS / _PREFIX) + 1
        needs.append(Need(what=f"{nodes} system nodes", addresses=nodes * (1 + prefixes * _PREFIX)))
        needs.append(Need(what="the control plane", addresses=_CONTROL_PLANE))
    if endpoints:
        needs.append(Need(what="VPC endpoints", addresses=endpoints))
    return needs


def _most_nodes(pool: Pool) -> int:
    if isinstance(pool, ExistingPool):
        return 0
    return sum(rung.nodes.max if isinstance(rung.nodes, NodeRange) else rung.nodes for rung in pool.capacity)


def check_services(settings: Settings, findings: Findings) -> None:
    """Refuses a range of Services that EKS does not take, or that hides machines which pods must reach."""
    target, network = settings.target, settings.network
    if not isinstance(target, EksTarget):
        return
    path = ("target", "service_cidr")
    services = _network(target.service_cidr)
    if services is None:
        findings.problem(path, f"`{target.service_cidr}` is not a network", "write its first address: 172.20.0.0/16")
        return
    if services.prefixlen not in _SERVICE_PREFIXES or not any(services.subnet_of(private) for private in _PRIVATE):
        findings.problem(
            path,
            f"EKS takes a range of /12 to /24 of private addresses for Services, not {services}",
            "172.20.0.0/16 is the usual one",
        )
        return
    if not isinstance(network, CreateNetwork):
        return
    given = [("the VPC's", network.cidr)]
    given += [("the connection's", text) for text in (network.connection.cidrs if network.connection else ())]
    for whose, text in given:
        other = _network(text)
        if other is not None and other.overlaps(services):
            findings.problem(
                path,
                f"{services} overlaps {whose} {text}: pods would take machines there for Services",
                "set another range that nobody routes, such as 10.100.0.0/16 or 172.20.0.0/16",
            )
            return


def _network(text: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        return None
