"""What bills whether a model runs or not: control plane, system nodes, volumes, file system, bucket, keys, logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from catalog.assumptions import assumed, assumptions
from catalog.load import Catalog
from planner.cost.lines import HOURS_PER_MONTH, Quantity, always, line
from planner.plan import CachePlan, CostLine, EksPlan, Input, ModelPlan, PoolPlan
from settings.root import Settings
from settings.secrets import SecretsManagerSecret
from settings.valkey import Valkey

SYSTEM_ROOT_GIB = 50
_DAYS_PER_MONTH = HOURS_PER_MONTH / 24
_KEYS = 2  # one of the cluster's secrets and volumes, one of the bucket of weights


def from_assumption(name: str) -> Input:
    """An assumption of the catalog as an input of a formula."""
    found = assumptions()[name]
    return Input(
        name=name, value=found.value, unit=found.unit, source=f"assumptions.yaml ({found.evidence}): {found.source}"
    )


def control_plane(target: EksPlan, catalog: Catalog, region: str) -> Iterator[CostLine]:
    """EKS, keys and logs."""
    service = catalog.prices.service
    yield line(
        "EKS control plane",
        "1 cluster",
        service("eks_control_plane", region),
        always(1, "clusters", "", "target.kind: eks"),
    )
    yield line(
        "KMS keys", f"{_KEYS} keys", service("kms_key", region), always(_KEYS, "keys", "", "keys that the stack makes")
    )
    gigabytes = assumed("log_gb_per_month")
    told = from_assumption("log_gb_per_month")
    yield line(
        "Logs",
        f"{gigabytes:.0f} GB a month of control-plane and flow logs come in (assumed)",
        service("cloudwatch_logs_ingest", region),
        always(gigabytes, "log_gb_per_month", "GB", told.source),
    )
    months = target.log_retention_days / _DAYS_PER_MONTH
    kept = gigabytes * months
    yield line(
        "Logs kept",
        f"{target.log_retention_days} days of them",
        service("cloudwatch_logs_storage", region),
        always(kept, "stored_gb", "GB", "its formula"),
        quantity_formula="log_gb_per_month x retention_days / 30.4",
        why=(
            told,
            Input(
                name="retention_days",
                value=target.log_retention_days,
                unit="days",
                source="target.log_retention_days in the stack file",
            ),
        ),
    )


def system_nodes(target: EksPlan, catalog: Catalog, region: str) -> Iterator[CostLine]:
    """The CPU nodes that controllers run on, and their volumes."""
    system = target.system
    where = "target.system_nodes in the stack file"
    nodes = Quantity(
        idle=system.min_nodes,
        base=system.min_nodes,
        planned=system.min_nodes,
        peak=system.max_nodes,
        name="nodes",
        unit="",
        source=f"{where}: min, and max at the peak",
    )
    yield line(
        "System nodes",
        f"{system.min_nodes} to {system.max_nodes} x {system.instance_type}, on demand",
        catalog.prices.on_demand(system.instance_type, region),
        nodes,
        what=system.instance_type,
    )
    low, high = system.min_nodes * SYSTEM_ROOT_GIB, system.max_nodes * SYSTEM_ROOT_GIB
    yield line(
        "System volumes",
        f"{SYSTEM_ROOT_GIB} GiB gp3 a node",
        catalog.prices.service("ebs_gp3", region),
        Quantity(idle=low, base=low, planned=low, peak=high, name="gib", unit="GiB", source="its formula"),
        quantity_formula="nodes x root_gib",
        why=(
            Input(name="nodes", value=system.min_nodes, unit="", source=where),
            Input(name="root_gib", value=SYSTEM_ROOT_GIB, unit="GiB", source="launch template of the system nodes"),
        ),
    )


def store_volumes(store: Valkey | None, catalog: Catalog, region: str) -> Iterator[CostLine]:
    """The volumes of the stack's Valkey and its copies."""
    if store is None or store.storage_gib is None:
        return
    gib = store.storage_gib * (1 + store.replicas)
    yield line(
        "Valkey volumes",
        f"{1 + store.replicas} x {store.storage_gib} GiB gp3",
        catalog.prices.service("ebs_gp3", region),
        always(gib, "gib", "GiB", "valkey.storage_gib and valkey.replicas in the stack file"),
    )


def volumes(
    pools: Sequence[PoolPlan], nodes: Sequence[Quantity], prometheus_gib: int, catalog: Catalog, region: str
) -> Iterator[CostLine]:
    """Prometheus' volume, and the root volumes of the GPU nodes; `nodes` as the pools are."""
    gp3 = catalog.prices.service("ebs_gp3", region)
    yield line(
        "Prometheus volume",
        f"{prometheus_gib} GiB gp3",
        gp3,
        always(prometheus_gib, "gib", "GiB", "observability.prometheus.storage_gib in the stack file"),
    )
    for pool, count in zip(pools, nodes, strict=True):
        gib = pool.root_volume_gib
        yield line(
            f"Volumes {pool.name}",
            f"{gib} GiB gp3 a node",
            gp3,
            Quantity(
                idle=count.idle * gib,
                base=count.base * gib,
                planned=count.planned * gib,
                peak=count.peak * gib,
                name="gib",
                unit="GiB",
                source="its formula",
            ),
            quantity_formula="nodes x root_gib",
            why=(count.as_input, Input(name="root_gib", value=gib, unit="GiB", source="launch template of the pool")),
        )


def storage(cache: CachePlan, models: Sequence[ModelPlan], catalog: Catalog, region: str) -> Iterator[CostLine]:
    """The file system and the bucket of weights."""
    service = catalog.prices.service
    if cache.fsx is not None:
        yield line(
            "FSx for Lustre",
            f"{cache.fsx.storage_gib} GiB at {cache.fsx.throughput_mbps_per_tib} MB/s a TiB",
            service(f"fsx_lustre_persistent_2_ssd_{cache.fsx.throughput_mbps_per_tib}", region),
            always(cache.fsx.storage_gib, "gib", "GiB", "cache.storage_gib in the stack file"),
        )
    if cache.bucket:
        total = stored_gigabytes(models)
        yield line(
            "S3 weights",
            f"{total:,.0f} GB, one revision each",
            service("s3_standard", region),
            always(total, "gb", "GB", "sum of the checkpoints, catalog/models.yaml"),
        )


def stored_gigabytes(models: Sequence[ModelPlan]) -> float:
    """Size of all that is staged for them (weights, draft models, adapters, what comes next), each revision once."""
    return sum({one.object_prefix: one.gigabytes for model in models for one in model.weights.held}.values())


def secrets(settings: Settings, catalog: Catalog, region: str) -> Iterator[CostLine]:
    """Secrets of Secrets Manager that the stack file names."""
    sources = (
        settings.secrets.hub_token,
        settings.observability.grafana_admin,
        *(model.api_key for model in settings.models),
    )
    arns = {source.arn for source in sources if isinstance(source, SecretsManagerSecret)}
    if arns:
        yield line(
            "Secrets",
            f"{len(arns)} in Secrets Manager",
            catalog.prices.service("secrets_manager_secret", region),
            always(len(arns), "secrets", "", "`kind: secrets_manager` in the stack file"),
        )
