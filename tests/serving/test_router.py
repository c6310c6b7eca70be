"""Which models have a router, how it is told what to do, and what it may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.scripts import activator
from components.serving import router as routing
from components.serving.model_server import service_spec
from components.serving.network_policy import rules
from components.serving.scaling import scaled_object
from ops.explain import decisions_of
from planner import StackFileError
from planner.naming import CLIENT_LABEL
from planner.plan import ModelPlan, RouterPlan
from planner.router import ACTIVATOR_HELD, ACTIVATOR_STANDBY
from planner.scaling import ACTIVATOR_PEAK
from policy import judge
from tests.crd_schemas import problems
from tests.factories import model_of, stack_plan
from tests.router.plans import LARGE, SMALL, SPARE, asleep, disaggregated, planned, routed, with_standby
from tests.serving.worlds import manifest, serve

FLAGS = Path(__file__).parents[2] / "catalog" / "router_flags"


def router_of(model: ModelPlan) -> RouterPlan:
    assert model.router is not None
    return model.router


def refused(**fields: Any) -> list[str]:
    with pytest.raises(StackFileError) as caught:
        planned(**fields)
    return [f"{problem.dotted()}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    "model",
    [routed(), asleep(), model_of(stack_plan("prod"), LARGE), model_of(disaggregated(), SMALL)],
    ids=["routed", "asleep", "large", "disaggregated"],
)
def test_every_option_is_one_of_the_pinned_router(model: ModelPlan) -> None:
    version = router_of(model).image.rpartition(":")[2]
    known = yaml.safe_load((FLAGS / f"smg-{version}.yaml").read_text())["flags"]
    option = ""
    for arg in router_of(model).args:
        if not arg.startswith("--"):
            assert known[option]["values"] == "many", arg
            continue
        option, given, value = arg.partition("=")
        assert option in known, option
        assert known[option]["values"] == ("one" if given else known[option]["values"])
        assert given or known[option]["values"] != "one", option
        assert value in known[option].get("choices", [value]), arg


def test_the_tests_run_the_router_that_is_deployed() -> None:
    version = router_of(routed()).image.rpartition(":")[2]
    assert f"smg=={version}" in (FLAGS.parents[1] / "requirements-router.txt").read_text()


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({"replicas": {"min": 1, "max": 2}}, False),
        ({"replicas": {"min": 1, "max": 3}}, True),
        ({"replicas": {"min": 0, "max": 1}}, True),
        ({"replicas": {"min": 1, "max": 1}, "routing": {"kind": "router"}}, True),
        ({"replicas": {"min": 3, "max": 3}, "routing": {"kind": "service"}}, False),
    ],
)
def test_a_router_stands_where_it_pays(fields: dict[str, Any], has: bool) -> None:
    model = model_of(planned(without=("traffic",), **fields), SMALL)
    assert (model.router is not None) is has
    assert model.why["routing"].startswith("router" if has else "plain Service")
    assert ("least_request" in model.why["routing"]) is (not has and model.scaling.max_replicas > 1)
    selected = service_spec(model)["selector"]["app.kubernetes.io/instance"]
    assert selected == (f"{SMALL}-router" if has else SMALL)


def test_pods_are_found_by_the_labels_that_they_carry_and_a_group_by_its_leader() -> None:
    args = router_of(model_of(stack_plan("prod"), LARGE)).args
    start = args.index("--selector") + 1
    labels = [arg for arg in args[start : start + 4] if not arg.startswith("--")]
    assert f"app.kubernetes.io/instance={LARGE}" in labels
    assert "inference-platform/group-role=leader" in labels
    assert "leaderworkerset.sigs.k8s.io/worker-index=0" in labels


ADAPTER = {
    "engine": "vllm",
    "lora": {"adapters": [{"name": "legal", "source": "acme/legal", "revision": "a" * 40, "rank": 8}]},
}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"replicas": {"min": 0, "max": 3}, "routing": {"kind": "service"}}, "routing.kind: a plain Service cannot"),
        ({"routing": {"kind": "service", "policy": "session"}}, "routing.policy: a plain Service has no policy"),
        ({"standby": {"model": SMALL}}, "standby.model: a model cannot stand by for itself"),
        ({"standby": {"model": "llama"}}, "standby.model: there is no model `llama`"),
        ({"spare": {}, "standby": {"model": SPARE, "replicas": 2}}, "standby.replicas: `spare` keeps 1 replica(s)"),
        ({"spare": {"context_tokens": 4096}, "standby": {"model": SPARE}}, "`spare` takes 4096 tokens"),
        ({"spare": {"replicas": {"min": 0, "max": 1}}, "standby": {"model": SPARE}}, "`spare` may have no replica"),
        ({"runtime": "ray_service", "replicas": {"min": 0, "max": 3}}, "replicas.min: a RayService keeps one"),
        ({"runtime": "ray_service", "routing": {"kind": "router"}}, "routing: Ray Serve has its own proxy"),
        ({"autoscaling": {"idle_minutes": 30}}, "autoscaling.idle_minutes: nothing would bring the model back"),
        ({"spare": {"name": f"{SMALL}-router"}}, "its router would be called like the model"),
        (
            {"spare": {"standby": {"model": SMALL}}, "standby": {"model": SPARE}},
            f"standby.model: requests would go round: {SMALL} -> {SPARE} -> {SMALL}",
        ),
        ({"runtime": "ray_service", "routing": {"policy": "session"}}, "routing: Ray Serve has its own proxy"),
        (
            {"runtime": "ray_service", "spare": {"name": f"{SMALL}-serve-svc"}},
            f"makes a Service `{SMALL}-serve-svc`",
        ),
        ({"runtime": "leader_worker_set", "spare": {"name": f"{SMALL}-1"}}, f"makes a Service `{SMALL}-1`"),
        ({"engine_options": ADAPTER}, "engine_options.lora: its router (up to 5 replicas"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], told: str) -> None:
    assert any(told in line for line in refused(**fields)), refused(**fields)


def test_a_model_without_replicas_is_woken_by_its_router_and_sleeps_again() -> None:
    model = asleep()
    activator = router_of(model).activator
    assert activator is not None
    scaler = scaled_object(model, "http://prometheus").spec()
    assert (scaler["minReplicaCount"], "idleReplicaCount" in scaler) == (0, False)
    assert scaler["cooldownPeriod"] == max(900, model.scaling.initial_delay_seconds)
    queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in scaler["triggers"]}
    assert "activator_requests_peak" in queries["router"]
    # Metrics of pods that are gone must count as none; the router's own must not, or its end would look like sleep.
    assert {name for name, query in queries.items() if not query.endswith("or vector(0)")} == {"router"}
    wait = next(number for number in model.numbers if number.section == "router")
    assert wait.value > model.scaling.initial_delay_seconds
    assert activator.hold_seconds >= wait.value + model.startup_seconds
    told = [f.message for f in planned(replicas={"min": 0, "max": 4}).findings if "first request waits" in f.message]
    assert f"{wait.value} s as planned and {activator.hold_seconds} s at most" in told[0]


def test_sleep_takes_as_long_as_the_stack_file_says() -> None:
    fields = {"replicas": {"min": 0, "max": 4}, "autoscaling": {"idle_minutes": 45}}
    assert model_of(planned(**fields), SMALL).scaling.idle_seconds == 2700


def test_a_standby_is_asked_in_time_and_its_gpus_are_counted() -> None:
    model = with_standby()
    activator = router_of(model).activator
    assert activator is not None
    assert activator.standby is not None
    health = {arg.partition("=")[0]: arg.partition("=")[2] for arg in router_of(model).args}
    noticed = int(health["--health-check-interval-secs"]) * int(health["--health-failure-threshold"])
    assert noticed + activator.failover_seconds < 30
    (cost,) = [number for number in model.numbers if number.name == "GPUs of the standby"]
    gpus, of_node, price, hours = (float(given.value) for given in cost.inputs)
    assert cost.value == pytest.approx(gpus / of_node * price * hours, rel=1e-4)
    assert SPARE in model.why["routing"]


def test_the_routers_objects_guard_watch_and_spread_it() -> None:
    plan = planned(spare={}, standby={"model": SPARE})
    model = model_of(plan, SMALL)
    router = router_of(model)
    members = [r for r in serve(plan) if r.name.startswith(router.name)]
    kinds = [r.type.rpartition(":")[2] for r in members if r.type.startswith("kubernetes:")]
    for kind in ("ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "Deployment", "PodDisruptionBudget"):
        assert kinds.count(kind) == 1, kind
    monitors = [manifest(r) for r in members if r.type.endswith(":PodMonitor")]
    assert len(monitors) == 2
    assert [problems(monitor) for monitor in monitors] == [[], []]
    (workload,) = [manifest(r) for r in members if r.type.endswith(":Deployment")]
    pod = workload["spec"]["template"]
    assert workload["spec"]["replicas"] == 2
    assert pod["metadata"]["labels"][CLIENT_LABEL] == "true", "engines and the standby's router let it in"
    entry = service_spec(model)["ports"][0]["targetPort"]
    ports = {port["name"]: port["containerPort"] for c in pod["spec"]["containers"] for port in c["ports"]}
    assert ports[entry] == router.entry_port
    for container in pod["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not [arg for arg in container["args"] if "key" in arg and "$(" not in arg], "no key on a command line"
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert grace > router.pre_stop_seconds + model.drain.drain_seconds


def test_it_may_only_look_at_pods_and_only_clients_reach_it() -> None:
    model = with_standby()
    (rule,) = routing.role_rules()
    assert (rule["resources"], rule["verbs"]) == (["pods"], ["list", "watch"])
    policy = routing.network_policy(model, router_of(model))
    clients = [entry for entry in policy["ingress"] if "podSelector" in entry["from"][0]]
    assert clients[0]["from"][0]["podSelector"]["matchLabels"] == {CLIENT_LABEL: "true"}
    assert clients[0]["ports"] == [{"protocol": "TCP", "port": router_of(model).entry_port}]
    reached = policy["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert reached == rules(model)["podSelector"]["matchLabels"]


def test_ready_means_a_replica_is_known_unless_it_waits_for_one() -> None:
    plain = routing.pod_spec(routed(), router_of(routed()))["containers"]
    assert plain[0]["readinessProbe"]["httpGet"]["path"] == "/readiness"
    router, activator = routing.pod_spec(asleep(), router_of(asleep()))["containers"]
    assert "readinessProbe" not in router
    assert activator["readinessProbe"]["httpGet"]["port"] == router_of(asleep()).activator.metrics_port  # type: ignore[union-attr]


def test_what_goes_wrong_at_the_router_is_told() -> None:
    def alerts(plan: Any) -> dict[str, str]:
        return {a.name: a.expression for a in plan.observability.alerts if a.model == SMALL}

    assert "RouterDown" in alerts(planned())
    assert not {"RequestsHeld", "ServingFromStandby"} & alerts(planned()).keys()
    assert "RouterDown" not in alerts(planned(routing={"kind": "service"}))
    sleeping = alerts(planned(replicas={"min": 0, "max": 4}))
    assert "activator_requests_held" in sleeping["RequestsHeld"]
    assert f'pod!~"{SMALL}-router-.*"' in sleeping["ModelNotServing"], "a router is no replica"
    assert "activator_standby_active" in alerts(planned(spare={}, standby={"model": SPARE}))["ServingFromStandby"]


def test_metrics_of_the_alerts_and_triggers_are_those_of_the_activator() -> None:
    orders = activator.Orders(
        model="m",
        api_key="k",
        port=1,
        metrics_port=2,
        router_port=3,
        hold_seconds=1,
        held_requests=1,
        held_bytes=1,
        check_seconds=1,
        failures=1,
        drain_seconds=1,
    )
    shown = activator.Activator(orders).metrics()
    for name in (ACTIVATOR_HELD, ACTIVATOR_STANDBY, ACTIVATOR_PEAK):
        assert f'{name}{{model="m"}} 0' in shown


def test_a_router_without_a_guard_is_no_stack() -> None:
    records = [r for r in serve(planned()) if r.name.startswith(f"{SMALL}-router")]
    whole = judge.from_records(records)
    lacking = [one for one in whole if one.kind not in {"PodDisruptionBudget", "NetworkPolicy"}]
    assert not [v for v in judge.judge(whole) if v.rule == "models-guarded"]
    assert len([v for v in judge.judge(lacking) if v.rule == "models-guarded"]) == 2


def test_the_plan_says_in_words_why_there_is_a_router() -> None:
    assert decisions_of(with_standby())["routing"].startswith("router (cache_aware) x 2: `spare` stands by; 1 replica")
    told = decisions_of(model_of(planned(routing={"kind": "service"}), SMALL))["routing"]
    assert told.startswith("plain Service before 5 replicas: it spreads connections at random")
