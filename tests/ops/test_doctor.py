"""`doctor`: what it finds on this machine and in an account of moto's; quotas and reservations are played."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ops import aws as ops_aws
from ops import doctor_aws, doctor_local
from ops.__main__ import app
from ops.checks import Check, asked
from ops.console import ENVIRONMENT, FINDINGS, OK
from ops.doctor import examine_account, exit_code
from ops.quotas import check_quotas, check_reservations, demands
from planner import load_and_plan
from planner.plan import EksPlan, ExistingNetworkPlan, ExistingSubnetPlan, Plan
from tests.factories import ROOT, pool_of, stack_plan
from tests.stacks import changed

PROD = stack_plan("prod")
REGION = "us-east-1"
TARGET = PROD.target
assert isinstance(TARGET, EksPlan)


class PlayedQuotas:
    """Limits by code."""

    def __init__(self, limits: Mapping[str, float], default: float | None = None) -> None:
        self.limits = limits
        self.default = default

    def vcpus(self, code: str) -> float | None:
        return self.limits.get(code, self.default)


class PlayedReservations:
    """Records by id."""

    def __init__(self, **records: Mapping[str, Any]) -> None:
        self.records = {name.replace("_", "-"): record for name, record in records.items()}

    def describe(self, reservation: str) -> Mapping[str, Any] | None:
        return self.records.get(reservation)


def only(checks: list[Check], name: str) -> Check:
    found = [one for one in checks if one.name == name]
    assert len(found) == 1, [one.name for one in checks]
    return found[0]


# --- Tools and this machine -----------------------------------------------------------------------------------------


def tools(answers: Mapping[str, str | None], plan: Plan = PROD) -> list[Check]:
    return list(doctor_local.check_tools(plan, lambda command: answers.get(command[0])))


GOOD = {
    "git": "git version 2.51.0",
    "pulumi": "v3.272.0",
    "aws": "aws-cli/2.31.0 Python/3.13",
    "kubectl": "Client Version: v1.35.1",
    "helm": "v4.0.0+g1234",
}


def test_all_tools_are_there() -> None:
    assert {one.status for one in tools(GOOD)} == {"ok"}


@pytest.mark.parametrize(
    ("tool", "said", "status"),
    [
        ("pulumi", None, "fail"),
        ("pulumi", "v3.100.0", "fail"),
        ("aws", "aws-cli/1.45.0", "fail"),
        ("kubectl", "Client Version: v1.32.0", "note"),
        ("kubectl", "Client Version: v1.36.0", "ok"),
        ("helm", None, "note"),
        ("git", "no version here", "note"),
    ],
)
def test_tools_that_are_missing_or_old(tool: str, said: str | None, status: str) -> None:
    found = only(tools({**GOOD, tool: said}), tool)
    assert found.status == status
    assert (found.fix is None) == (status == "ok")


def test_a_cluster_that_exists_needs_no_aws_cli() -> None:
    assert "aws" not in {one.name for one in tools(GOOD, stack_plan("local"))}


def test_no_room_for_the_first_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    checks = list(doctor_local.check_machine(tmp_path / "a" / "b", 8 * 10**9, has_go=True, has_programs=False))
    assert only(checks, "disk").status == "fail"
    assert only(list(doctor_local.check_machine(tmp_path, 8 * 10**9, has_go=True, has_programs=True)), "ports")


def test_placeholders_are_found_with_their_line(tmp_path: Path) -> None:
    checks = list(doctor_local.check_placeholders(ROOT / "Pulumi.prod.yaml"))
    assert {one.status for one in checks} == {"fail"}
    text = (ROOT / "Pulumi.prod.yaml").read_text().splitlines()
    for one in checks:
        line = int(one.detail.split(":")[1].split()[0])
        assert any(value in text[line - 1] for value in ("111122223333", "203.0.113.0/24", "cr-0123456789abcdef0"))
    mine = changed(
        tmp_path,
        "dev",
        {
            "target.admins.0": "arn:aws:iam::222233334444:role/me",
            "target.endpoint.admin_cidrs.0": "198.18.0.0/24",
        },
    )
    assert [one.status for one in doctor_local.check_placeholders(mine)] == ["ok"]


@pytest.mark.parametrize(("key", "status"), [("inference-platform:apiKey", "ok"), ("inference-platform:other", "fail")])
def test_secrets_that_are_not_set_are_told(tmp_path: Path, key: str, status: str) -> None:
    source = {"kind": "pulumi", "name": "apiKey"}
    file = changed(tmp_path, "dev", {"models.0.api_key": source, f"/{key}": {"secure": "v1:abc"}})
    found = only(list(doctor_local.check_secrets(load_and_plan(file)[1], file)), "secrets")
    assert found.status == status
    assert status == "ok" or "config set --secret apiKey --stack dev" in str(found.fix)


# --- The caller -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "admins", "status"),
    [
        ("arn:aws:sts::222233334444:assumed-role/platform/me", ("arn:aws:iam::222233334444:role/platform",), "ok"),
        ("arn:aws:sts::222233334444:assumed-role/sso_1/me", ("arn:aws:iam::222233334444:role/aws/sso/sso_1",), "ok"),
        ("arn:aws:sts::222233334444:assumed-role/platform/me", ("arn:aws:iam::999988887777:role/platform",), "fail"),
        ("arn:aws:sts::222233334444:assumed-role/other/me", ("arn:aws:iam::222233334444:role/platform",), "fail"),
        ("arn:aws:iam::222233334444:user/ann", ("arn:aws:iam::222233334444:user/ann",), "ok"),
        ("arn:aws:iam::222233334444:user/ann", ("arn:aws:iam::222233334444:role/ann",), "fail"),
        ("arn:aws:iam::222233334444:root", ("arn:aws:iam::222233334444:role/platform",), "fail"),
    ],
)
def test_whether_the_caller_will_be_admin(caller: str, admins: tuple[str, ...], status: str) -> None:
    found = only(list(doctor_aws.check_admin(caller, admins)), "admin")
    assert found.status == status
    assert (found.fix is None) == (status == "ok")


def test_without_credentials_it_says_so_and_ends_with_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    ops_aws.session.cache_clear()
    done = CliRunner().invoke(app, ["doctor", "-s", "dev", "--json"])
    ops_aws.session.cache_clear()
    assert done.exit_code == ENVIRONMENT
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert checks["credentials"]["status"] == "fail"
    assert "aws sso login" in checks["credentials"]["fix"]


def test_a_profile_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    ops_aws.session.cache_clear()
    checks = examine_account(PROD, TARGET, REGION)
    ops_aws.session.cache_clear()
    assert [one.name for one in checks] == ["credentials"]
    assert exit_code(checks) == ENVIRONMENT


def test_exit_codes() -> None:
    fine, bad = Check(name="a", status="note", detail=""), Check(name="b", status="fail", detail="")
    assert exit_code([fine]) == OK
    assert exit_code([fine, bad]) == FINDINGS
    assert exit_code([bad, Check(name="credentials", status="fail", detail="")]) == ENVIRONMENT


# --- Quotas and reservations ----------------------------------------------------------------------------------------


def test_demand_counts_every_rung_at_its_maximum() -> None:
    found = {demand.code: demand.peak_vcpus for demand in demands(PROD)}
    h100, a100 = PROD.pool("h100"), PROD.pool("a100")
    spot = {rung.kind: rung.max_nodes for rung in h100.rungs}
    assert found["L-C4BD4855"] == spot["spot"] * 192  # p5 spot; the capacity block counts against nothing
    on_demand = spot["on_demand"] * 192 + {r.kind: r.max_nodes for r in a100.rungs}["on_demand"] * 96
    assert found["L-417A185B"] == on_demand
    assert isinstance(PROD.target, EksPlan)
    assert found["L-1216C47A"] == PROD.target.system.max_nodes * PROD.target.system.vcpus


def test_quotas_that_suffice() -> None:
    assert {one.status for one in check_quotas(PROD, PlayedQuotas({}, 10_000), REGION)} == {"ok"}


def test_a_quota_below_the_peak_is_a_note_with_the_command() -> None:
    peak = next(demand for demand in demands(PROD) if demand.code == "L-7212CCBC").peak_vcpus
    found = only(list(check_quotas(PROD, PlayedQuotas({"L-7212CCBC": peak - 1}, 10_000), REGION)), "quota L-7212CCBC")
    assert found.status == "note"
    assert f"--quota-code L-7212CCBC --desired-value {peak}" in str(found.fix)


def test_a_pool_that_no_quota_allows_fails() -> None:
    checks = list(check_quotas(PROD, PlayedQuotas({}, 0), REGION))
    failed = {one.name for one in checks if one.status == "fail"}
    # The H100 pool has a capacity block, which takes no quota.
    assert failed == {"pool a100", "pool l40s"}
    assert "p4d.24xlarge" in only(checks, "pool a100").detail


def test_a_region_that_tells_no_quota_is_unknown() -> None:
    assert "unknown" in {one.status for one in check_quotas(PROD, PlayedQuotas({}, None), REGION)}


BLOCK = {
    "InstanceType": "p5.48xlarge",
    "AvailabilityZone": "us-east-1a",
    "TotalInstanceCount": 2,
    "State": "active",
    "EndDate": datetime(2026, 12, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"EndDate": None}, "ok", "active, 2 instances"),
        ({}, "note", "the stack file does not say so"),
        ({"InstancePlatform": "Linux/UNIX", "EndDate": None}, "ok", "active"),
        ({"InstancePlatform": "Red Hat Enterprise Linux"}, "fail", "its platform is Red Hat"),
        (
            {"PlacementGroupArn": "arn:aws:ec2:us-east-1:1:placement-group/near"},
            "fail",
            "it is in placement group near, the stack file says none",
        ),
        ({"State": "scheduled", "StartDate": "tomorrow", "EndDate": None}, "note", "starts tomorrow"),
        ({"State": "expired"}, "fail", "it is expired"),
        ({"InstanceType": "p4d.24xlarge"}, "fail", "its type is p4d.24xlarge"),
        ({"AvailabilityZone": "us-east-1b"}, "fail", "its zone is us-east-1b"),
        ({"TotalInstanceCount": 1}, "fail", "it has 1 instances, the rung 2 nodes"),
    ],
)
def test_a_reservation_against_its_rung(change: dict[str, Any], status: str, said: str) -> None:
    played = PlayedReservations(cr_0123456789abcdef0={**BLOCK, **change})
    (found,) = check_reservations(PROD, played)
    assert found.status == status
    assert said in found.detail


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        ("2026-12-01T00:00:00Z", "ok", "ends 2026-12-01 00:00"),
        ("2026-11-30T00:00:00Z", "ok", "active"),
        ("2026-12-02T00:00:00Z", "fail", "groups would leave too late"),
    ],
)
def test_the_end_in_the_stack_file_against_the_end_that_was_bought(ends: str, status: str, said: str) -> None:
    """The keeper drains by the stack file's end: a day too late is a group cut off under load."""
    block = replace(PROD.pool("h100").rungs[0], ends=ends)
    pool = replace(PROD.pool("h100"), rungs=(block, *PROD.pool("h100").rungs[1:]))
    plan = replace(PROD, pools=(pool, *PROD.pools[1:]))
    (found,) = check_reservations(plan, PlayedReservations(cr_0123456789abcdef0=BLOCK))
    assert found.status == status
    assert said in found.detail


