"""From settings to the Plan: every decision, once, in plain Python."""

from __future__ import annotations

from dataclasses import replace

from catalog.load import Catalog, load
from catalog.types import Region
from planner import karpenter
from planner.alerts import plan_alerts
from planner.cache import Crowd, check_load_target, check_sharing, plan_cache, tell_streaming, with_possible_cache
from planner.charts import plan_charts
from planner.cost import Decided, plan_cost
from planner.disaggregation import Handoff, drafts_of, findings_of, plan_group, plan_handoffs, with_parts
from planner.disaggregation_explained import explain_groups
from planner.drafts import Draft
from planner.image_cache import plan_image_cache
from planner.image_pull import plan_image_pulls
from planner.images import mirrored, plan_pull_secrets, tell_tags
from planner.ladder import check_ladders, ladder_alerts, plan_ladder
from planner.naming import (
    MONITORING_NAMESPACE,
    PROJECT,
    PROMETHEUS_SERVICE,
    RETAINED_STORAGE_CLASS,
    SERVING_NAMESPACE,
    STORAGE_CLASS,
)
from planner.network import control_plane_zones, plan_network
from planner.plan import (
    CachePlan,
    LadderPlan,
    ModelPlan,
    ObservabilityPlan,
    Plan,
    PoolPlan,
    SecretPlan,
)
from planner.pool_facts import PoolFacts, look_up
from planner.pools import plan_pool
from planner.problems import Findings, PlanError
from planner.revisions import check_cache_size, plan_warmups
from planner.router import plan_routers
from planner.serving import plan_model, secret_of
from planner.spend_guard import plan_spend_guard
from planner.tags import plan_tags
from planner.target import check_heads, kubernetes_version, plan_target
from planner.valkey import check_shared_blocks, plan_kv_store, plan_valkey, with_clients
from planner.warm import plan_warm
from settings.errors import REGION_PATH, did_you_mean
from settings.pools import KarpenterPool
from settings.root import Settings
from settings.target import EksTarget, ExistingClusterTarget

_PROMETHEUS_FILL = 0.8
"""Share of its volume that Prometheus may fill with blocks; the rest is for its write-ahead log."""


