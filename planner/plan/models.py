"""The Plan: models and how they are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from catalog.types import EngineMetrics
from planner.plan.cache import RevisionPlan, WeightsPlan
from planner.plan.disaggregation import DisaggregationPlan
from planner.plan.explain import Explained
from planner.plan.kv_tiers import KvTiersPlan, WarmPromptsPlan
from planner.plan.performance import PerformancePlan
from planner.plan.router import RouterPlan
from planner.plan.secrets import SecretPlan
from planner.plan.valkey import ValkeyPlan


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
class MemoryPart:
    """One thing that a GPU's memory holds beside the KV cache."""

    name: str
    kind: Literal["weights", "overhead"]
    gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Memory of the fullest GPU of a replica, in GiB."""

    gpu_gib: float
    utilization: float
    """Share of the GPU that the engine may take."""
    weights_gib: float
    overhead_gib: float
    """Driver, CUDA context, NCCL, activations, sampler, graphs and workspaces."""
    kv_gib: float
    """What is left for the KV cache."""
    kv_bytes_per_token: float
    """On this GPU, replication under tensor parallel included."""
    kv_tokens: int
    """Tokens that the whole replica can hold."""
    max_sequences: int
    """Full-length sequences at once."""
    parts: tuple[MemoryPart, ...] = ()
    """What `weights_gib` and `overhead_gib` consist of; they add up to both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """An HTTP probe."""

    path: str
    port: int
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int
    success_threshold: int = 1
    """In a row, after failures. Only readiness may ask for more than one."""


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
class ArgumentPlan:
    """One option of the engine with its values, and why it is there."""

    tokens: tuple[str, ...]
    why: str


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
    read_only_root: bool = False
    """Whether the engine writes only to /tmp, to its home, to shared memory and to what is mounted."""
    saving_args: tuple[str, ...] = ()
    """Of the init container that writes what ranks hold, as the engine's line has them; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPlan:
    """How a pod goes away without losing requests."""

    pre_stop_seconds: int
    """Sleep while endpoints and routers forget the pod; a Deployment gives them as long to find the next one."""
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
    mean_seconds: int = 0
    """The query answers with a mean over so long; 0: with what is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """How the number of replicas is decided."""

    owner: Literal["none", "keda", "ray_serve"]
    """Who writes the number. KEDA does for Deployments and LeaderWorkerSets, be it always the same: hands cannot be
    changed in one `up`, which deletes a scaler last, after it has fought for its number."""
    min_replicas: int
    max_replicas: int
    target_concurrency: int
    """Requests running and waiting for each replica."""
    triggers: tuple[MetricTrigger, ...]
    floors: tuple[CronFloor, ...]
    polling_seconds: int
    scale_up_pods: int
    """Replicas that may be added in one period."""
    scale_up_percent: int | None
    """Of the replicas that there are, where that is more; None: no more than `scale_up_pods`."""
    scale_up_period_seconds: int
    scale_down_pods: int
    scale_down_period_seconds: int
    scale_down_stabilization_seconds: int
    idle_seconds: int | None = None
    """Without a request for so long all replicas go, the minimum too, until a floor begins; None: never."""
    initial_delay_seconds: int
    """Planned time from a new replica to its first token; how long scaling waits before it trusts the metrics again."""

    @property
    def varies(self) -> bool:
        """Whether there are ever more or fewer replicas."""
        return self.min_replicas != self.max_replicas or self.idle_seconds is not None


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
    idle_seconds: int
    """How long a worker without a replica stays before Ray's autoscaler lets it go."""
    gcs_store: ValkeyPlan | None = None
    """What keeps the cluster's state while there is no head; None: a new head starts all replicas afresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EfaGatePlan:
    """What every pod that uses EFA proves before its engine starts: that NCCL talks EFA over the nodes of its group, or
    that its devices are there."""

    mode: Literal["all_reduce", "provider"]
    """`provider`: devices and libfabric of this node; `all_reduce`: also NCCL's choice and speed over the group."""
    devices: int
    """EFA devices that the pod must see."""
    gpus: int
    """GPUs of the pod, each a rank of the all-reduce."""
    nodes: int
    floor_gb_per_s: float | None
    """Least bus bandwidth of an all-reduce of 1 GiB; None: the provider alone decides."""
    floor_note: str
    gdr: bool
    """Whether NCCL must report GPUDirect RDMA."""
    seconds: int
    """Planned, once all pods of the group are there."""
    timeout_seconds: int
    """A check that takes longer has failed."""
    peers_timeout_seconds: int
    """How long a pod waits for the others of its group."""
    attempts: int
    """Failures on the same machines after which the GPUs are left alone for `hold_seconds` at a time."""
    hold_seconds: int
    cache_seconds: int
    """How long a proof of the same machines and the same image stands; 0: each start proves anew, and the node
    remembers nothing."""
    port: int
    """On the leader; the next one is NCCL's rendezvous."""


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
    """Planned: image pull, load, compile and graph capture."""
    start_limit_seconds: int
    """What probes and time-outs allow: twice that at least, in steps that another model's load seldom moves."""
    scaling: ScalingPlan
    ray: RayPlan | None
    api_key: SecretPlan
    metrics: EngineMetrics
    """What the engine calls its metrics; dashboards, alerts and triggers read the same names."""
    service_port: int
    priority_class: str
    efa_gate: EfaGatePlan | None = None
    """None where its pods use no EFA, or where the stack file turns the gate off."""
    performance: PerformancePlan | None = None
    """Predicted; None in plans that tests make."""
    router: RouterPlan | None = None
    """None: clients reach the pods through a plain Service, or through Ray Serve's own proxy."""
    kv_tiers: KvTiersPlan | None = None
    """Tiers of the KV cache behind the GPUs' own; None: blocks that leave the GPUs are gone."""
    warm_prompts: WarmPromptsPlan | None = None
    warm_replicas: int = 0
    """Replicas whose nodes, or parts of one, placeholders hold booted."""
    disaggregation: DisaggregationPlan | None = None
    """None: every replica computes prompts and answers."""
    why: Mapping[str, str] = field(default_factory=dict[str, str])
    """Decision -> its reason, for people."""
    arguments: tuple[ArgumentPlan, ...] = ()
    """The engine's command line, option by option; on Ray its engine_kwargs."""
    numbers: tuple[Explained, ...] = ()
    """Its numbers, each with formula, inputs and sources."""

    @property
    def stores(self) -> tuple[ValkeyPlan, ...]:
        """Stores of the stack that its pods reach."""
        wanted = (self.ray.gcs_store if self.ray else None, self.kv_tiers.store if self.kv_tiers else None)
        return tuple(store for store in wanted if store is not None)

    @property
    def pods_per_replica(self) -> int:
        """Pods with GPUs that one replica has."""
        return self.layout.nodes

    @property
    def is_endpoint(self) -> bool:
        """Whether clients may ask for it: not for a group that only computes prompts for another."""
        return self.disaggregation is None or self.disaggregation.role == "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupPlan:
    """The Job that makes one revision ready on the cache."""

    name: str
    """Ends with the revision's first characters: another revision is another Job."""
    weights: RevisionPlan
    source: Literal["files", "hub"]
    """`files` appear from the bucket; from the hub the Job downloads them itself."""
    models: tuple[str, ...]
    """Those whose pods wait for it; none for a revision that comes next."""
    namespace: str
    priority_class: str
    directories: tuple[str, ...] = ()
    """Below the cache's root: made for pods that may not make them."""
    seconds: float
    """Planned: everything is read once, over the network of the node that the Job runs on."""
    hub_token: SecretPlan | None
    timeout_seconds: int
    image: str
    """Has Python; where weights come from the hub, also its client (every engine's image has)."""
    pool: str | None
    """Pool whose nodes it runs on, where only they can mount the cache; None: the system nodes, so that no GPU waits
    for it."""
