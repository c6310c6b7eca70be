"""The Plan: everything that is decided, as plain data.

Builders declare it, reports print it, the rehearsal simulates it. Nothing here knows Pulumi, Kubernetes or boto3.
Memory is in GiB (2^30), weights and disks in GB (10^9) as vendors state them, time in seconds, money in US dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from catalog.types import EngineMetrics
from settings.secrets import (
    GeneratedSecret,
    KubernetesSecret,
    PulumiSecret,
    SecretsManagerSecret,
)

AnySecretSource = GeneratedSecret | KubernetesSecret | SecretsManagerSecret | PulumiSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a user should know that does not stop the plan."""

    subject: str
    """What it is about, for instance `models[0]`."""
    message: str


# --- Target and network ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonPlan:
    """An EKS managed add-on."""

    name: str
    version: str | None
    """Pinned build; None: the newest build that EKS offers for the cluster's version, looked up at deploy time."""
    minimum_version: str | None
    phase: Literal["before_nodes", "after_nodes"]
    namespace: str
    configuration: Mapping[str, Any]
    service_account: str | None = None
    policy_arn_names: tuple[str, ...] = ()
    """AWS managed policies that its pod identity carries, by the part of the ARN after `policy/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemGroupPlan:
    """The CPU node group that controllers run on."""

    instance_type: str
    min_nodes: int
    max_nodes: int
    vcpus: int
    memory_gib: float
    max_pods: int
    ami_type: str
    release_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EksPlan:
    """The cluster that this stack makes."""

    kind: Literal["eks"] = "eks"
    cluster_name: str
    kubernetes_version: str
    admins: tuple[str, ...]
    public_cidrs: tuple[str, ...]
    """Empty: the API server has no public endpoint."""
    private_cidrs: tuple[str, ...] = ()
    """Ranges that reach the private endpoint besides the nodes: EKS lets only members of its security group in."""
    log_retention_days: int
    addons: tuple[AddonPlan, ...]
    system: SystemGroupPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingClusterPlan:
    """A cluster that exists; nothing of AWS is made."""

    kind: Literal["existing_cluster"] = "existing_cluster"
    kubeconfig: str
    context: str | None
    kubernetes_version: str
    gpu_driver: Literal["operator", "preinstalled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonePlan:
    """One availability zone of a created VPC."""

    zone: str
    private_cidr: str
    public_cidr: str | None
    """None where the VPC has no internet."""
    nat_gateway: bool
    control_plane: bool = True
    """Whether EKS places control-plane interfaces in this zone; nodes may run in it either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedNetworkPlan:
    """The VPC that this stack makes."""

    kind: Literal["create"] = "create"
    cidr: str
    zones: tuple[ZonePlan, ...]
    interface_endpoints: tuple[str, ...]
    """Service names without the `com.amazonaws.<region>.` prefix; the S3 gateway endpoint is always there."""
    transit_gateway: str | None
    connection_cidrs: tuple[str, ...]
    flow_log_retention_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingSubnetPlan:
    """A private subnet that exists."""

    subnet_id: str
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingNetworkPlan:
    """A VPC that exists."""

    kind: Literal["existing"] = "existing"
    vpc_id: str
    subnets: tuple[ExistingSubnetPlan, ...]