def plan(settings: Settings, *, stack: str, region: str | None, catalog: Catalog | None = None) -> Plan:
    """Decide everything about a stack.

    Args:
        settings: the stack file.
        stack: the stack's name, part of the names of what AWS keys by name.
        region: AWS region; not needed for an existing cluster.
        catalog: facts; the project's own where left out.

    Raises:
        PlanError: with every problem that was found, where the stack is impossible or unsafe.
    """
    facts = catalog or load()
    findings = Findings()
    on_eks = isinstance(settings.target, EksTarget)
    where = _region(region, facts, findings) if on_eks else None
    version = kubernetes_version(settings, facts, findings)
    _check_names(settings, findings)
    settings = with_possible_cache(settings, findings)
    hardware = hardware_of(settings, facts, where, on_eks=on_eks, findings=findings)
    drafts = drafts_of(settings, hardware, facts, findings)
    pools = _pools(drafts, hardware, facts, region, version.name, settings)
    handoffs = plan_handoffs(drafts, pools, findings)
    drafts = with_parts(drafts, handoffs)
    check_ladders(settings, tuple(pools.values()), findings)
    zones = tuple(zone for pool in pools.values() for zone in pool.zones)
    network = plan_network(settings, where, zones, findings)
    one_zone = tuple(pool.zone for pool in pools.values() if pool.zone)
    cache = plan_cache(settings, one_zone, _busiest_zone(drafts, pools), findings)
    tell_streaming(pools.values(), cache, findings)
    check_sharing(
        settings,
        pods=sum(sketch.model.replicas.max * sketch.fit.layout.nodes for sketch in drafts),
        nodes=sum(pools[name].max_nodes for name in {sketch.model.pool for sketch in drafts}),
        findings=findings,
    )
    target = plan_target(
        settings,
        stack,
        version,
        facts,
        zones=control_plane_zones(network),
        uses_fsx=cache.fsx is not None,
        findings=findings,
    )
    models = _models(drafts, settings, pools, cache, facts, handoffs, findings)
    models = plan_routers(drafts, models, settings, pools, facts, findings)
    valkey, kv_store = (
        with_clients(
            store,
            models,
            pools,
            target,
            findings,
            version=facts.versions.charts["valkey"].app_version,
            mirror=settings.images.mirror,
        )
        for store in (plan_valkey(settings, _storage_class(settings)), plan_kv_store(settings))
    )
    check_shared_blocks(models, findings)
    check_heads(target, models, findings)
    if settings.protection == "all":
        tell_tags((model.container.image for model in models), findings)
    check_load_target(settings, {m.name: m.weights.load for m in models if m.weights.medium == "lustre"}, findings)
    cache = replace(cache, planned_gigabytes=check_cache_size(settings, models, findings))
    hub_token = _hub_token(settings, cache, facts, findings)
    cost = plan_cost(
        Decided(target=target, network=network, pools=pools, cache=cache, models=models),
        settings,
        region=region,
        catalog=facts,
        findings=findings,
    )
    pause = mirrored(facts.versions.images["pause"].reference, settings.images.mirror)
    warm = plan_warm(tuple(pools.values()), models, pause, settings, findings)
    image_cache = plan_image_cache(settings, region, findings)
    spend_guard = plan_spend_guard(settings, stack, findings)
    findings.raise_if_any()
    python = mirrored(facts.versions.images["python"].reference, settings.images.mirror)
    ladder = plan_ladder(tuple(pools.values()), models, python)
    image_pulls = plan_image_pulls(
        tuple(pools.values()), models, wanted=settings.images.pre_pull, idle_image=pause, settle_image=python
    )
    keeper = [ladder.keeper] if ladder and ladder.keeper else []
    with_pods = {one.namespace for one in (*models, *warm, *image_pulls, *keeper)}
    pull_secrets = plan_pull_secrets(settings.images.pull_secret, with_pods, findings)
    return Plan(
        project=PROJECT,
        stack=stack,
        environment=settings.environment,
        region=region,
        tags=plan_tags(settings, stack),
        target=target,
        network=network,
        pools=tuple(pools.values()),
        cache=cache,
        warmups=plan_warmups(models, hub_token, python, target, facts),
        models=models,
        charts=plan_charts(
            facts.versions.charts,
            settings.charts.mirror,
            on_eks=on_eks,
            load_balancers=isinstance(settings.target, EksTarget) and settings.target.load_balancer_controller,
            pools=tuple(pools.values()),
            models=models,
            valkey=valkey is not None or kv_store is not None,
        ),
        valkey=valkey,
        kv_store=kv_store,
        image_mirror=settings.images.mirror,
        image_cache=image_cache,
        spend_guard=spend_guard,
        observability=_observability(settings, drafts, models, tuple(pools.values()), ladder),
        hub_token=hub_token,
        protect_data=settings.protection in {"data", "all"},
        protect_cluster=settings.protection == "all",
        cost=cost,
        findings=tuple(findings.remarks),
        ladder=ladder,
        warm=warm,
        image_pulls=image_pulls,
        pull_secrets=pull_secrets,
        karpenter=karpenter.plan_controller(target, network, tuple(pools.values())),
    )


def _region(region: str | None, catalog: Catalog, findings: Findings) -> Region | None:
    if region is None:
        findings.problem(REGION_PATH, "an EKS target needs a region", "add `aws:region: us-east-1` under `config:`")
        return None
    if region not in catalog.regions:
        findings.problem(
            REGION_PATH, f"`{region}` is not in the catalog of regions", did_you_mean(region, catalog.regions)
        )
        return None
    return catalog.regions[region]


def _check_names(settings: Settings, findings: Findings) -> None:
    for key, items in (("pools", settings.pools), ("models", settings.models)):
        seen: set[str] = set()
        for index, item in enumerate(items):
            if item.name in seen:
                findings.problem((key, index, "name"), f"a second `{item.name}`", "names are unique")
            seen.add(item.name)


def hardware_of(
    settings: Settings, catalog: Catalog, region: Region | None, *, on_eks: bool, findings: Findings
) -> dict[str, PoolFacts]:
    """The catalog's facts about each pool by name; what is not there is a problem, and left out."""
    found: dict[str, PoolFacts] = {}
    for index, pool in enumerate(settings.pools):
        facts = (
            karpenter.look_up(index, pool, catalog, region, on_eks=on_eks, findings=findings)
            if isinstance(pool, KarpenterPool)
            else look_up(index, pool, catalog, region, on_eks=on_eks, findings=findings)
        )
        if facts is not None:
            found[pool.name] = facts
    return found


