"""`doctor`: what would go wrong with a stack on this machine and in this account, before anything is spent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ops import aws, doctor_aws, doctor_local
from ops.checks import Check, asked
from ops.console import ENVIRONMENT, FINDINGS, OK, PROJECT_DIRECTORY, out, print_json, table
from ops.errors import MissingError
from ops.project import plan_of
from ops.quotas import Ec2Reservations, Quotas, Reservations, ServiceQuotas, check_quotas, check_reservations
from ops.revisions import staged_checks
from planner import Plan
from planner.plan import EksPlan, ExistingClusterPlan
from rehearsal.controlplane.binaries import BUILD_BYTES
from rehearsal.controlplane.pins import cache_directory
from settings.load import stack_file

MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "fail": "[red]fail[/red]", "unknown": "?"}
CREDENTIALS = "credentials"


def show_doctor(stack: str, *, as_json: bool) -> int:
    """Ask everything and print the answers; 3 where AWS could not be asked at all."""
    plan = plan_of(stack)
    checks = examine(plan)
    if as_json:
        print_json({"stack": stack, "ok": all(one.status != "fail" for one in checks), "checks": checks})
    else:
        rows = [(MARKS[one.status], one.name, one.detail) for one in checks]
        out.print(table(f"{stack}: is everything there?", ("", "what", "finding"), rows))
        for one in checks:
            if one.fix is not None:
                out.print(f"\n{one.name}: {one.detail}\n  fix: {one.fix}", markup=False, soft_wrap=True)
    return exit_code(checks)


def exit_code(checks: list[Check]) -> int:
    """3 where the caller is unknown to AWS, 1 for other failures, 0 for notes."""
    failed = {one.name for one in checks if one.status == "fail"}
    if CREDENTIALS in failed:
        return ENVIRONMENT
    return FINDINGS if failed else OK


def examine(plan: Plan) -> list[Check]:
    """Every question, this machine's first."""
    checks = [*doctor_local.check_tools(plan), *_machine()]
    file = stack_file(PROJECT_DIRECTORY, plan.stack)
    checks += [*doctor_local.check_placeholders(file), *doctor_local.check_secrets(plan, file)]
    if isinstance(plan.target, EksPlan) and plan.region is not None:
        checks += examine_account(plan, plan.target, plan.region)
    elif isinstance(plan.target, ExistingClusterPlan):
        checks += _existing_cluster(plan.target)
    return checks


def _machine() -> Iterator[Check]:
    cache = cache_directory()
    yield from doctor_local.check_machine(
        cache,
        BUILD_BYTES,
        has_go=shutil.which("go") is not None,
        has_programs=any(cache.glob("**/kube-apiserver")),
    )


def examine_account(
    plan: Plan,
    target: EksPlan,
    region: str,
    *,
    quotas: Quotas | None = None,
    reservations: Reservations | None = None,
    reach: doctor_aws.Reaches = doctor_aws.reaches,
) -> list[Check]:
    """What AWS says about the plan; only one answer where nobody is signed in."""
    try:
        arn = doctor_aws.caller(region)
        ec2, eks = aws.client("ec2", region), aws.client("eks", region)
    except (*aws.ERRORS, MissingError) as error:
        told = error if isinstance(error, MissingError) else aws.explained(error)
        return [Check(name=CREDENTIALS, status="fail", detail=str(told.args[0]), fix=told.help)]
    held, limits = reservations or Ec2Reservations(region), quotas or ServiceQuotas(region)
    return [
        *doctor_aws.check_admin(arn, target.admins),
        *asked("region", lambda: doctor_aws.check_region(ec2, region), permission="ec2:DescribeRegions"),
        *asked(
            "offerings", lambda: doctor_aws.check_offerings(ec2, plan), permission="ec2:DescribeInstanceTypeOfferings"
        ),
        *asked("quotas", lambda: check_quotas(plan, limits, region), permission="servicequotas:GetServiceQuota"),
        *asked("reservations", lambda: check_reservations(plan, held), permission="ec2:DescribeCapacityReservations"),
        *asked("spot", lambda: doctor_aws.check_spot(ec2, plan), permission="ec2:DescribeSpotPriceHistory"),
        *asked("weights", lambda: staged_checks(plan, region), permission="s3:ListBucket, s3:GetObject"),
        *asked("subnets", lambda: doctor_aws.check_network(ec2, plan), permission="ec2:DescribeSubnets"),
        *asked(
            "endpoint",
            lambda: doctor_aws.check_endpoint(eks, plan, target, reach=reach),
            permission="eks:DescribeCluster",
        ),
    ]


def _existing_cluster(target: ExistingClusterPlan) -> Iterator[Check]:
    kubeconfig = Path(target.kubeconfig).expanduser()
    if kubeconfig.is_file():
        yield Check(name="kubeconfig", status="ok", detail=str(kubeconfig))
    else:
        yield Check(
            name="kubeconfig",
            status="fail",
            detail=f"{kubeconfig} does not exist",
            fix="correct `target.kubeconfig` in the stack file, or write it with your cluster's own tool",
        )
