"""GPUs that serve nothing: told for every pool, and given back where the stack file says so."""

from __future__ import annotations

from typing import Any

import pytest

from components.serving.custom_resources import ScaledObject
from components.serving.scaling import scaled_object
from planner import Plan, StackFileError, plan_document
from settings.load import Document
from tests.factories import model_of, stack_plan
from tests.stacks import document

OFFICE = [{"timezone": "Europe/Berlin", "start": "30 7 * * 1-5", "end": "0 19 * * 1-5", "replicas": 3}]


def planned(autoscaling: dict[str, Any]) -> Plan:
    platform = dict(document("prod")["config"]["inference-platform:platform"])
    platform["models"] = [
        {**model, "autoscaling": autoscaling} if model["name"] == "llama-8b" else model for model in platform["models"]
    ]
    found = Document(file="Pulumi.prod.yaml", platform=platform, region="us-east-1", text=None)
    return plan_document(found, stack="prod")[1]


def scaler(plan: Plan) -> ScaledObject:
    return scaled_object(model_of(plan, "llama-8b"), plan.observability.prometheus_url)


def test_every_pool_that_bills_is_watched_by_the_requests_of_its_own_models() -> None:
    plan = stack_plan("prod")
    alerts = {alert.pool: alert for alert in plan.observability.alerts if alert.name == "GpuPoolIdle"}
    assert set(alerts) == {pool.name for pool in plan.pools}
    for model in plan.models:
        watching = {pool for pool, alert in alerts.items() if f'"{model.name}"' in alert.expression}
        assert watching == {model.pool}


def test_nodes_that_exist_anyway_are_nobodys_bill() -> None:
    assert not [alert for alert in stack_plan("local").observability.alerts if alert.name == "GpuPoolIdle"]


def test_a_model_of_office_hours_goes_to_zero_and_its_floors_bring_it_back() -> None:
    spec = scaler(planned({"idle_minutes": 45, "floors": OFFICE})).spec()
    assert spec["idleReplicaCount"] == 0
    assert spec["cooldownPeriod"] == 45 * 60
    assert spec["minReplicaCount"] == 2
    assert [trigger["type"] for trigger in spec["triggers"]].count("cron") == 1


def test_others_keep_their_minimum() -> None:
    assert "idleReplicaCount" not in scaler(stack_plan("prod")).spec()


def test_a_model_that_sleeps_is_not_missed() -> None:
    def expression(plan: Plan) -> str:
        (found,) = [a for a in plan.observability.alerts if a.name == "ModelNotServing" and a.model == "llama-8b"]
        return found.expression

    assert "kube_pod_info" in expression(planned({"idle_minutes": 45, "floors": OFFICE}))
    assert "kube_pod_info" not in expression(stack_plan("prod"))


def test_a_model_that_nothing_would_wake_is_refused() -> None:
    with pytest.raises(StackFileError, match="floors"):
        planned({"idle_minutes": 45})
