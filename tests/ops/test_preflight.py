"""`preflight` and `capacity`: in an account of moto's; what moto lacks is played behind the same protocols."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from catalog.load import load
from ops.__main__ import app
from ops.capacity import CatalogMarket, Market, needed, rank
from ops.checks import Check
from ops.preflight import account, market
from ops.preflight.run import Sources, examine, show_preflight
from ops.quotas import Quotas
from planner.plan import EksPlan, Plan
from tests.factories import stack_plan

PROD = stack_plan("prod")
REGION = "us-east-1"
TARGET = PROD.target
assert isinstance(TARGET, EksPlan)
ADMIN = "arn:aws:iam::123456789012:user/moto"


class PlayedQuotas:
    def __init__(self, vcpus: float | None) -> None:
        self._vcpus = vcpus

    def vcpus(self, code: str) -> float | None:
        return self._vcpus


class PlayedReservations:
    def describe(self, reservation: str) -> Mapping[str, Any] | None:
        return {
            "InstanceType": "p5.48xlarge",
            "AvailabilityZone": "us-east-1a",
            "TotalInstanceCount": 2,
            "AvailableInstanceCount": 1,
            "State": "active",
            "EndDate": datetime(2026, 12, 1, tzinfo=UTC),
        }


class PlayedScores:
    def __init__(self, **scores: int) -> None:
        self.asked: list[tuple[tuple[str, ...], int]] = []
        self._scores = {name.replace("_", "-"): score for name, score in scores.items()}

    def by_zone(self, kinds: Sequence[str], nodes: int) -> Mapping[str, int]:
        self.asked.append((tuple(kinds), nodes))
        return self._scores


class PlayedAddons:
    def __init__(self, **builds: Sequence[str]) -> None:
        self._builds = {name.replace("_", "-"): found for name, found in builds.items()}

    def of(self, addon: str, kubernetes_version: str) -> Sequence[str]:
        return self._builds.get(addon, ("v9.9.9-eksbuild.1",))


def sources(**changes: Any) -> Sources:
    played: dict[str, Any] = {
        "quotas": PlayedQuotas(10_000),
        "reservations": PlayedReservations(),
        "placement": PlayedScores(us_east_1a=9),
        "addons": PlayedAddons(),
    }
    return Sources(**{**played, **changes})


def only(checks: Sequence[Check], name: str) -> Check:
    (found,) = [one for one in checks if one.name == name]
    return found


def of_account(account_id: str | None) -> Plan:
    return replace(PROD, target=replace(TARGET, account_id=account_id))


# --- preflight ------------------------------------------------------------------------------------------------------


def test_every_question_is_answered_and_every_failure_says_what_to_do(aws: None) -> None:
    checks = examine(PROD, REGION, sources())
    names = {one.name.split()[0] for one in checks}
    assert {"offering", "quota", "reservation", "spot", "placement", "role", "add-on", "kms", "s3", "budget"} <= names
    assert "aws" in names
    assert all(one.fix for one in checks if one.status == "fail")
    assert "1 free" in only(checks, "reservation cr-0123456789abcdef0").detail


@pytest.mark.parametrize(("account_id", "status"), [(None, "note"), ("123456789012", "ok"), ("999988887777", "fail")])
def test_credentials_of_another_account_are_seen_before_anything_is_made(
    aws: None, account_id: str | None, status: str
) -> None:
    found = only(examine(of_account(account_id), REGION, sources()), "account")
    assert found.status == status


def test_service_linked_roles_that_are_not_there_are_named_with_the_command(aws: None) -> None:
    iam = boto3.client("iam", region_name=REGION)
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    checks = list(account.check_roles(_FixedRoles(iam, {"AWSServiceRoleForEC2Spot"}), PROD))
    assert only(checks, "role AWSServiceRoleForEC2Spot").status == "ok"
    missing = only(checks, "role AWSServiceRoleForAmazonFSx")
    assert missing.status == "note"
    assert missing.fix == "aws iam create-service-linked-role --aws-service-name fsx.amazonaws.com"


class _FixedRoles:
    """moto names a service-linked role after the service's words, AWS by names of its own; errors are moto's."""

    def __init__(self, iam: Any, there: set[str]) -> None:
        self._iam, self._there = iam, there

    def get_role(self, RoleName: str) -> Any:  # noqa: N803 - boto3's
        return {"Role": {"RoleName": RoleName}} if RoleName in self._there else self._iam.get_role(RoleName=RoleName)


def test_roles_follow_what_the_plan_uses() -> None:
    assert "fsx.amazonaws.com" in account.needed_roles(PROD)
    without = replace(PROD, cache=replace(PROD.cache, fsx=None))
    assert "fsx.amazonaws.com" not in account.needed_roles(without)


@pytest.mark.parametrize(("days_left", "status"), [(200, "ok"), (30, "note"), (-1, "fail")])
def test_the_end_of_support_is_told_before_eks_upgrades_by_itself(days_left: int, status: str) -> None:
    releases = load().versions.kubernetes
    oldest = min(releases.values(), key=lambda release: release.end_of_standard_support)
    today: date = oldest.end_of_standard_support - timedelta(days=days_left)
    (found,) = account.check_support(replace(TARGET, kubernetes_version=oldest.name), releases, today)
    assert found.status == status
    assert oldest.end_of_standard_support.isoformat() in found.detail
    assert status == "ok" or found.fix == "move to 1.35 (`target.kubernetes_version`), dev first"


def test_a_pinned_build_that_eks_does_not_offer_fails() -> None:
    pinned = replace(TARGET.addons[0], version="v1.0.0-eksbuild.1")
    target = replace(TARGET, addons=(pinned,))
    offered = {pinned.name.replace("-", "_"): ("v1.2.0-eksbuild.3", "v1.1.0-eksbuild.1")}
    (found,) = account.check_addons(PlayedAddons(**offered), target)
    assert found.status == "fail"
    assert "v1.2.0-eksbuild.3" in str(found.fix)
    (found,) = account.check_addons(
        PlayedAddons(**{name: (*builds, "v1.0.0-eksbuild.1") for name, builds in offered.items()}), target
    )
    assert found.status == "ok"


@pytest.mark.parametrize(
    ("offered", "status"),
    [
        (("v1.18.4-eksbuild.9",), "fail"),
        (("v1.18.5-eksbuild.1",), "ok"),
        (("v1.9.0", "v1.20.0-eksbuild.1"), "ok"),
        ((), "fail"),
    ],
)
def test_the_least_build_of_the_cni_is_compared_as_numbers(offered: Sequence[str], status: str) -> None:
    cni = replace(next(addon for addon in TARGET.addons if addon.name == "vpc-cni"), version=None)
    cni = replace(cni, minimum_version="v1.18.5")
    (found,) = account.check_addons(PlayedAddons(vpc_cni=offered), replace(TARGET, addons=(cni,)))
    assert found.status == status


def test_a_poor_placement_score_names_better_zones() -> None:
    scores = PlayedScores(us_east_1a=2, us_east_1b=8, us_east_1d=5)
    checks = list(market.check_placement(scores, PROD))
    found = only(checks, "placement h100 us-east-1a")
    assert found.status == "note"
    assert "us-east-1b (8), us-east-1d (5)" in str(found.fix)
    # A group is worth nothing with half of its nodes.
    assert (("p5.48xlarge",), 2) in scores.asked


def test_a_low_score_of_one_type_is_held_against_other_zones_alone() -> None:
    """EC2 scores one or two types low whatever the market: an alarm on every spot pool would be no news."""
    found = only(
        list(market.check_placement(PlayedScores(us_east_1a=1, us_east_1b=1), PROD)), "placement h100 us-east-1a"
    )
    assert found.status == "ok"
    assert "compares zones" in found.detail


def test_a_budget_and_who_is_told(aws: None) -> None:
    budgets = boto3.client("budgets", region_name=REGION)
    alone = replace(PROD, spend_guard=None)
    assert only(list(account.check_budget(budgets, "123456789012", alone)), "aws budgets").status == "note"
    budgets.create_budget(
        AccountId="123456789012",
        Budget={
            "BudgetName": "all",
            "BudgetType": "COST",
            "TimeUnit": "MONTHLY",
            "BudgetLimit": {"Amount": "10", "Unit": "USD"},
        },
    )
    assert only(list(account.check_budget(budgets, "123456789012", alone)), "aws budgets").status == "ok"


def test_the_verb_prints_json_with_what_is_at_risk(
    aws: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.preflight.run.own_sources", lambda _: sources())
    code = show_preflight("prod", as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["at_risk"]["peak_usd_per_hour"] == PROD.cost.peak_usd_per_hour
    assert data["ok"] is (code == 0)


def test_without_an_answer_from_aws_the_others_are_given(aws: None) -> None:
    """moto has neither placement scores nor add-on builds: unknown, with what to do, and no traceback."""
    checks = examine(PROD, REGION)
    assert only(checks, "kms").status == "ok"
    assert {one.status for one in checks if one.name in {"placement", "add-ons", "quotas"}} == {"unknown"}


# --- capacity -------------------------------------------------------------------------------------------------------


class PlayedMarket:
    """Everything is offered in one zone of each region, at given prices and limits."""

    def __init__(self, spot: Mapping[tuple[str, str], float], limits: Mapping[str, float | None]) -> None:
        self._spot, self._limits = spot, limits

    def offered(self, region: str, instance_type: str) -> Sequence[str]:
        return [f"{region}a"] if (region, instance_type) in self._spot else []

    def spot(self, region: str, zone: str, instance_type: str) -> tuple[float | None, str]:
        return self._spot[region, instance_type], "played"

    def quotas(self, region: str) -> Quotas | None:
        return PlayedQuotas(self._limits[region])


def test_what_can_be_had_comes_before_what_is_cheap() -> None:
    catalog = load()
    needs = list(needed(catalog.models["meta-llama/Llama-3.1-70B-Instruct"], catalog, context_tokens=8192, replicas=1))
    played: Market = PlayedMarket(
        {("us-east-1", "p5.48xlarge"): 5.0, ("us-west-2", "p5.48xlarge"): 9.0}, {"us-east-1": 8, "us-west-2": 5000}
    )
    places = rank(needs, ("us-east-1", "us-west-2"), played, catalog)
    assert [(place.region, place.verdict) for place in places] == [("us-west-2", "spot"), ("us-east-1", "quota")]


def test_several_replicas_share_a_node_and_groups_take_whole_ones() -> None:
    catalog = load()
    by_type = {
        need.instance.name: need
        for need in needed(catalog.models["Qwen/Qwen3-32B"], catalog, context_tokens=8192, replicas=3)
    }
    p5 = by_type["p5.48xlarge"]
    assert p5.nodes == -(-3 // (8 // p5.fit.layout.gpus_per_node))
    groups = {
        need.instance.name: need
        for need in needed(catalog.models["deepseek-ai/DeepSeek-R1"], catalog, context_tokens=8192, replicas=3)
    }
    assert groups["p5.48xlarge"].nodes == 6


def test_the_catalog_alone_ranks_by_price_and_says_that_quotas_are_unknown() -> None:
    catalog = load()
    needs = list(needed(catalog.models["Qwen/Qwen3-32B"], catalog, context_tokens=8192, replicas=1))
    places = rank(needs, ("us-east-1",), CatalogMarket(catalog), catalog)
    assert places
    assert {place.verdict for place in places} == {"unknown"}
    prices = [place.spot_usd_per_hour for place in places if place.spot_usd_per_hour is not None]
    assert prices == sorted(prices)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "Qwen/Qwen3-33B"], "did you mean"),
        (["--model", "Qwen/Qwen3-32B", "--regions", "mars-1"], "catalog of regions"),
        (["--model", "Qwen/Qwen3-32B", "--regions", ","], "names none"),
    ],
)
def test_wrong_questions_are_told(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["capacity", "--offline", *arguments])
    assert result.exit_code != 0
    assert words in f"{result.output}{result.exception}"


def test_moto_offers_what_aws_does(aws: None) -> None:
    result = CliRunner().invoke(
        app, ["capacity", "--model", "Qwen/Qwen3-32B", "--regions", "us-east-1", "--offline", "--json"]
    )
    assert result.exit_code == 0
    offline = {(place["zone"], place["instance_type"]) for place in json.loads(result.stdout)["places"]}
    assert ("us-east-1a", "p5.48xlarge") in offline
