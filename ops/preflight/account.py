"""What the account itself must have: service-linked roles, add-ons of the pinned builds, keys and buckets in reach."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Final, Protocol

from catalog.types import KubernetesVersion
from ops import aws
from ops.checks import Check
from planner import Plan
from planner.plan import AddonPlan, EksPlan

# Service -> role. Source: service-linked role pages of each service's user guide.
_ROLES: Final = {
    "eks.amazonaws.com": "AWSServiceRoleForAmazonEKS",
    "eks-nodegroup.amazonaws.com": "AWSServiceRoleForAmazonEKSNodegroup",
    "autoscaling.amazonaws.com": "AWSServiceRoleForAutoScaling",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
    "fsx.amazonaws.com": "AWSServiceRoleForAmazonFSx",
    "elasticloadbalancing.amazonaws.com": "AWSServiceRoleForElasticLoadBalancing",
}
_UPGRADE_NOTICE_DAYS: Final = 60
"""Time to try an upgrade in dev and staging before it is due in prod."""
_BUILD = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-eksbuild\.(\d+))?")


class AddonBuilds(Protocol):
    """Builds of EKS add-ons; moto has none, so tests bring their own."""

    def of(self, addon: str, kubernetes_version: str) -> Sequence[str]:
        """Builds that EKS offers for a Kubernetes version, newest first; empty for a name it does not know."""
        ...


class EksAddonBuilds:
    """What EKS says."""

    def __init__(self, region: str) -> None:
        self._client = aws.client("eks", region)

    def of(self, addon: str, kubernetes_version: str) -> Sequence[str]:
        """See `AddonBuilds.of`."""
        pages = self._client.get_paginator("describe_addon_versions").paginate(
            addonName=addon, kubernetesVersion=kubernetes_version
        )
        return [
            str(build["addonVersion"]) for page in pages for found in page["addons"] for build in found["addonVersions"]
        ]


def needed_roles(plan: Plan) -> tuple[str, ...]:
    """Services whose linked roles the plan's resources use."""
    kinds = {rung.kind for pool in plan.pools for rung in pool.rungs}
    needed = ["eks.amazonaws.com", "eks-nodegroup.amazonaws.com", "autoscaling.amazonaws.com"]
    if "spot" in kinds:
        needed.append("spot.amazonaws.com")
    if plan.cache.fsx is not None:
        needed.append("fsx.amazonaws.com")
    if "aws-load-balancer-controller" in plan.charts:
        needed.append("elasticloadbalancing.amazonaws.com")
    return tuple(needed)


def check_roles(iam: Any, plan: Plan) -> Iterator[Check]:
    """Whether each linked role is there. AWS makes most on first use, if the caller may; spot asked for by a
    controller is where that fails."""
    for service in needed_roles(plan):
        role = _ROLES[service]
        try:
            iam.get_role(RoleName=role)
        except aws.ERRORS as error:
            if aws.error_code(error) != "NoSuchEntity":
                raise
            yield Check(
                name=f"role {role}",
                status="note",
                detail=f"not there yet: {service} makes it on first use, where the caller may",
                fix=f"aws iam create-service-linked-role --aws-service-name {service}",
            )
        else:
            yield Check(name=f"role {role}", status="ok", detail=service)


def check_support(target: EksPlan, releases: Mapping[str, KubernetesVersion], today: date) -> Iterator[Check]:
    """How long the cluster's Kubernetes version is supported: at its end EKS upgrades the control plane by itself."""
    release = releases[target.kubernetes_version]
    ends = release.end_of_standard_support
    days = (ends - today).days
    newer = [name for name, other in releases.items() if other.end_of_standard_support > ends]
    move = f"move to {newer[0]} (`target.kubernetes_version`), dev first" if newer else "add a newer one to the catalog"
    yield Check(
        name=f"Kubernetes {release.name}",
        status="fail" if days < 0 else "note" if days < _UPGRADE_NOTICE_DAYS else "ok",
        detail=f"standard support until {ends.isoformat()}: after that EKS upgrades the control plane unasked",
        fix=move if days < _UPGRADE_NOTICE_DAYS else None,
    )


def check_addons(builds: AddonBuilds, target: EksPlan) -> Iterator[Check]:
    """Each add-on's pinned or least build against what EKS offers for the cluster's version."""
    for addon in target.addons:
        yield _addon(addon, builds.of(addon.name, target.kubernetes_version), target.kubernetes_version)


def _addon(addon: AddonPlan, offered: Sequence[str], kubernetes_version: str) -> Check:
    name = f"add-on {addon.name}"
    if not offered:
        return Check(
            name=name,
            status="fail",
            detail=f"EKS offers no build for Kubernetes {kubernetes_version} here",
            fix="choose another `target.kubernetes_version`, or another region",
        )
    if addon.version is not None:
        if addon.version in offered:
            return Check(name=name, status="ok", detail=f"{addon.version}")
        return Check(
            name=name,
            status="fail",
            detail=f"the pinned build {addon.version} is not offered for Kubernetes {kubernetes_version}",
            fix=f"pin one of {', '.join(offered[:3])} in catalog/versions.yaml",
        )
    newest = max(offered, key=build)
    least = addon.minimum_version
    if least is not None and build(newest) < build(least):
        return Check(
            name=name,
            status="fail",
            detail=f"the newest build is {newest}, and the plan needs {least} at least",
            fix="choose a newer `target.kubernetes_version`, or another region",
        )
    return Check(name=name, status="ok", detail=f"up to {newest}{f', needs {least}' if least else ''}")


def build(version: str) -> tuple[int, ...]:
    """`v1.18.5-eksbuild.2` as numbers that compare; raises ValueError for anything else."""
    found = _BUILD.fullmatch(version)
    if found is None:
        raise ValueError(f"{version} is no add-on build")
    return tuple(int(part or 0) for part in found.groups())


def check_reach(kms: Any, s3: Any) -> Iterator[Check]:
    """Whether the caller reaches the two services that hold the weights; neither answer changes anything."""
    kms.list_aliases(Limit=1)
    yield Check(name="kms", status="ok", detail="answers the caller")
    s3.list_buckets(MaxBuckets=1)
    yield Check(name="s3", status="ok", detail="answers the caller")


def check_budget(budgets: Any, account_id: str, plan: Plan) -> Iterator[Check]:
    """What the plan may cost at its worst, and whether anybody would be told."""
    cost = plan.cost
    worst = f"at its peak {cost.peak_usd_per_hour:,.0f} $/h, {cost.peak_usd_per_month:,.0f} $ in the worst month"
    if cost.budget_monthly_usd is None:
        yield Check(
            name="budget",
            status="note",
            detail=f"the stack file has none; {worst}",
            fix="set `budget: {monthly_usd: ..., notify: [you@example.com]}`: a plan above it is refused",
        )
    else:
        yield Check(name="budget", status="ok", detail=f"{cost.budget_monthly_usd:,.0f} $ a month; {worst}")
    pages = budgets.get_paginator("describe_budgets").paginate(AccountId=account_id)
    names = [item["BudgetName"] for page in pages for item in page.get("Budgets", [])]
    if names or plan.spend_guard is not None:
        told = f"{len(names)} in the account" + ("; this stack makes its own" if plan.spend_guard else "")
        yield Check(name="aws budgets", status="ok", detail=told)
    else:
        yield Check(
            name="aws budgets",
            status="note",
            detail="none in the account: nobody is told of a bill that grows",
            fix="set `budget.notify` in the stack file",
        )
