"""What stands between clients and a model's replicas: whether a router does, its command line, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from catalog.load import Catalog
from planner.cost.lines import HOURS_PER_MONTH
from planner.disaggregation import KV_CONNECTOR_ANNOTATION
from planner.drafts import Draft
from planner.images import mirrored
from planner.naming import GROUP_ROLE_LABEL, MODEL_LABEL, SERVING_PRIORITY
from planner.patience import limit_seconds
from planner.plan import ActivatorPlan, Explained, Input, ModelPlan, PoolPlan, RouterPlan, StandbyPlan
from planner.problems import Findings
from planner.routing import check_routing, refuse_names_of_operators, router_name, why_routed
from settings.root import Settings
from settings.routing import RoutingPolicy

COMPONENT_LABEL = "app.kubernetes.io/component"
MODEL_SERVER = "model-server"
"""Value of the label on pods that run an engine."""
WORKER_INDEX_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
API_KEY_VARIABLE = "ROUTER_API_KEY"

ROUTER_ALIVE = "smg_tokio_workers"
"""A gauge that the router has from its start, with no replica too (`metrics_at_start` of catalog/router_flags)."""
ACTIVATOR_HELD = "activator_requests_held"
ACTIVATOR_STANDBY = "activator_standby_active"
"""1 while no replica serves and the standby is asked."""

_REPLICAS = 2
_PORT, _METRICS_PORT, _ACTIVATOR_PORT, _ACTIVATOR_METRICS_PORT = 30080, 29000, 30081, 29001
_PRE_STOP_SECONDS = 15
_CHECK_SECONDS, _FAILURES = 2, 3
_HEALTH_SECONDS, _HEALTH_FAILURES = 5, 2
_HELD_REQUESTS = 1000
_HELD_BYTES = 256 * 1024 * 1024
_LARGEST_BODY = 64 * 1024 * 1024
"""Of one request; a quarter of what may wait in the activator, which holds to it too. The router's default, eight times
as much, would let four clients end it for lack of memory."""

_POLICIES: Mapping[RoutingPolicy, tuple[str, ...]] = {
    "cache_aware": ("--policy=cache_aware",),
    "least_request": ("--policy=power_of_two", "--power-of-two-load-metric=least_requests"),
    "round_robin": ("--policy=round_robin",),
    "session": ("--policy=consistent_hashing",),
}


_RETRIES = 4
_RETRIES_OF_TWO_GROUPS = 8
"""A pair is drawn anew each time, and prefixes draw the same prefill: with 4 some requests met a killed one each time
(seen in tests/router, one run in two), with 8 none in 20 runs."""

_OF_TWO_GROUPS = (
    "--pd-disaggregation",
    f"--kv-connector-annotation={KV_CONNECTOR_ANNOTATION}",
    # Prefixes lie with prefill; decode gets each cache whole and wants room.
    "--decode-policy=power_of_two",
    "--power-of-two-load-metric=least_requests",
)
"""In the order of things: vLLM's prefill answers with what decode needs; SGLang's two meet at the bootstrap port."""


def plan_routers(
    drafts: Sequence[Draft],
    models: tuple[ModelPlan, ...],
    settings: Settings,
    pools: Mapping[str, PoolPlan],
    catalog: Catalog,
    findings: Findings,
) -> tuple[ModelPlan, ...]:
    """The models, those that need one with their router. Drafts and models are in the same order."""
    image = mirrored(catalog.versions.images["router"].reference, settings.images.mirror)
    by_name = {model.name: model for model in models}
    scrape = settings.observability.scrape_interval_seconds
    check_routing(settings, findings)
    refuse_names_of_operators(drafts, by_name, findings)
    return tuple(
        _routed(sketch, model, by_name, pools, image, scrape, findings)
        for sketch, model in zip(drafts, models, strict=True)
    )


def _routed(
    sketch: Draft,
    model: ModelPlan,
    by_name: Mapping[str, ModelPlan],
    pools: Mapping[str, PoolPlan],
    image: str,
    scrape_seconds: int,
    findings: Findings,
) -> ModelPlan:
    if not model.is_endpoint:
        return model
    why = why_routed(sketch.model)
    if why is None:
        return replace(model, why={**model.why, "routing": _without_router(model)})
    standby = _standby(sketch, by_name, pools, findings)
    wait = model.scaling.polling_seconds + scrape_seconds + model.scaling.initial_delay_seconds
    holds = sketch.model.replicas.min == 0
    activator = None
    if holds or standby is not None:
        activator = ActivatorPlan(
            port=_ACTIVATOR_PORT,
            metrics_port=_ACTIVATOR_METRICS_PORT,
            # As patient as the startup probe: twice the planned start.
            hold_seconds=limit_seconds(wait + model.startup_seconds) if holds else _HEALTH_SECONDS * _HEALTH_FAILURES,
            held_requests=_HELD_REQUESTS,
            held_bytes=_HELD_BYTES,
            check_seconds=_CHECK_SECONDS,
            failures=_FAILURES,
            standby=standby,
        )
    if holds:
        hold = activator.hold_seconds if activator else 0
        findings.remark(
            f"models[{sketch.index}]",
            f"without a replica, the first request waits {wait} s as planned and {hold} s at most: clients need a "
            f"timeout above {hold} s",
        )
    router = RouterPlan(
        name=router_name(model.name),
        image=image,
        command=("python3", "-m", "smg.launch_router"),
        args=_args(sketch, model, by_name),
        policy=sketch.model.routing.policy,
        port=_PORT,
        metrics_port=_METRICS_PORT,
        replicas=_REPLICAS,
        cpu_millis=500,
        memory_mib=256,
        memory_limit_mib=2048,
        pre_stop_seconds=_PRE_STOP_SECONDS,
        grace_seconds=_PRE_STOP_SECONDS + model.drain.drain_seconds + 15,
        activator=activator,
        priority_class=SERVING_PRIORITY,
        why=why,
    )
    numbers = (*(_first_wait(model, wait, scrape_seconds) if holds else ()), *_standby_cost(standby, by_name, pools))
    return replace(
        model,
        router=router,
        why={**model.why, "routing": _words(router)},
        numbers=(*model.numbers, *numbers),
    )


def _args(sketch: Draft, model: ModelPlan, by_name: Mapping[str, ModelPlan]) -> tuple[str, ...]:
    """Options of the router; each is in catalog/router_flags, which the tests hold them to.

    Pods are found by label, taken when they are ready and left when their end begins, so what they do in `preStop`
    is only to wait for those that learn it later.
    """
    engine = sketch.engine
    return (
        "--host=0.0.0.0",
        f"--port={_PORT}",
        "--prometheus-host=0.0.0.0",
        f"--prometheus-port={_METRICS_PORT}",
        "--log-level=warn",
        "--log-json",
        *dict.fromkeys((*_POLICIES[sketch.model.routing.policy], *(_OF_TWO_GROUPS if model.disaggregation else ()))),
        "--service-discovery",
        f"--service-discovery-namespace={model.namespace}",
        f"--service-discovery-port={model.container.port}",
        *_selectors(model, by_name),
        # A pod is ready before it is found, so the first look succeeds; the default would wait 30 s for a second one.
        "--worker-startup-check-interval=2",
        f"--health-check-endpoint={engine.health.readiness}",
        f"--health-check-interval-secs={_HEALTH_SECONDS}",
        f"--health-check-timeout-secs={_HEALTH_SECONDS}",
        f"--health-failure-threshold={_HEALTH_FAILURES}",
        "--health-success-threshold=1",
        f"--retry-max-retries={_RETRIES_OF_TWO_GROUPS if model.disaggregation else _RETRIES}",
        "--retry-initial-backoff-ms=100",
        "--retry-max-backoff-ms=2000",
        # A full engine's 503 counts as a failure: with few of them allowed, a peak would open every circuit and turn
        # requests away from replicas that are free again. Health checks take the dead ones out.
        "--cb-failure-threshold=20",
        "--cb-success-threshold=1",
        "--cb-timeout-duration-secs=2",
        "--cb-window-duration-secs=30",
        "--request-timeout-secs=3600",
        f"--max-payload-size={_LARGEST_BODY}",
        f"--shutdown-grace-period-secs={model.drain.drain_seconds}",
        # Tokenizers would come from the hub; the prefix tree works on text as well.
        "--disable-tokenizer-autoload",
        "--history-backend=none",
    )


def _selectors(model: ModelPlan, by_name: Mapping[str, ModelPlan]) -> tuple[str, ...]:
    """Which pods are asked; of two groups, those of each."""
    if model.disaggregation is None:
        return "--selector", *_pods(model)
    prefill = by_name[model.disaggregation.peer]
    return "--prefill-selector", *_pods(prefill), "--decode-selector", *_pods(model)


def _pods(model: ModelPlan) -> tuple[str, ...]:
    of_groups = (
        (f"{GROUP_ROLE_LABEL}=leader", f"{WORKER_INDEX_LABEL}=0") if model.runtime == "leader_worker_set" else ()
    )
    return f"{MODEL_LABEL}={model.name}", f"{COMPONENT_LABEL}={MODEL_SERVER}", *of_groups


def _standby(
    sketch: Draft, by_name: Mapping[str, ModelPlan], pools: Mapping[str, PoolPlan], findings: Findings
) -> StandbyPlan | None:
    wanted = sketch.model.standby
    # One that is not there, or has problems of its own, is told elsewhere.
    if wanted is None or wanted.model == sketch.model.name or wanted.model not in by_name:
        return None
    path = (*sketch.path, "standby")
    other = by_name[wanted.model]
    if other.disaggregation is not None:
        findings.problem(
            (*path, "model"),
            f"`{other.name}` has prefill and decode apart, which was never tried as a standby",
            "name a model whose replicas do both",
        )
    if other.scaling.min_replicas < wanted.replicas:
        findings.problem(
            (*path, "replicas"),
            f"`{other.name}` keeps {other.scaling.min_replicas} replica(s), {wanted.replicas} are to stand by",
            f"set its `replicas.min` to {wanted.replicas} or more",
        )
    if other.scaling.idle_seconds is not None:
        findings.problem(
            (*path, "model"),
            f"`{other.name}` may have no replica",
            "a standby is always there: leave out its `idle_minutes`, and `replicas.min` at 1 or more",
        )
    if other.ray is not None:
        findings.problem(
            (*path, "model"),
            f"`{other.name}` is behind Ray Serve's own proxy, which checks no key and has none",
            "name a model of runtime deployment or leader_worker_set",
        )
    if other.context_tokens < sketch.model.context_tokens:
        findings.problem(
            (*path, "model"),
            f"`{other.name}` takes {other.context_tokens} tokens, fewer than the {sketch.model.context_tokens} of "
            "the model that it stands by for",
            f"set its `context_tokens` to {sketch.model.context_tokens}, or name a model that takes as many",
        )
    pool = pools[other.pool]
    price = next((rung.usd_per_node_hour for rung in pool.rungs if rung.usd_per_node_hour), None)
    gpus = wanted.replicas * other.layout.gpus
    return StandbyPlan(
        model=other.name,
        host=f"{other.name}.{other.namespace}.svc",
        port=other.service_port,
        api_key=other.api_key,
        replicas=wanted.replicas,
        gpus=gpus,
        usd_per_month=price * HOURS_PER_MONTH * gpus / pool.hardware.gpus if price else None,
    )


def _first_wait(model: ModelPlan, wait: int, scrape_seconds: int) -> tuple[Explained, ...]:
    scaling = model.scaling
    return (
        Explained(
            section="router",
            name="wait of the first request without a replica",
            value=wait,
            unit="s",
            formula="scrape + poll + boot and start",
            inputs=(
                Input(
                    name="scrape",
                    value=scrape_seconds,
                    unit="s",
                    source="observability.scrape_interval_seconds in the stack file, or its default",
                ),
                Input(name="poll", value=scaling.polling_seconds, unit="s", source="KEDA's polling interval"),
                Input(
                    name="boot and start",
                    value=scaling.initial_delay_seconds,
                    unit="s",
                    source="section start, above, and the slowest rung's boot",
                ),
            ),
        ),
    )


def _standby_cost(
    standby: StandbyPlan | None, by_name: Mapping[str, ModelPlan], pools: Mapping[str, PoolPlan]
) -> tuple[Explained, ...]:
    if standby is None or standby.usd_per_month is None:
        return ()
    pool = pools[by_name[standby.model].pool]
    rung = next(rung for rung in pool.rungs if rung.usd_per_node_hour)
    return (
        Explained(
            section="router",
            name="GPUs of the standby",
            value=round(standby.usd_per_month, 2),
            unit="$/month",
            formula="GPUs / GPUs a node x price x hours",
            inputs=(
                Input(name="GPUs", value=standby.gpus, unit="", source=f"standby.replicas of `{standby.model}`"),
                Input(name="GPUs a node", value=pool.hardware.gpus, unit="", source=f"pool {pool.name}"),
                Input(name="price", value=rung.usd_per_node_hour, unit="$/h", source=rung.price_note),
                Input(name="hours", value=HOURS_PER_MONTH, unit="h", source="365 days / 12"),
            ),
        ),
    )


def _without_router(model: ModelPlan) -> str:
    """How requests are spread where no router is, in a sentence."""
    if model.ray is not None:
        return "Ray Serve's own proxy: of two replicas the one with fewer requests, others are held back and queued"
    most = model.scaling.max_replicas
    if most == 1:
        return "plain Service: one replica, nothing to balance"
    return (
        f"plain Service before {most} replicas: it spreads connections at random, whatever their load; "
        "`routing: {kind: router, policy: least_request}` goes by requests"
    )


def _words(router: RouterPlan) -> str:
    """The decision in a sentence."""
    told = f"router ({router.policy}) x {router.replicas}: {router.why}"
    activator = router.activator
    if activator is None:
        return told
    if activator.standby is not None:
        cost = activator.standby.usd_per_month
        money = f", {cost:,.0f} $ a month" if cost else ""
        told += (
            f"; {activator.standby.replicas} replica(s) of {activator.standby.model} stand by on "
            f"{activator.standby.gpus} GPU(s){money}, asked {activator.failover_seconds} s after the last replica's end"
        )
    return f"{told}; holds a request {activator.hold_seconds} s at most"