def _pools(
    drafts: list[Draft],
    hardware: dict[str, PoolFacts],
    catalog: Catalog,
    region: str | None,
    version: str,
    settings: Settings,
) -> dict[str, PoolPlan]:
    spanning = {sketch.model.pool for sketch in drafts if sketch.uses_efa}
    window = settings.target.maintenance_window if isinstance(settings.target, EksTarget) else None
    return {
        name: karpenter.plan_pool(facts, catalog, region, kubernetes_version=version)
        if isinstance(facts.pool, KarpenterPool)
        else plan_pool(facts, catalog, region, kubernetes_version=version, uses_efa=name in spanning, window=window)
        for name, facts in hardware.items()
    }


def _busiest_zone(drafts: list[Draft], pools: dict[str, PoolPlan]) -> str | None:
    """Zone of the pool that loads most gigabytes at a start."""
    loads: dict[str, float] = {}
    for sketch in drafts:
        zone = pools[sketch.model.pool].zone
        if zone:
            reader = sketch.reader(pools[sketch.model.pool])
            loads[zone] = loads.get(zone, 0.0) + reader.gigabytes * reader.nodes
    return max(loads, key=lambda zone: loads[zone], default=None)


def _models(
    drafts: list[Draft],
    settings: Settings,
    pools: dict[str, PoolPlan],
    cache: CachePlan,
    catalog: Catalog,
    handoffs: dict[str, Handoff],
    findings: Findings,
) -> tuple[ModelPlan, ...]:
    on_file_system = Crowd(
        sketch.reader(pools[sketch.model.pool])
        for sketch in drafts
        if cache.fsx is None or pools[sketch.model.pool].zone == cache.fsx.zone
    )
    models = tuple(
        plan_model(
            sketch,
            settings,
            pools[sketch.model.pool],
            cache,
            catalog,
            on_file_system,
            findings_of(sketch, findings),
            group=plan_group(sketch, handoffs.get(sketch.serves)),
        )
        for sketch in drafts
    )
    return explain_groups(models, handoffs, pools, findings)


def _hub_token(settings: Settings, cache: CachePlan, catalog: Catalog, findings: Findings) -> SecretPlan | None:
    """The token is used inside the cluster only where the cluster itself downloads from the hub."""
    source = settings.secrets.hub_token
    if cache.volume_claim is None:
        return None
    named = (model.model for model in settings.models)
    gated = [name for name in named if isinstance(name, str) and name in catalog.models and catalog.models[name].gated]
    if gated and source is None:
        findings.problem(
            ("secrets", "hub_token"),
            f"{gated[0]} is gated on the hub, and the cluster downloads it",
            "give the token's source, for instance `hub_token: {kind: kubernetes_secret, name: hub-token, key: token}`",
        )
    return secret_of(SERVING_NAMESPACE, "hub-token", "token", source) if source is not None else None


def _observability(
    settings: Settings,
    drafts: list[Draft],
    models: tuple[ModelPlan, ...],
    pools: tuple[PoolPlan, ...],
    ladder: LadderPlan | None,
) -> ObservabilityPlan:
    wanted = settings.observability
    return ObservabilityPlan(
        scrape_interval_seconds=wanted.scrape_interval_seconds,
        retention_days=wanted.prometheus.retention_days,
        storage_gib=wanted.prometheus.storage_gib,
        retention_size_gib=max(1, int(wanted.prometheus.storage_gib * _PROMETHEUS_FILL)),
        storage_class=_storage_class(settings),
        prometheus_url=f"http://{PROMETHEUS_SERVICE}.{MONITORING_NAMESPACE}.svc:9090",
        grafana_admin=secret_of(MONITORING_NAMESPACE, "grafana-admin", "admin-password", wanted.grafana_admin),
        alerts=(
            *plan_alerts(
                wanted.alerts,
                tuple((sketch.model, model, sketch.engine) for sketch, model in zip(drafts, models, strict=True)),
                pools,
            ),
            *ladder_alerts(ladder),
        ),
    )


def _storage_class(settings: Settings) -> str | None:
    """Of Prometheus' volume; without protection a destroy leaves no volume, least of all one whose key it deletes."""
    if isinstance(settings.target, ExistingClusterTarget):
        return settings.target.storage_class
    return STORAGE_CLASS if settings.protection == "none" else RETAINED_STORAGE_CLASS


__all__ = ["PlanError", "plan"]