def test_a_reservation_that_is_not_there() -> None:
    (found,) = check_reservations(PROD, PlayedReservations())
    assert found.status == "fail"


# --- The account, in moto -------------------------------------------------------------------------------------------


def account(plan: Plan = PROD, **changes: Any) -> list[Check]:
    assert isinstance(plan.target, EksPlan)
    tools: dict[str, Any] = {
        "quotas": PlayedQuotas({}, 10_000),
        "reservations": PlayedReservations(cr_0123456789abcdef0=BLOCK),
        "reach": lambda *_: True,
    }
    return examine_account(plan, plan.target, REGION, **{**tools, **changes})


def test_an_account_that_has_what_prod_needs(aws: None) -> None:
    checks = account()
    for kind in ("p5.48xlarge", "p4d.24xlarge", "g6e.xlarge"):
        assert only(checks, f"offering {kind}").status == "ok"
    assert only(checks, "region").status == "ok"
    assert only(checks, "endpoint").status == "ok"
    assert only(checks, "spot p5.48xlarge").name
    assert all(one.fix for one in checks if one.status == "fail")


def test_a_zone_that_does_not_sell_the_type(aws: None) -> None:
    pool = pool_of(PROD, "a100", zone="us-east-1f")
    checks = account(replace(PROD, pools=(pool,)))
    found = only(checks, "offering p4d.24xlarge")
    assert found.status == "fail"
    assert "us-east-1a" in str(found.fix)