# --- Pools -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInterfacePlan:
    """One network interface of a launch template."""

    card_index: int
    device_index: int
    interface_type: Literal["interface", "efa", "efa-only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What one node of a pool is made of."""

    instance_type: str | None
    """None for nodes that exist."""
    vcpus: int
    memory_gib: float
    gpu: str
    """Key into the catalog's GPUs."""
    gpus: int
    gpu_memory_gib: float
    fp8_hardware: bool
    nvlink: bool
    efa_devices: int
    """EFA devices that a node of this pool offers to pods; 0 where the pool does not use EFA."""
    gdr: bool
    network_gbps: float
    """What all network cards together sustain."""
    card0_gbps: float
    """What traffic without EFA (S3, Lustre over TCP, image pulls) can use."""
    nvme_gb: int
    max_pods: int
    hugepages_mib: int = 0
    """2-MiB huge pages that the AMI sets aside at boot: 10256 (5128 pages) where it finds EFA devices, else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A node taint, in the API's own words (`NoSchedule`)."""

    key: str
    value: str
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungPlan:
    """One kind of capacity of a pool; on EKS one managed node group."""

    name: str
    """`<pool>-<kind>`; unique in the stack, prefix of the node group's name."""
    kind: Literal["capacity_block", "spot", "on_demand", "existing"]
    min_nodes: int
    max_nodes: int
    desired_nodes: int
    """Nodes at the first start; afterwards cluster-autoscaler owns the number."""
    priority: int
    """For cluster-autoscaler's priority expander: the highest is tried first."""
    reservation: str | None
    placement_group: bool
    labels: Mapping[str, str]
    usd_per_node_hour: float
    price_note: str
    """Where the price comes from, and whether it is borrowed from another region or assumed."""
    boot_seconds: int
    """Planned time from the request for a node to `Ready`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """GPU nodes of one shape in one place."""

    name: str
    zone: str | None
    hardware: Hardware
    network_interfaces: tuple[NetworkInterfacePlan, ...]
    """Empty: one plain interface, given by the subnet."""
    rungs: tuple[RungPlan, ...]
    node_selector: Mapping[str, str]
    """Labels that every node of the pool carries."""
    taints: tuple[Taint, ...]
    ami_type: str | None
    release_version: str | None
    root_volume_gib: int

    @property
    def min_nodes(self) -> int:
        """Nodes that always run."""
        return sum(rung.min_nodes for rung in self.rungs)

    @property
    def max_nodes(self) -> int:
        """Nodes at most, over all rungs."""
        return sum(rung.max_nodes for rung in self.rungs)


# --- Model cache -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FsxPlan:
    """The FSx for Lustre file system."""

    zone: str
    storage_gib: int
    throughput_mbps_per_tib: int
    disk_mb_per_s: float
    network_mb_per_s: float
    file_system_type_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeClaimPlan:
    """A PersistentVolumeClaim that holds weights on a cluster that exists."""

    storage_gib: int
    storage_class: str | None
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """Where weights live."""

    bucket: bool
    """Whether an S3 bucket of weights is made."""
    fsx: FsxPlan | None
    volume_claim: VolumeClaimPlan | None
    claim_name: str | None
    """PersistentVolumeClaim in the serving namespace; None where weights are streamed."""
    mount_path: str
    data_repository_path: str
    """Directory of the file system that mirrors the bucket's prefix of the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How long one node needs to get its weights, with every node of a start-up counted."""

    gigabytes_per_node: float
    readers: int
    """Nodes that read at the same time when all minimum replicas start together."""
    bottleneck: str
    """Which of the limits binds, in words."""
    limits_mb_per_s: Mapping[str, float]
    """Each limit on one node's rate, by name."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlan:
    """Where a model's weights come from and how they get into GPU memory."""

    medium: Literal["lustre", "s3_stream", "volume"]
    hub_id: str
    revision: str
    gigabytes: float
    object_prefix: str
    """Prefix in the bucket: `models/<hub id>/<revision>`."""
    directory: str
    """Path in the pod; for `s3_stream` the directory of the mount is not used."""
    ready_marker: str
    """File that the warm-up Job writes when the revision is complete."""
    load: LoadPlan


# --- Models ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlan:
    """How one replica is spread over GPUs."""

    tensor: int
    pipeline: int
    expert: int
    data: int
    nodes: int
    gpus_per_node: int
    """GPUs that each pod of the replica takes."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Memory of one GPU of a replica, in GiB."""

    gpu_gib: float
    utilization: float
    """Share of the GPU that the engine may take."""
    weights_gib: float
    overhead_gib: float
    """CUDA context, NCCL, activations and graphs."""
    kv_gib: float
    """What is left for the KV cache."""
    kv_bytes_per_token: float
    """On this GPU, replication under tensor parallel included."""
    kv_tokens: int
    """Tokens that the whole replica can hold."""
    max_sequences: int
    """Full-length sequences at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """An HTTP probe."""

    path: str
    port: int
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """An environment variable: a value, a field of the pod, a key of a Secret, or an output of the AWS layer."""

    name: str
    value: str | None = None
    field_path: str | None = None
    secret: tuple[str, str] | None = None
    """(name, key)"""
    output: Literal["bucket", "region"] | None = None
    """Known when the stack is up: the name of the bucket of weights, the AWS region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlan:
    """The engine's container."""

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...]
    port: int
    metrics_port: int
    cpu: int
    """vCPUs requested."""
    memory_gib: int
    """Request and limit."""
    gpus: int
    efa_devices: int
    hugepages_mib: int
    shared_memory_gib: int
    """Size of /dev/shm; counts to the memory limit."""
    capabilities: tuple[str, ...]
    startup: ProbePlan | None
    readiness: ProbePlan | None
    liveness: ProbePlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPlan:
    """How a pod goes away without losing requests."""

    pre_stop_seconds: int
    """Sleep while endpoints forget the pod."""
    drain_seconds: int
    """What the engine gives running requests."""
    grace_seconds: int
    """The pod's termination grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronFloor:
    """A scheduled minimum of replicas."""

    timezone: str
    start: str
    end: str
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTrigger:
    """A Prometheus query that adds replicas."""

    name: str
    query: str
    threshold: str
    metric_type: Literal["AverageValue", "Value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """How the number of replicas is decided."""

    owner: Literal["none", "keda", "ray_serve"]
    min_replicas: int
    max_replicas: int
    target_concurrency: int
    """Requests running and waiting for each replica."""
    triggers: tuple[MetricTrigger, ...]
    floors: tuple[CronFloor, ...]
    polling_seconds: int
    scale_up_pods: int
    scale_up_period_seconds: int
    scale_down_pods: int
    scale_down_period_seconds: int
    scale_down_stabilization_seconds: int
    initial_delay_seconds: int
    """Planned time from a new replica to its first token; how long scaling waits before it trusts the metrics again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPlan:
    """What a RayService needs beyond the container."""

    ray_version: str
    serve_config: Mapping[str, Any]
    worker_group: str
    min_workers: int
    """Ray worker replicas, each of `layout.nodes` hosts."""
    max_workers: int
    head_cpu: int
    head_memory_gib: int
    initializing_timeout_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlan:
    """A Kubernetes Secret that a component reads."""

    namespace: str
    name: str
    key: str
    source: AnySecretSource

    @property
    def made_here(self) -> bool:
        """Whether the platform writes the Secret; else somebody else has put it there."""
        return not isinstance(self.source, KubernetesSecret)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model, ready to be declared."""

    name: str
    namespace: str
    model: str
    """Hub id."""
    engine: Literal["vllm", "sglang"]
    engine_version: str
    runtime: Literal["deployment", "leader_worker_set", "ray_service"]
    pool: str
    layout: LayoutPlan
    quantization: str
    """What is served, in words: `bf16`, `fp8 (block 128)`, `fp8, weight only`."""
    context_tokens: int
    memory: MemoryBudget
    max_running: int
    """Limit of running sequences that the engine is given."""
    weights: WeightsPlan
    container: ContainerPlan
    worker: ContainerPlan | None
    """The other pods of a multi-node group."""
    drain: DrainPlan
    startup_seconds: int
    """Planned: image pull, load, compile and graph capture; probes allow twice that."""
    scaling: ScalingPlan
    ray: RayPlan | None
    api_key: SecretPlan
    metrics: EngineMetrics
    """What the engine calls its metrics; dashboards, alerts and triggers read the same names."""
    service_port: int
    priority_class: str
    gang: Literal["none"] = "none"
    why: Mapping[str, str] = field(default_factory=dict[str, str])
    """Decision -> its reason, for people."""

    @property
    def pods_per_replica(self) -> int:
        """Pods with GPUs that one replica has."""
        return self.layout.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupPlan:
    """The Job that makes one revision ready on the cache."""

    name: str
    """Ends with the revision's first characters: another revision is another Job."""
    weights: WeightsPlan
    models: tuple[str, ...]
    hub_token: SecretPlan | None
    timeout_seconds: int
    image: str
    """Has Python; where weights come from the hub, also its client (every engine's image has)."""
    pool: str | None
    """Pool whose nodes it runs on, where only they can mount the cache; None: the system nodes, so that no GPU waits
    for it."""


