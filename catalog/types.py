"""What the catalog knows, as frozen dataclasses: one class per kind of entry.

Every entry names where its numbers come from (`source`) and when they were read (`as_of`). Units are in the field
names; memory sizes are binary (GiB, MiB), disk and checkpoint sizes decimal (GB), as the vendors state them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from catalog.model_card import (
    AttentionKind,
    Checkpoint,
    CheckpointFormat,
    LinearAttention,
    Mla,
    ModelCard,
    Moe,
)
from catalog.sourced import Evidence, Sourced

__all__ = [
    "Addon",
    "Ami",
    "AttentionKind",
    "Carries",
    "Chart",
    "Checkpoint",
    "CheckpointFormat",
    "CrdKind",
    "CrdSet",
    "Engine",
    "EngineHealth",
    "EngineMetrics",
    "Evidence",
    "Gpu",
    "Image",
    "Instance",
    "KubernetesVersion",
    "LinearAttention",
    "Mla",
    "ModelCard",
    "Moe",
    "Price",
    "Region",
    "Scale",
    "Sourced",
    "Unit",
    "UsageClass",
    "Versions",
    "Zone",
]

UsageClass = Literal["on-demand", "spot", "capacity-block"]
Carries = Literal["yes", "no", "unknown"]
Unit = Literal["hour", "month", "gb", "gb_month", "million_requests"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance(Sourced):
    """One EC2 instance type."""

    name: str
    vcpus: int
    memory_gib: float
    gpu: str | None = None
    """Key into `Catalog.gpus`; None for a type without GPU."""
    gpus: int = 0
    network_cards: int
    efa_interfaces: int
    card0_enis: int
    """Network interfaces that fit on network card 0, the only card whose interfaces give pods their addresses."""
    ipv4_per_eni: int
    max_pods: int
    """card0_enis x (ipv4_per_eni - 1) + 2: what the VPC CNI can serve without prefix delegation."""
    network_gbps: float
    """All cards together; for the smaller types this is a burst."""
    card0_gbps: float
    """What card 0 sustains: traffic that does not use EFA (S3, FSx over TCP, image pulls, requests) goes through it."""
    nvme_gb_total: int = 0
    nvme_disks: int = 0
    nvlink: bool = False
    gdr: bool = False
    """GPUDirect RDMA over EFA: without it, traffic between nodes is staged through host memory."""
    usage_classes: tuple[UsageClass, ...]
    quota_on_demand: str
    """Service Quotas code (service `ec2`, unit vCPU) that an on-demand instance counts against."""
    quota_spot: str

    @property
    def family(self) -> str:
        """The part before the dot: `p5` of `p5.48xlarge`."""
        return self.name.partition(".")[0]

    @property
    def capacity_blocks(self) -> bool:
        """Whether EC2 Capacity Blocks for ML are sold for this type."""
        return "capacity-block" in self.usage_classes

    @property
    def card0_is_ena_only(self) -> bool:
        """Whether network card 0 takes no EFA interface (p6-b300): its first interface is then a plain ENA one."""
        return 0 < self.efa_interfaces < self.network_cards


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu(Sourced):
    """One GPU model; throughput figures are dense (no sparsity), per GPU."""

    name: str
    memory_mib: int
    hbm_gb_per_s: float
    bf16_tflops: float
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    compute_capability: str
    fp8_hardware: bool
    """False: FP8 checkpoints run weight-only (Marlin), which saves memory but no compute."""
    nvlink_gb_per_s: float = 0
    """Bidirectional NVLink bandwidth of one GPU; 0 where GPUs talk over PCIe."""
    ray_accelerator_type: str | None
    evidence: Evidence

    @property
    def memory_gib(self) -> float:
        """Memory in GiB, as EC2 states it."""
        return self.memory_mib / 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Price(Sourced):
    """An answer: what something costs, and how well that is known."""

    usd: float
    unit: Unit
    region: str
    """The region that the number is of."""
    borrowed: bool
    """True: no price is known for the region asked for; this is the one of `region`."""
    assumed: bool = False
    """True: derived from a ratio or not verified, not quoted."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """JSON paths of a custom resource's scale subresource."""

    spec_replicas: str
    status_replicas: str
    label_selector: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CrdKind:
    """What must be known of a custom resource to make a permissive stand-in of its definition."""

    group: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    scope: Literal["Namespaced", "Cluster"]
    versions: tuple[str, ...]
    """Served versions, the stored one first."""
    status: bool
    scale: Scale | None = None

    @property
    def version(self) -> str:
        """The stored version."""
        return self.versions[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrdSet(Sourced):
    """The custom resources of one release of one project."""

    name: str
    """Folder name under CRD_DIR, such as `kuberay-v1.7.0`."""
    kinds: tuple[CrdKind, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart(Sourced):
    """A pinned Helm chart."""

    name: str
    chart: str
    """Chart name in its repository, or the whole `oci://` reference."""
    repository: str | None
    """None for an OCI chart."""
    version: str
    app_version: str | None = None
    crds: tuple[str, ...] = ()
    """Keys into `Catalog.crds`: the custom resources that the chart brings."""
    crds_from: Literal["crds_folder", "templates", "none"] = "none"
    """Helm installs a `crds/` folder once and never upgrades it; templated ones follow the release."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image(Sourced):
    """A pinned container image."""

    name: str
    repository: str
    tag: str
    digest: str | None = None
    carries_efa: Carries
    """Whether libfabric and aws-ofi-nccl are inside: without them NCCL falls back to TCP between nodes."""
    carries_efa_reason: str
    engine: str | None = None
    """Key into `Catalog.engines`, where the image is one of an engine."""
    built_from: str | None = None
    """Key of the image that the project's own Dockerfile starts from. Nobody publishes such an image: `repository` is
    then a path in the registry that the stack file names."""

    @property
    def reference(self) -> str:
        """What a pod names: by digest where one is pinned."""
        return f"{self.repository}:{self.tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Addon(Sourced):
    """An EKS managed add-on."""

    name: str
    version: str | None = None
    """A pinned build such as `v1.22.4-eksbuild.3` that serves every supported Kubernetes version."""
    by_kubernetes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Kubernetes minor version -> pinned build, for add-ons that follow the cluster's version."""
    minimum_version: str | None = None
    """Where no build is pinned: the program looks one up by `get_addon_version` and requires at least this one."""
    phase: Literal["before_nodes", "after_nodes"]
    namespace: str
    service_account: str | None = None
    """Gets a pod identity association where the add-on calls AWS."""
    note: str = ""

    def version_for(self, kubernetes: str) -> str | None:
        """The pinned build for a Kubernetes minor version such as `1.35`; None: look one up."""
        return self.by_kubernetes.get(kubernetes, self.version)


@dataclass(frozen=True, kw_only=True, slots=True)
class KubernetesVersion(Sourced):
    """A Kubernetes minor version that the platform supports on EKS."""

    name: str
    end_of_standard_support: date
    patch: str | None = None
    """Upstream patch release that the rehearsal builds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ami(Sourced):
    """An EKS AMI type with its pinned release."""

    name: str
    ami_type: str
    releases: Mapping[str, str]
    """Kubernetes minor version -> the node group's `release_version`, such as `1.35.7-20260903`."""
    driver_branch: int | None = None
    """NVIDIA driver branch in the image; None: no driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """Everything that is pinned."""

    charts: Mapping[str, Chart]
    images: Mapping[str, Image]
    addons: Mapping[str, Addon]
    kubernetes: Mapping[str, KubernetesVersion]
    default_kubernetes: str
    amis: Mapping[str, Ami]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMetrics:
    """Prometheus names as scraped; histograms without `_bucket`, `_sum`, `_count`. None where the engine has none."""

    running: str
    waiting: str
    kv_usage: str
    """0 to 1."""
    ttft_histogram: str
    tpot_histogram: str
    itl_histogram: str
    e2e_histogram: str
    queue_histogram: str | None
    prompt_tokens: str
    generation_tokens: str
    requests: str
    """Counter of finished requests, in good or bad health."""
    errors: str
    """Selector (name and labels) of the counter of failed requests."""
    rejections: str | None
    prefix_hits: str | None
    prefix_queries: str | None
    tier_hits: str
    """Counter of prompt tokens that came from a tier behind the GPUs' own cache."""
    tier_queries: str
    """Counter of prompt tokens that were looked for there."""
    preemptions: str | None
    kv_transfer_histogram: str | None = None
    """Time of one transfer of a KV cache from prefill to decode: seconds, or milliseconds where its name ends so."""
    kv_transfer_failures: str | None = None
    decode_waiting: str | None = None
    """Gauge of requests that wait for room in a decode group's cache; None where `waiting` counts them."""
    model_label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHealth:
    """HTTP paths for the probes and how long one may take."""

    startup: str
    readiness: str
    liveness: str
    timeout_seconds: int
    startup_why: str
    readiness_why: str
    liveness_why: str
    """What an answer of each says, and what it does not."""
    workers_answer: bool
    """Whether ranks beyond the first of a multi-node group serve the paths too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine(Sourced):
    """An inference engine at one version."""

    name: str
    version: str
    engine_version: str
    """Version of the engine proper: vLLM's, where Ray carries it."""
    port: int
    metrics_port: int
    command: tuple[str, ...]
    image: str
    """Key into `Versions.images`."""
    health: EngineHealth
    metrics: EngineMetrics
    least_driver_branch: int
    """Oldest NVIDIA driver branch that the CUDA of its image runs on."""
    drains: Literal["flag", "signal", "proxy"]
    """What lets running requests finish: an option of the engine, SIGTERM itself, or the proxy before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone:
    """An availability zone; the letter in `name` is relative to an AWS account, `zone_id` is not."""

    name: str
    zone_id: str
    control_plane: bool
    """False where EKS places no control-plane interface."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region(Sourced):
    """A region: its zones and which of them offer each catalog instance type."""

    name: str
    zones: tuple[Zone, ...]
    offerings: Mapping[str, tuple[str, ...]]
    """Instance type -> names of the zones that offer it; a type not offered in the region is absent."""