def test_moto_has_no_quotas_and_no_reservations_and_doctor_goes_on(aws: None) -> None:
    """What AWS does not answer is unknown; the other answers are given all the same."""

    def refuse(_: str) -> float | None:
        raise ops_aws.ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetServiceQuota")

    checks = account(quotas=SimpleNamespace(vcpus=refuse))
    assert only(checks, "quotas").status == "unknown"
    assert "servicequotas:GetServiceQuota" in str(only(checks, "quotas").fix)
    assert only(checks, "offering p5.48xlarge").status == "ok"


def test_denied_questions_name_the_permission() -> None:
    def ask() -> list[Check]:
        raise ops_aws.ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DescribeRegions")

    (found,) = asked("region", ask, permission="ec2:DescribeRegions")
    assert (found.status, found.fix) == ("unknown", "allow ec2:DescribeRegions")


def existing(plan: Plan, vpc: str, *subnets: tuple[str, str]) -> Plan:
    network = ExistingNetworkPlan(
        vpc_id=vpc, subnets=tuple(ExistingSubnetPlan(subnet_id=one, zone=zone) for one, zone in subnets)
    )
    return replace(plan, network=network)


def test_subnets_of_a_vpc_that_exists(aws: None) -> None:
    ec2 = ops_aws.client("ec2", REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    other = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]

    def subnet(vpc_id: str, cidr: str, zone: str) -> str:
        made = ec2.create_subnet(VpcId=vpc_id, CidrBlock=cidr, AvailabilityZone=zone)
        return str(made["Subnet"]["SubnetId"])

    large = subnet(vpc, "10.0.0.0/18", "us-east-1a")
    small = subnet(vpc, "10.0.64.0/28", "us-east-1b")
    foreign = subnet(other, "10.1.0.0/24", "us-east-1c")
    plan = existing(
        PROD,
        vpc,
        (large, "us-east-1a"),
        (small, "us-east-1b"),
        (foreign, "us-east-1c"),
        ("subnet-00000000", "us-east-1d"),
    )
    checks = account(plan)
    assert only(checks, f"subnet {large}").status == "ok"
    assert "free addresses" in only(checks, f"subnet {small}").detail
    assert only(checks, f"subnet {small}").status == "fail"
    assert other in only(checks, f"subnet {foreign}").detail
    assert "does not exist" in only(checks, "subnet subnet-00000000").detail
    moved = account(existing(PROD, vpc, (large, "us-east-1c"), (small, "us-east-1b")))
    assert "is in us-east-1a" in only(moved, f"subnet {large}").detail


def make_cluster(plan: Plan) -> None:
    assert isinstance(plan.target, EksPlan)
    iam = ops_aws.client("iam", REGION)
    role = iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    ec2 = ops_aws.client("ec2", REGION)
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"][:2]]
    ops_aws.client("eks", REGION).create_cluster(
        name=plan.target.cluster_name, roleArn=role, resourcesVpcConfig={"subnetIds": subnets}
    )


def test_the_way_to_the_api_server(aws: None) -> None:
    make_cluster(PROD)
    assert only(account(), "endpoint").status == "ok"
    shut = only(account(reach=lambda *_: False), "endpoint")
    assert shut.status == "fail"
    assert "admin_cidrs" in str(shut.fix)


def test_a_private_endpoint_says_where_to_work_from(aws: None) -> None:
    private = replace(PROD, target=replace(TARGET, public_cidrs=()))
    first = only(account(private), "endpoint")
    assert first.status == "note"
    assert "inside" in str(first.fix)
    make_cluster(private)
    shut = only(account(private, reach=lambda *_: False), "endpoint")
    assert shut.status == "fail"
    assert "inside" in str(shut.fix)
