"""The verb: asks everything, tells what fails first, and what an hour of it costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from catalog.load import load
from ops import aws, doctor_aws
from ops.checks import Check, asked
from ops.console import OK, out, print_json, table
from ops.doctor import CREDENTIALS, MARKS, exit_code
from ops.errors import MissingError
from ops.preflight import account, market
from ops.project import plan_of, region_of
from ops.quotas import Ec2Reservations, Quotas, Reservations, ServiceQuotas, check_quotas, check_reservations
from ops.revisions import staged_checks
from planner import Plan
from planner.plan import EksPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where answers come from that a test cannot have from moto."""

    quotas: Quotas
    reservations: Reservations
    placement: market.PlacementScores
    addons: account.AddonBuilds


def own_sources(region: str) -> Sources:
    """The account's own."""
    return Sources(
        quotas=ServiceQuotas(region),
        reservations=Ec2Reservations(region),
        placement=market.Ec2PlacementScores(region),
        addons=account.EksAddonBuilds(region),
    )


def show_preflight(stack: str, *, as_json: bool, sources: Sources | None = None) -> int:
    """Ask and print; 1 where something fails, 3 where AWS could not be asked at all."""
    plan = plan_of(stack)
    region = region_of(plan)
    checks = examine(plan, region, sources)
    cost = plan.cost
    if as_json:
        print_json(
            {
                "stack": stack,
                "ok": exit_code(checks) == OK,
                "checks": checks,
                "at_risk": {
                    "base_usd_per_hour": cost.base_usd_per_hour,
                    "peak_usd_per_hour": cost.peak_usd_per_hour,
                    "peak_usd_per_month": cost.peak_usd_per_month,
                    "budget_monthly_usd": cost.budget_monthly_usd,
                },
            }
        )
        return exit_code(checks)
    rows = [(MARKS[one.status], one.name, one.detail) for one in checks]
    out.print(table(f"{stack}: before the first dollar", ("", "what", "finding"), rows))
    for one in checks:
        if one.fix is not None:
            out.print(f"\n{one.name}: {one.detail}\n  fix: {one.fix}", markup=False, soft_wrap=True)
    out.print(
        f"\nat risk: {cost.base_usd_per_hour:,.2f} $/h from the start, up to {cost.peak_usd_per_hour:,.2f} $/h",
        markup=False,
    )
    return exit_code(checks)


def examine(plan: Plan, region: str, sources: Sources | None = None) -> list[Check]:
    """Every question; only one answer where nobody is signed in."""
    try:
        arn = doctor_aws.caller(region)
        ec2 = aws.client("ec2", region)
        found = sources or own_sources(region)
    except (*aws.ERRORS, MissingError) as error:
        told = error if isinstance(error, MissingError) else aws.explained(error)
        return [Check(name=CREDENTIALS, status="fail", detail=str(told.args[0]), fix=told.help)]
    target = plan.target
    if not isinstance(target, EksPlan):
        raise TypeError("region_of lets only EKS targets through")
    account_id = arn.split(":")[4]
    return [
        *_account(arn, target),
        *account.check_support(target, load().versions.kubernetes, datetime.now(UTC).date()),
        *doctor_aws.check_admin(arn, target.admins),
        *asked("region", lambda: doctor_aws.check_region(ec2, region), permission="ec2:DescribeRegions"),
        *asked(
            "offerings", lambda: doctor_aws.check_offerings(ec2, plan), permission="ec2:DescribeInstanceTypeOfferings"
        ),
        *asked("quotas", lambda: check_quotas(plan, found.quotas, region), permission="servicequotas:GetServiceQuota"),
        *asked(
            "reservations",
            lambda: check_reservations(plan, found.reservations),
            permission="ec2:DescribeCapacityReservations",
        ),
        *asked("spot", lambda: market.check_market(ec2, plan), permission="ec2:DescribeSpotPriceHistory"),
        *asked(
            "placement",
            lambda: market.check_placement(found.placement, plan),
            permission="ec2:GetSpotPlacementScores",
        ),
        *asked("subnets", lambda: doctor_aws.check_network(ec2, plan), permission="ec2:DescribeSubnets"),
        *asked("roles", lambda: account.check_roles(aws.client("iam", region), plan), permission="iam:GetRole"),
        *asked("add-ons", lambda: account.check_addons(found.addons, target), permission="eks:DescribeAddonVersions"),
        *asked(
            "keys and buckets",
            lambda: account.check_reach(aws.client("kms", region), aws.client("s3", region)),
            permission="kms:ListAliases, s3:ListAllMyBuckets",
        ),
        *asked("weights", lambda: staged_checks(plan, region), permission="s3:ListBucket, s3:GetObject"),
        *asked(
            "budget",
            lambda: account.check_budget(aws.client("budgets", region), account_id, plan),
            permission="budgets:ViewBudget",
        ),
    ]


def _account(arn: str, target: EksPlan) -> list[Check]:
    """Whether the credentials are of the stack's account."""
    mine = arn.split(":")[4]
    if target.account_id is None:
        return [
            Check(
                name="account",
                status="note",
                detail=f"{mine}; the stack file names none, so any credentials would do",
                fix=f'set `target.account_id: "{mine}"`',
            )
        ]
    if mine != target.account_id:
        return [
            Check(
                name="account",
                status="fail",
                detail=f"the credentials are of {mine}, the stack is of {target.account_id}",
                fix=f"use credentials of {target.account_id}",
            )
        ]
    return [Check(name="account", status="ok", detail=mine)]
