"""vCPUs that a plan takes against EC2's quotas, and what the account has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from catalog.load import load
from catalog.types import Instance
from ops import aws
from ops.checks import Check
from planner import Plan
from planner.plan import EksPlan, PoolPlan, RungPlan

_PLATFORM: Final = "Linux/UNIX"
"""Of the EKS images; a reservation for another one is not filled by them. Source: EC2 API, CapacityReservation."""


class Quotas(Protocol):
    """Service Quotas of EC2; moto has none, so tests bring their own."""

    def vcpus(self, code: str) -> float | None:
        """The account's limit in vCPUs; None where there is no quota of that code in the region."""
        ...


class ServiceQuotas:
    """The account's own."""

    def __init__(self, region: str) -> None:
        self._client = aws.client("service-quotas", region)

    def vcpus(self, code: str) -> float | None:
        """See `Quotas.vcpus`: the applied value, or AWS' default where none was applied."""
        for ask in (self._client.get_service_quota, self._client.get_aws_default_service_quota):
            try:
                return float(ask(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
            except aws.ERRORS as error:
                if aws.error_code(error) != "NoSuchResourceException":
                    raise
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a plan takes of one quota."""

    code: str
    peak_vcpus: int
    """With every node group at its maximum."""
    users: tuple[str, ...]
    """Node groups that count against it."""


def quota_code(instance: Instance, rung: RungPlan) -> str | None:
    """The quota that a rung counts against; capacity blocks and nodes that exist count against none."""
    return {
        "spot": instance.quota_spot,
        "on_demand": instance.quota_on_demand,
        "capacity_reservation": instance.quota_on_demand,
    }.get(rung.kind)


def demands(plan: Plan) -> tuple[Demand, ...]:
    """Peak vCPUs by quota, the system nodes among them."""
    instances = load().instances
    found: dict[str, list[tuple[str, int]]] = {}
    if isinstance(plan.target, EksPlan):
        system = plan.target.system
        code = instances[system.instance_type].quota_on_demand
        found.setdefault(code, []).append(("system nodes", system.max_nodes * system.vcpus))
    for pool in plan.pools:
        for rung in pool.rungs:
            code = quota_code(instances[pool.hardware.instance_type], rung) if pool.hardware.instance_type else None
            if code is not None:
                found.setdefault(code, []).append((rung.name, rung.max_nodes * pool.peak_vcpus_per_node))
    return tuple(
        Demand(code=code, peak_vcpus=sum(count for _, count in users), users=tuple(name for name, _ in users))
        for code, users in sorted(found.items())
    )


def check_quotas(plan: Plan, quotas: Quotas, region: str) -> Iterator[Check]:
    """Each quota against the peak, then each pool against what one replica needs."""
    limits: dict[str, float | None] = {}
    for demand in demands(plan):
        limit = limits[demand.code] = quotas.vcpus(demand.code)
        yield _against_peak(demand, limit, region)
    for pool in plan.pools:
        yield from _starts(plan, pool, limits, region)


def _against_peak(demand: Demand, limit: float | None, region: str) -> Check:
    name, users = f"quota {demand.code}", ", ".join(demand.users)
    if limit is None:
        return Check(
            name=name,
            status="unknown",
            detail=f"{region} tells no such quota; the plan takes up to {demand.peak_vcpus} vCPUs of it ({users})",
            fix=f"look it up: aws service-quotas list-service-quotas --service-code ec2 --region {region}",
        )
    if limit < demand.peak_vcpus:
        return Check(
            name=name,
            status="note",
            detail=f"{limit:.0f} vCPUs, the plan's peak is {demand.peak_vcpus} ({users}): it will not scale that far",
            fix=_increase(demand.code, demand.peak_vcpus, region),
        )
    return Check(name=name, status="ok", detail=f"{limit:.0f} vCPUs for a peak of {demand.peak_vcpus} ({users})")


def _starts(plan: Plan, pool: PoolPlan, limits: Mapping[str, float | None], region: str) -> Iterator[Check]:
    """A pool none of whose rungs may hold one replica never serves."""
    if pool.hardware.instance_type is None:
        return
    instance = load().instances[pool.hardware.instance_type]
    nodes = max((model.layout.nodes for model in plan.models if model.pool == pool.name), default=1)
    needed = nodes * pool.hardware.vcpus
    best: str | None = None
    for rung in pool.rungs:
        code = quota_code(instance, rung)
        limit = limits.get(code) if code is not None else None
        if code is None or limit is None or limit >= needed:
            return
        best = best or code
    if best is not None:
        yield Check(
            name=f"pool {pool.name}",
            status="fail",
            detail=f"no quota of its rungs allows {nodes} x {instance.name} ({needed} vCPUs), what one replica needs",
            fix=_increase(best, needed, region),
        )


def _increase(code: str, vcpus: int, region: str) -> str:
    return (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} "
        f"--desired-value {vcpus} --region {region}"
    )


class Reservations(Protocol):
    """Capacity reservations; moto has none, so tests bring their own."""

    def describe(self, reservation: str) -> Mapping[str, Any] | None:
        """EC2's record of a reservation; None where the account has none of that id."""
        ...


class Ec2Reservations:
    """The account's own."""

    def __init__(self, region: str) -> None:
        self._client = aws.client("ec2", region)

    def describe(self, reservation: str) -> Mapping[str, Any] | None:
        """See `Reservations.describe`."""
        try:
            found = self._client.describe_capacity_reservations(CapacityReservationIds=[reservation])
        except aws.ERRORS as error:
            if aws.error_code(error).startswith("InvalidCapacityReservationId"):
                return None
            raise
        return next(iter(found["CapacityReservations"]), None)


def check_reservations(plan: Plan, reservations: Reservations) -> Iterator[Check]:
    """Each capacity block against the rung that uses it."""
    for pool in plan.pools:
        for rung in pool.rungs:
            if rung.reservation is not None:
                yield _reservation(pool, rung, reservations.describe(rung.reservation))


def _reservation(pool: PoolPlan, rung: RungPlan, found: Mapping[str, Any] | None) -> Check:
    name = f"reservation {rung.reservation}"
    if found is None:
        return Check(
            name=name,
            status="fail",
            detail="the account has none of that id in this region",
            fix="buy a block (`aws ec2 describe-capacity-block-offerings`) or remove the rung from the stack file",
        )
    wrong = [
        f"{what} is {found.get(key)}, the stack file says {wanted}"
        for what, key, wanted in (
            ("its type", "InstanceType", pool.hardware.instance_type),
            ("its zone", "AvailabilityZone", rung.zone or pool.zone),
            ("its platform", "InstancePlatform", _PLATFORM),
        )
        if found.get(key, wanted if key == "InstancePlatform" else None) != wanted
    ]
    wrong += _group_mismatch(rung, str(found.get("PlacementGroupArn") or "").rpartition("/")[2] or None)
    if int(found.get("TotalInstanceCount", 0)) < rung.max_nodes:
        wrong.append(f"it has {found.get('TotalInstanceCount')} instances, the rung {rung.max_nodes} nodes")
    state = str(found.get("State"))
    if state in {"expired", "cancelled", "failed", "payment-failed", "unsupported"}:
        wrong.append(f"it is {state}")
    end = found.get("EndDate")
    late = _late(rung, end)
    if late is not None and rung.ends is not None:
        wrong.append(late)
    if wrong:
        return Check(
            name=name,
            status="fail",
            detail="; ".join(wrong),
            fix=f"correct rung `{rung.name}` in the stack file, or buy the block that it names",
        )
    ends = f", ends {end:%Y-%m-%d %H:%M} UTC" if end else ""
    free = found.get("AvailableInstanceCount")
    left = f", {free} free" if free is not None else ""
    if late is not None and end:
        return Check(
            name=name,
            status="note",
            detail=f"{state}{left}{ends}; {late}",
            fix=f'set `ends: "{end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"` of rung `{rung.name}`',
        )
    if state != "active":
        return Check(
            name=name,
            status="note",
            detail=f"{state}, starts {found.get('StartDate')}{ends}",
            fix="until it is active, models start on the next rung of the ladder",
        )
    return Check(name=name, status="ok", detail=f"active, {found['TotalInstanceCount']} instances{left}{ends}")


def _group_mismatch(rung: RungPlan, group: str | None) -> list[str]:
    """A reservation made in a placement group is filled from that group alone, any other from none."""
    if group == rung.placement_group_name:
        return []
    if group is None:
        return [f"it is in no placement group, the stack file says {rung.placement_group_name}"]
    wanted = rung.placement_group_name or "none"
    return [f"it is in placement group {group}, the stack file says {wanted}: nothing launched elsewhere fills it"]


def _late(rung: RungPlan, end: datetime | None) -> str | None:
    """Why the groups of a rung would be cut off at its end instead of leaving before it; None where they leave."""
    if end is None:
        return None
    if rung.ends is None:
        return "the stack file does not say so: EKS and EC2 end its nodes under running requests"
    if datetime.fromisoformat(rung.ends) > end:
        return f"it ends {end:%Y-%m-%d %H:%M} UTC, the stack file says {rung.ends}: groups would leave too late"
    return None
