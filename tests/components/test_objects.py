"""Custom resources against the upstream definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components._objects import AlertRule, CaCertificate, PrometheusRule, manifest
from components.certificates import certificate_authority
from components.observability.alerts import rules
from planner.plan import Plan
from tests.crd_schemas import problems
from tests.factories import STACKS, stack_plan
from tests.harness import World


def test_the_certificate_authority_is_admitted() -> None:
    for item in certificate_authority():
        assert problems(manifest(item)) == [], item.kind


@pytest.mark.parametrize("stack", STACKS)
def test_every_rule_is_admitted(stack: str) -> None:
    found = rules(stack_plan(stack).observability.alerts)
    assert found
    for rule in found.values():
        assert problems(manifest(rule)) == []


@pytest.mark.parametrize("stack", STACKS)
def test_every_custom_resource_that_is_declared_is_admitted(stack: str, world_of: Callable[[Plan], World]) -> None:
    groups = ("cert-manager.io/", "monitoring.coreos.com/")
    custom = [r for r in world_of(stack_plan(stack)) if str(r.inputs.get("apiVersion")).startswith(groups)]
    assert custom
    for record in custom:
        assert problems(dict(record.inputs)) == [], record.name


def test_the_check_sees_unknown_fields_and_wrong_types() -> None:
    rule = PrometheusRule(name="r", namespace="monitoring", labels={}, groups={})
    good = manifest(rule)
    assert problems(good) == []
    assert problems({**good, "spec": {"groupz": []}})
    assert problems({**good, "spec": {"groups": [{"name": 7, "rules": []}]}})


def test_groups_without_rules_are_left_out() -> None:
    alert = AlertRule(name="A", expression="up == 0", for_minutes=5, labels={}, annotations={})
    rule = PrometheusRule(name="r", namespace="m", labels={}, groups={"empty": (), "full": (alert,)})
    assert [group["name"] for group in rule.spec()["groups"]] == ["full"]


@pytest.mark.parametrize(("hours", "before"), [(10, 10), (10, 0), (10, 11)])
def test_a_certificate_is_renewed_within_its_lifetime(hours: int, before: int) -> None:
    with pytest.raises(ValueError, match="renewed"):
        CaCertificate(
            name="c",
            namespace="n",
            common_name="ca",
            secret_name="s",
            issuer="i",
            lifetime_hours=hours,
            renew_before_hours=before,
        )
