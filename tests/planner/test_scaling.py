"""How replicas are added and removed: steps, triggers, delays, and what no scaler can do."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from components.serving.scaling import scaled_object
from planner import StackFileError
from planner.plan import Explained, ModelPlan, Plan
from tests.crd_schemas import problems
from tests.factories import model_of, stack_plan
from tests.router.plans import LARGE, SMALL, planned
from tests.serving.worlds import manifest, serve

RAY = "r1-distill-70b"


def step_of(model: ModelPlan) -> tuple[int, int | None]:
    return model.scaling.scale_up_pods, model.scaling.scale_up_percent


def number_of(model: ModelPlan) -> Explained:
    return next(number for number in model.numbers if number.section == "scaling")


def small(*, traffic: dict[str, Any] | None = None, **fields: Any) -> ModelPlan:
    lengths = {"input_tokens": {"mean": 600}, "output_tokens": {"mean": 200}}
    if traffic is None:
        return model_of(planned(without=("traffic",), **fields), SMALL)
    return model_of(planned(traffic={**lengths, **traffic}, **fields), SMALL)


@pytest.mark.parametrize(("most", "pods"), [(2, 1), (3, 1), (6, 2)])
def test_without_traffic_four_steps_go_from_least_to_most(most: int, pods: int) -> None:
    assert step_of(small(replicas={"min": 1, "max": most})) == (pods, 100)


def test_a_step_is_never_more_than_the_pool_holds() -> None:
    """Forty replicas are allowed, and the pool has room for far fewer."""
    plan = planned(replicas={"min": 1, "max": 40}, without=("traffic",))
    model = model_of(plan, SMALL)
    room = plan.pool(model.pool).max_nodes * (plan.pool(model.pool).hardware.gpus // model.layout.gpus_per_node) - 1
    assert room < 39
    assert step_of(model) == (-(-room // 4), 100)
    found = small(
        replicas={"min": 1, "max": 40},
        traffic={"requests_per_second": 1, "peak": {"requests_per_second": 900, "ramp_minutes": 1}},
    )
    assert step_of(found) == (room, 100)


def test_a_step_covers_what_arrives_during_one_start() -> None:
    found: dict[float, ModelPlan] = {
        ramp: small(
            replicas={"min": 1, "max": 6},
            traffic={"requests_per_second": 4, "peak": {"requests_per_second": 30, "ramp_minutes": ramp}},
        )
        for ramp in (5, 60, 1440)
    }
    steps = {ramp: step_of(model)[0] for ramp, model in found.items()}
    assert steps[5] > steps[60] >= steps[1440] == 1
    for model in found.values():
        given = {one.name: float(one.value) for one in number_of(model).inputs}
        assert given["period"] == min(1800, max(60, model.scaling.initial_delay_seconds))
        growth = (given["peak"] - given["mean"]) * min(1, given["period"] / given["ramp"])
        served = given["rate"] * given["target"] / given["knee"]
        assert number_of(model).value == min(given["room"], max(1, -(-growth // served)))
        assert f"{number_of(model).value} replica(s)" in model.why["scaling"]


def test_without_a_stated_peak_traffic_may_double_in_a_quarter_of_an_hour() -> None:
    given = {one.name: one.value for one in number_of(small(traffic={"requests_per_second": 8})).inputs}
    assert (given["peak"], given["ramp"]) == (16, 900)


def test_a_peak_that_no_number_of_replicas_serves_is_told() -> None:
    fields: dict[str, Any] = {"input_tokens": {"mean": 600}, "output_tokens": {"mean": 200}}
    peak = {"requests_per_second": 900}
    plan = planned(traffic={"requests_per_second": 4, "peak": peak, **fields})
    (told,) = [f.message for f in plan.findings if f.subject.endswith("traffic.peak")]
    assert "900 requests/s need" in told


def test_groups_of_nodes_start_one_after_another() -> None:
    """Of two that start together each may take half of the last room (ADR 1)."""
    plan = stack_plan("prod")
    model = model_of(plan, LARGE)
    assert model.layout.nodes > 1
    room = next(float(one.value) for one in number_of(model).inputs if one.name == "room")
    groups = sum(rung.max_nodes // model.layout.nodes for rung in plan.pool(model.pool).rungs)
    assert room == min(model.scaling.max_replicas, groups) - model.scaling.min_replicas
    assert step_of(model) == (1, None)
    # As many in a start as traffic needs, and no faster than nodes boot.
    each = model.scaling.scale_up_period_seconds
    assert each >= max(rung.boot_seconds for rung in plan.pool(model.pool).rungs)
    assert each == max(420, min(1800, model.scaling.initial_delay_seconds) // int(number_of(model).value))
    assert f"1 group each {each} s" in model.why["scaling"]
    told = [f.message for f in planned(LARGE, autoscaling={"scale_up_replicas": 2}).findings]
    assert any("half of the last room" in message for message in told)


def test_the_users_step_is_taken_as_it_is() -> None:
    model = small(autoscaling={"scale_up_replicas": 3})
    assert step_of(model) == (3, None)
    (policy,) = behavior(model)["scaleUp"]["policies"]
    assert policy == {"type": "Pods", "value": 3, "periodSeconds": model.scaling.scale_up_period_seconds}


def behavior(model: ModelPlan) -> dict[str, Any]:
    spec = scaled_object(model, "http://prometheus").spec()
    return spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


def test_steps_and_delays_reach_the_scaled_object() -> None:
    model = model_of(stack_plan("prod"), RAY)
    scaling = model.scaling
    scaler = scaled_object(model, "http://prometheus")
    assert scaler.spec()["initialCooldownPeriod"] == scaling.initial_delay_seconds > model.startup_seconds
    up, down = behavior(model)["scaleUp"], behavior(model)["scaleDown"]
    period = scaling.scale_up_period_seconds
    assert up["policies"] == [
        {"type": "Pods", "value": scaling.scale_up_pods, "periodSeconds": period},
        {"type": "Percent", "value": 100, "periodSeconds": period},
    ]
    assert (up["selectPolicy"], up["stabilizationWindowSeconds"]) == ("Max", 0)
    # Nothing is taken away before what was added could have served.
    assert down["stabilizationWindowSeconds"] >= min(3600, scaling.initial_delay_seconds)
    document = {
        "apiVersion": scaler.api_version,
        "kind": scaler.kind,
        "metadata": scaler.metadata(),
        "spec": scaler.spec(),
    }
    assert problems(document) == []


def ray(**fields: Any) -> Plan:
    return planned(RAY, runtime="ray_service", without=("autoscaling",), **fields)


def test_delays_limits_and_targets_reach_ray_serve() -> None:
    plan = ray()
    model = model_of(plan, RAY)
    assert model.ray is not None
    spec = manifest(serve(plan)["kubernetes:ray.io/v1:RayService", f"{RAY}-workload"])["spec"]
    application = yaml.safe_load(spec["serveConfigV2"])["applications"][0]
    deployment = application["args"]["llm_configs"][0]["deployment_config"]
    scaling, given = model.scaling, deployment["autoscaling_config"]
    assert given["target_ongoing_requests"] == scaling.target_concurrency
    assert given["upscale_delay_s"] == scaling.polling_seconds
    assert given["downscale_delay_s"] == scaling.scale_down_stabilization_seconds >= scaling.initial_delay_seconds
    # As Serve computes it: from all replicas to the fewest, one at a time.
    room = scaling.max_replicas - scaling.min_replicas
    assert 0 < given["downscaling_factor"] * room <= 1.001
    assert deployment["max_ongoing_requests"] == model.max_running + deployment["max_queued_requests"]
    assert deployment["max_queued_requests"] == 2 * model.max_running
    assert spec["rayClusterConfig"]["autoscalerOptions"]["idleTimeoutSeconds"] == model.ray.idle_seconds


FLOOR = {"start": "0 8 * * *", "end": "0 18 * * *", "replicas": 2}


AUTOSCALING = "models[1].autoscaling"
ON_RAY: dict[str, dict[str, Any]] = {
    f"{AUTOSCALING}.floors: Ray Serve's own autoscaler has no schedule": {"floors": [FLOOR]},
    f"{AUTOSCALING}.scale_up_replicas: Ray Serve's own autoscaler goes all the way": {"scale_up_replicas": 2},
    f"{AUTOSCALING}.idle_minutes: Ray Serve's own autoscaler keeps": {"floors": [FLOOR], "idle_minutes": 30},
}


def refused(model: str, **fields: Any) -> list[str]:
    with pytest.raises(StackFileError) as caught:
        planned(model, **fields)
    return [f"{problem.dotted()}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize("told", list(ON_RAY))
def test_what_ray_serve_cannot_do_is_refused(told: str) -> None:
    assert any(line.startswith(told) for line in refused(RAY, runtime="ray_service", autoscaling=ON_RAY[told]))


def test_a_floor_above_the_most_replicas_is_refused() -> None:
    floors = {"floors": [{**FLOOR, "replicas": 3}]}
    (line,) = refused(SMALL, replicas={"min": 1, "max": 2}, autoscaling=floors, without=("traffic",))
    assert line == "models[2].autoscaling.floors[0].replicas: 3 is above replicas.max (2)"


def test_one_replica_of_office_hours_sleeps_at_night() -> None:
    floor = {**FLOOR, "replicas": 1}
    model = small(replicas={"min": 1, "max": 1}, autoscaling={"floors": [floor], "idle_minutes": 30})
    assert model.scaling.owner == "keda"
    spec = scaled_object(model, "http://prometheus").spec()
    assert (spec["idleReplicaCount"], spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 1, 1)


def test_floors_of_a_fixed_number_are_told_to_change_nothing() -> None:
    plan = planned(replicas={"min": 2, "max": 2}, autoscaling={"floors": [FLOOR]}, without=("traffic",))
    assert any("change nothing" in finding.message for finding in plan.findings)
