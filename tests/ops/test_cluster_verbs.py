"""`wait` and `drain` against an API server: what they say, what they change, in which order."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from ops.cluster import NODE_CLAIMS, Cluster, job_path, placeholders_path, pods_path, scaler_path, workload_path
from ops.drain import NODE_POOL_LABEL, PAUSED, drain, undo
from ops.errors import MissingError
from ops.readiness import progress_of
from ops.wait import timeout_of, wait
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL, POOL_LABEL, RUNG_LABEL
from planner.plan import ModelPlan, Plan
from tests.factories import example_plan, model_of, stack_plan
from tests.ops.api_server import ApiServer

PROD: Plan = stack_plan("prod")
LLAMA: ModelPlan = model_of(PROD, "llama-8b")  # a Deployment, two replicas
R1: ModelPlan = model_of(PROD, "deepseek-r1")  # a group of two pods
RAY: Plan = stack_plan("staging")


def add_workload(api: ApiServer, model: ModelPlan) -> None:
    api.put(workload_path(model), {"spec": {"replicas": model.scaling.min_replicas}})


def pod_at(model: ModelPlan, name: str) -> str:
    return f"{pods_path(model.namespace)}/{name}"


def add_pod(api: ApiServer, model: ModelPlan, name: str, role: str = "server", **fields: Any) -> None:
    labels = {MODEL_LABEL: model.name, GROUP_ROLE_LABEL: role}
    item = {"metadata": {"labels": labels}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    api.put(pod_at(model, name), {**item, **fields})


def ready() -> dict[str, Any]:
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


# --- wait -----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_there(cluster: Cluster) -> None:
    state = progress_of(cluster, PROD, LLAMA)
    assert state.step == "not deployed"
    assert "make up" in state.detail


def test_pods_without_a_node_say_what_the_scheduler_and_the_autoscaler_say(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, LLAMA)
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient nvidia.com/gpu"}
    add_pod(api, LLAMA, "a", spec={}, status={"phase": "Pending", "conditions": [condition]})
    add_pod(api, LLAMA, "b", status=ready())
    for name, when, reason in (("x", "2026-01-01T00:00:00Z", "TriggeredScaleUp"), ("y", "2026-01-02", "FailedScaleUp")):
        event = {"reason": reason, "message": reason.lower(), "lastTimestamp": when, "involvedObject": {"name": "a"}}
        api.put(f"/api/v1/namespaces/{LLAMA.namespace}/events/{name}", event)
    state = progress_of(cluster, PROD, LLAMA)
    assert (state.step, state.ready, state.wanted) == ("pending", 1, 2)
    assert "Insufficient nvidia.com/gpu" in state.detail
    assert "FailedScaleUp: failedscaleup" in state.detail  # the last word, not the first
    assert "TriggeredScaleUp" not in state.detail


def test_weights_start_and_failure_are_told_apart(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, LLAMA)
    waiting = {"initContainerStatuses": [{"name": "wait-for-weights", "ready": False, "state": {"running": {}}}]}
    add_pod(api, LLAMA, "a", status={"phase": "Pending", **waiting})
    add_pod(api, LLAMA, "b", status={"phase": "Running", "containerStatuses": [{"name": "engine", "state": {}}]})
    assert progress_of(cluster, PROD, LLAMA).step == "waiting for weights"
    api.objects.pop(pod_at(LLAMA, "a"))
    state = progress_of(cluster, PROD, LLAMA)
    assert state.step == "starting"
    assert str(LLAMA.startup_seconds) in state.detail
    crash = {
        "name": "engine",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "Traceback\nCUDA out of memory"}},
    }
    add_pod(api, LLAMA, "c", status={"phase": "Running", "containerStatuses": [crash]})
    state = progress_of(cluster, PROD, LLAMA)
    assert state.step == "failing"
    assert "CUDA out of memory" in state.detail


def test_what_streams_waits_for_the_bucket_and_says_the_command(api: ApiServer, cluster: Cluster) -> None:
    dev = stack_plan("dev")
    model = dev.models[0]
    add_workload(api, model)
    state: dict[str, Any] = {"name": "wait-for-weights", "ready": False, "state": {"running": {}}}
    add_pod(api, model, "a", status={"phase": "Pending", "initContainerStatuses": [state]})
    found = progress_of(cluster, dev, model)
    assert found.step == "waiting for weights"
    assert f"{model.weights.hub_id} at {model.weights.revision[:12]}" in found.detail
    assert "`python -m ops models stage --stack dev --model llama-8b`" in found.detail
    # Its time is up, and it is started again: its last word tells.
    state["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    state["lastState"] = {"terminated": {"exitCode": 1, "message": "after 3600 s X is not staged"}}
    add_pod(api, model, "a", status={"phase": "Pending", "initContainerStatuses": [state]})
    found = progress_of(cluster, dev, model)
    assert found.step == "failing"
    assert "X is not staged" in found.detail


def test_a_group_is_ready_when_all_its_pods_are(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, R1)
    add_pod(api, R1, "leader", "leader", status=ready())
    add_pod(api, R1, "worker", "worker")
    assert progress_of(cluster, PROD, R1).step == "starting"
    add_pod(api, R1, "worker", "worker", status=ready())
    assert progress_of(cluster, PROD, R1).done


def test_a_ray_head_is_no_replica(api: ApiServer, cluster: Cluster) -> None:
    model = RAY.models[0]
    add_workload(api, model)
    add_pod(api, model, "head", "ray-head", status=ready())
    add_pod(api, model, "w0", "worker", status=ready())
    assert progress_of(cluster, RAY, model).ready == 1


def test_pods_that_are_leaving_do_not_count(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, LLAMA)
    for name in ("a", "b"):
        add_pod(api, LLAMA, name, status=ready())
    labels = {MODEL_LABEL: LLAMA.name, GROUP_ROLE_LABEL: "server"}
    add_pod(api, LLAMA, "b", status=ready(), metadata={"labels": labels, "deletionTimestamp": "now"})
    assert progress_of(cluster, PROD, LLAMA).ready == 1


def fail_warm_up(api: ApiServer, model: ModelPlan) -> str:
    warmup = next(one for one in PROD.warmups if model.name in one.models)
    condition = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}
    api.put(job_path(model.namespace, warmup.name), {"spec": {}, "status": {"conditions": [condition]}})
    return warmup.name


def test_weights_that_are_broken_are_not_waited_for(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, R1)
    add_pod(api, R1, "leader", "leader", status={"phase": "Pending"})
    job = fail_warm_up(api, R1)
    times = count(step=1000)
    states = wait(
        cluster, PROD, (R1,), limit_seconds=10**6, tell=lambda _: None, pause=lambda _: None, clock=lambda: next(times)
    )
    assert states[0].step == "failed"
    assert job in states[0].detail
    assert next(times) < 10**4  # it gave up at once, long before the limit


def test_waiting_ends_when_all_are_ready_and_tells_each_step_once(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, LLAMA)
    add_pod(api, LLAMA, "a")
    add_pod(api, LLAMA, "b")
    told: list[str] = []
    rounds = count()

    def pause(_: float) -> None:
        if next(rounds) == 2:
            for name in ("a", "b"):
                add_pod(api, LLAMA, name, status=ready())

    states = wait(cluster, PROD, (LLAMA,), limit_seconds=60, tell=lambda one: told.append(one.step), pause=pause)
    assert states[0].done
    assert told == ["starting", "ready"]


def test_time_is_up(api: ApiServer, cluster: Cluster) -> None:
    add_workload(api, LLAMA)
    times = count(step=30)
    states = wait(
        cluster, PROD, (LLAMA,), limit_seconds=60, tell=lambda _: None, pause=lambda _: None, clock=lambda: next(times)
    )
    assert states[0].step == "no pods"


def test_the_limit_comes_from_the_plan() -> None:
    boot = max(rung.boot_seconds for rung in PROD.pool(R1.pool).rungs)
    assert timeout_of(PROD, (R1,)) >= boot + 2 * R1.startup_seconds
    # 689 GB through a system node's sustained 3.125 Gbit/s: half an hour that is not lateness.
    assert timeout_of(PROD, (R1,)) >= boot + 2 * (R1.startup_seconds + 688 / 0.391)
    assert timeout_of(PROD, PROD.models) == max(timeout_of(PROD, (model,)) for model in PROD.models)


@pytest.mark.parametrize(("status", "said"), [(401, "refuses"), (403, "refuses"), (500, "answered 500")])
def test_refusals_of_the_api_server_are_told(api: ApiServer, cluster: Cluster, status: int, said: str) -> None:
    api.status = status
    with pytest.raises(MissingError, match=said):
        progress_of(cluster, PROD, LLAMA)


# --- drain ----------------------------------------------------------------------------------------------------------


def play_controllers(api: ApiServer, plan: Plan) -> None:
    """Pods go when their workload is stopped; a scaler that is not paused brings them back."""

    def on_patch(path: str, change: dict[str, Any]) -> None:
        for model in plan.models:
            if path != workload_path(model) or change["spec"] not in ({"replicas": 0}, {"suspend": True}):
                continue
            scaler = api.objects.get(scaler_path(model))
            if scaler is None or scaler["metadata"].get("annotations", {}).get(PAUSED) == "0":
                for at in [at for at in api.objects if at.startswith(f"{pods_path(model.namespace)}/{model.name}-")]:
                    del api.objects[at]

    api.on_patch = on_patch


def furnish(api: ApiServer, plan: Plan) -> None:
    for model in plan.models:
        add_workload(api, model)
        if model.scaling.owner == "keda":
            api.put(scaler_path(model), {"spec": {}})
        add_pod(api, model, f"{model.name}-0", "worker" if model.ray else "server", status=ready())


def test_drain_stops_scalers_before_workloads_and_leaves_no_pod(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, PROD)
    play_controllers(api, PROD)
    warmup = PROD.warmups[0]
    namespace = PROD.models[0].namespace
    api.put(job_path(namespace, warmup.name), {"spec": {"suspend": False}})
    result = drain(cluster, PROD, tell=lambda _: None, pause=lambda _: None)
    assert result.pods_left == ()
    assert result.absent == ()
    order = [path for path, _ in api.patches]
    scalers = [order.index(scaler_path(model)) for model in PROD.models if model.scaling.owner == "keda"]
    workloads = [order.index(workload_path(model)) for model in PROD.models]
    assert scalers
    assert max(scalers) < min(workloads)
    assert api.objects[job_path(namespace, warmup.name)]["spec"]["suspend"] is True


def test_pods_that_do_not_end_in_time_are_named(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, PROD)  # no controller plays along
    times = count(step=400)
    result = drain(cluster, PROD, tell=lambda _: None, pause=lambda _: None, clock=lambda: next(times))
    assert set(result.pods_left) == {f"{model.namespace}/{model.name}-0" for model in PROD.models}


def test_a_ray_service_is_suspended_and_brought_back(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, RAY)
    play_controllers(api, RAY)
    model = RAY.models[0]
    assert drain(cluster, RAY, tell=lambda _: None, pause=lambda _: None).pods_left == ()
    assert api.objects[workload_path(model)]["spec"]["suspend"] is True
    assert undo(cluster, RAY) == tuple(one.name for one in RAY.models)
    assert api.objects[workload_path(model)]["spec"]["suspend"] is False


def test_undo_restores_the_minimum_and_lets_the_scaler_go(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, PROD)
    play_controllers(api, PROD)
    drain(cluster, PROD, tell=lambda _: None, pause=lambda _: None)
    undo(cluster, PROD)
    for model in PROD.models:
        assert api.objects[workload_path(model)]["spec"]["replicas"] == model.scaling.min_replicas
        assert PAUSED not in api.objects[scaler_path(model)]["metadata"].get("annotations", {})


def test_warm_nodes_are_let_go_with_a_drain_and_kept_again_after_it(api: ApiServer, cluster: Cluster) -> None:
    plan = example_plan("resilient")
    assert plan.warm
    for warm in plan.warm:
        api.put(placeholders_path(warm), {"spec": {"replicas": warm.pods}})
    drain(cluster, plan, tell=lambda _: None, pause=lambda _: None)
    assert {api.objects[placeholders_path(warm)]["spec"]["replicas"] for warm in plan.warm} == {0}
    undo(cluster, plan)
    assert all(api.objects[placeholders_path(warm)]["spec"]["replicas"] == warm.pods for warm in plan.warm)


def test_nodes_that_remain_are_counted_and_priced(api: ApiServer, cluster: Cluster) -> None:
    pool = PROD.pool("a100")
    rung = pool.rungs[0]
    for index in range(3):
        labels = {**pool.node_selector, **rung.labels}
        assert labels[POOL_LABEL]
        assert labels[RUNG_LABEL]
        api.put(f"/api/v1/nodes/n{index}", {"metadata": {"labels": labels}})
    api.put("/api/v1/nodes/system", {"metadata": {"labels": {}}})
    result = drain(cluster, PROD, tell=lambda _: None, pause=lambda _: None)
    assert [(one.rung, one.nodes) for one in result.nodes] == [(rung.name, 3)]
    assert result.nodes[0].usd_per_hour == pytest.approx(3 * rung.usd_per_node_hour, abs=0.01)
    assert set(result.absent) == {model.name for model in PROD.models}


def test_karpenters_nodes_end_with_the_drain_and_its_node_pools_stay(api: ApiServer, cluster: Cluster) -> None:
    plan = example_plan("karpenter")
    furnish(api, plan)
    play_controllers(api, plan)
    api.put("/apis/karpenter.sh/v1/nodepools/l40s-spot", {})
    for name, pool in (("mine", "l40s-spot"), ("also-mine", "l40s-on-demand"), ("of-others", "batch")):
        api.put(f"{NODE_CLAIMS}/{name}", {"metadata": {"labels": {NODE_POOL_LABEL: pool}}})
    result = drain(cluster, plan, tell=lambda _: None, pause=lambda _: None)
    assert (result.pods_left, result.claims_left) == ((), ())
    assert sorted(api.deleted) == [f"{NODE_CLAIMS}/also-mine", f"{NODE_CLAIMS}/mine"]
    assert "/apis/karpenter.sh/v1/nodepools/l40s-spot" in api.objects  # --undo needs them


def test_a_node_of_karpenter_that_does_not_end_is_named(api: ApiServer, cluster: Cluster) -> None:
    plan = example_plan("karpenter")
    furnish(api, plan)
    play_controllers(api, plan)
    api.put(f"{NODE_CLAIMS}/stuck", {"metadata": {"labels": {NODE_POOL_LABEL: "l40s-spot"}}})
    api.held.add(f"{NODE_CLAIMS}/stuck")
    times = count(step=100)
    result = drain(cluster, plan, tell=lambda _: None, pause=lambda _: None, clock=lambda: next(times))
    assert result.claims_left == ("stuck",)


def test_nodes_under_pods_that_did_not_end_are_left_alone(api: ApiServer, cluster: Cluster) -> None:
    plan = example_plan("karpenter")
    furnish(api, plan)  # no controller plays along
    api.put(f"{NODE_CLAIMS}/mine", {"metadata": {"labels": {NODE_POOL_LABEL: "l40s-spot"}}})
    times = count(step=400)
    result = drain(cluster, plan, tell=lambda _: None, pause=lambda _: None, clock=lambda: next(times))
    assert result.pods_left
    assert api.deleted == []


def test_a_pod_whose_shards_are_written(api: ApiServer, cluster: Cluster) -> None:
    model = model_of(PROD, "r1-distill-70b")
    api.put(workload_path(model), {})
    writing = {"name": "save-shards", "ready": False, "state": {"running": {}}}
    labels = {"app.kubernetes.io/instance": model.name, "inference-platform/group-role": "server"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"nodeName": "a"},
        "status": {"initContainerStatuses": [writing]},
    }
    api.put(f"/api/v1/namespaces/{model.namespace}/pods/{model.name}-0", pod)
    progress = progress_of(cluster, PROD, model)
    assert progress.step == "starting"
    assert "shards are written" in progress.detail


def test_a_group_at_the_efa_gate(api: ApiServer, cluster: Cluster) -> None:
    model = model_of(PROD, "deepseek-r1")
    api.put(workload_path(model), {})
    gate = {"name": "efa-gate", "ready": False}
    running = {"initContainerStatuses": [{**gate, "state": {"running": {}}}]}
    ended = {"exitCode": 1, "message": "not on EFA: node a: fi_info -p efa shows 31 of 32 devices\n"}
    failed = {
        "initContainerStatuses": [
            {**gate, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
        ]
    }
    labels = {"app.kubernetes.io/instance": model.name, "inference-platform/group-role": "leader"}
    at = f"/api/v1/namespaces/{model.namespace}/pods/{model.name}-0"
    pod: dict[str, Any] = {"metadata": {"labels": labels}, "spec": {"nodeName": "a"}, "status": running}
    api.put(at, pod)
    progress = progress_of(cluster, PROD, model)
    assert progress.step == "starting"
    assert "EFA gate" in progress.detail
    api.put(at, {**pod, "status": failed})
    progress = progress_of(cluster, PROD, model)
    assert progress.step == "failing"
    assert "31 of 32 devices" in progress.detail


def test_pods_on_karpenters_pool_say_what_karpenter_says(api: ApiServer, cluster: Cluster) -> None:
    plan = example_plan("karpenter")
    model = model_of(plan, "llama-8b")
    add_workload(api, model)
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient nvidia.com/gpu"}
    add_pod(api, model, "a", spec={}, status={"phase": "Pending", "conditions": [condition]})
    for name, source, when in (("x", "karpenter", "2026-01-01"), ("y", "default-scheduler", "2026-01-02")):
        event = {
            "reason": "FailedScheduling",
            "message": f"said by {source}",
            "lastTimestamp": when,
            "source": {"component": source},
            "involvedObject": {"name": "a"},
        }
        api.put(f"/api/v1/namespaces/{model.namespace}/events/{name}", event)
    detail = progress_of(cluster, plan, model).detail
    assert "said by karpenter" in detail
    assert "said by default-scheduler" not in detail


def test_services_that_hold_a_load_balancer_stop_a_destroy_and_go_when_asked(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, PROD)
    play_controllers(api, PROD)
    held = "/api/v1/namespaces/web/services/shop"
    api.put(held, {"metadata": {"namespace": "web", "name": "shop"}, "spec": {"type": "LoadBalancer"}})
    api.put(
        "/api/v1/namespaces/web/services/inner",
        {"metadata": {"namespace": "web", "name": "inner"}, "spec": {"type": "ClusterIP"}},
    )
    asked = drain(cluster, PROD, tell=lambda _: None, pause=lambda _: None)
    assert asked.load_balancers == ("service web/shop",)
    assert not asked.whole
    assert held in api.objects
    ended = drain(cluster, PROD, tell=lambda _: None, end_balancers=True, pause=lambda _: None)
    assert ended.whole
    assert api.deleted == [held]


def test_a_load_balancer_that_does_not_go_is_named(api: ApiServer, cluster: Cluster) -> None:
    furnish(api, PROD)
    play_controllers(api, PROD)
    held = "/apis/networking.k8s.io/v1/namespaces/web/ingresses/shop"
    status = {"loadBalancer": {"ingress": [{"hostname": "shop.elb.amazonaws.com"}]}}
    api.put(held, {"metadata": {"namespace": "web", "name": "shop"}, "spec": {}, "status": status})
    api.held.add(held)
    times = count(step=100)
    ended = drain(
        cluster, PROD, tell=lambda _: None, end_balancers=True, pause=lambda _: None, clock=lambda: next(times)
    )
    assert ended.load_balancers == ("ingress web/shop",)