# --- Platform ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartPlan:
    """A pinned Helm chart and where it comes from."""

    name: str
    version: str
    namespace: str
    chart: str
    """Chart name in `repository`, an `oci://` reference, or the chart's name inside `directory`."""
    repository: str | None
    directory: str | None
    """A mirror directory that holds `<chart>-<version>.tgz`, `<chart>-<version>/` or `<chart>/`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPlan:
    """One Prometheus alert."""

    name: str
    expression: str
    for_minutes: int
    severity: Literal["warning", "critical"]
    summary: str
    runbook: str
    """Anchor in docs/runbooks/alerts.md."""
    model: str | None = None
    """Model that it is about; a label, since alerts with equal labels are one alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilityPlan:
    """Prometheus, Grafana and what they watch."""

    scrape_interval_seconds: int
    retention_days: int
    storage_gib: int
    retention_size_gib: int
    """Prometheus drops its oldest blocks above this size: a full volume stops it."""
    storage_class: str | None
    prometheus_url: str
    """Inside the cluster."""
    grafana_admin: SecretPlan
    alerts: tuple[AlertPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """Something that bills."""

    item: str
    detail: str
    idle_usd_per_hour: float
    """With every pool at its minimum."""
    peak_usd_per_hour: float
    """With every pool at its maximum."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """List prices, without taxes, discounts and data transfer."""

    lines: tuple[CostLine, ...]
    base_usd_per_hour: float
    """At the start: system nodes and what the minimum replicas need on the first rung that has room."""
    idle_usd_per_hour: float
    peak_usd_per_hour: float
    hours_per_month: int
    budget_monthly_usd: float | None

    @property
    def peak_usd_per_month(self) -> float:
        """The worst month."""
        return self.peak_usd_per_hour * self.hours_per_month


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One platform, decided."""

    project: str
    stack: str
    environment: str
    region: str | None
    tags: Mapping[str, str]
    target: EksPlan | ExistingClusterPlan
    network: CreatedNetworkPlan | ExistingNetworkPlan | None
    pools: tuple[PoolPlan, ...]
    cache: CachePlan
    warmups: tuple[WarmupPlan, ...]
    models: tuple[ModelPlan, ...]
    charts: Mapping[str, ChartPlan]
    """By catalog name; a capability that the stack does not need has no chart here."""
    image_mirror: str | None
    observability: ObservabilityPlan
    hub_token: SecretPlan | None
    protect_data: bool
    """Protect and retain the bucket of weights and its key."""
    protect_cluster: bool
    """Protect the cluster and the cache too."""
    cost: CostPlan
    findings: tuple[Finding, ...]

    def pool(self, name: str) -> PoolPlan:
        """The pool of that name; raises KeyError."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)

    @property
    def zones(self) -> tuple[str, ...]:
        """Availability zones of the network, in order."""
        if isinstance(self.network, CreatedNetworkPlan):
            return tuple(zone.zone for zone in self.network.zones)
        if isinstance(self.network, ExistingNetworkPlan):
            return tuple(subnet.zone for subnet in self.network.subnets)
        return ()
