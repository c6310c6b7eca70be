"""What is served: models, their engine, layout, replicas and objectives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from settings import cron
from settings.base import Name, Section, WrongValueError
from settings.disaggregation import Disaggregated
from settings.engines import EngineOptions
from settings.inline_card import InlineCard
from settings.kv_tiers import KvOffload
from settings.placement import Layout, Replicas
from settings.routing import Routing, Standby
from settings.secrets import GeneratedSecret, SecretSource
from settings.traffic import Traffic

CommitSha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""A full commit of the weights' repository: a branch name would change what is served without a change here."""


EfaGateMode = Literal["auto", "all_reduce", "provider", "off"]


class Objectives(Section):
    """Latency that users are promised; they become alerts and the scaling guard."""

    ttft_p99_ms: int = Field(default=2000, ge=10, le=600_000)
    """99th percentile of the time to first token in milliseconds."""
    tpot_p99_ms: int = Field(default=100, ge=1, le=10_000)
    """99th percentile of the time per output token in milliseconds."""


class ScheduledFloor(Section):
    """More replicas at known hours."""

    timezone: str = "UTC"
    """IANA name, for instance `Europe/Berlin`."""
    start: str = Field(pattern=r"^(\S+ ){4}\S+$")
    """Cron expression of the beginning."""
    end: str = Field(pattern=r"^(\S+ ){4}\S+$")
    """Cron expression of the end."""
    replicas: int = Field(ge=1, le=200)
    """Replicas at least between start and end."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            cron.zone_of(value)
        except ValueError as error:
            raise WrongValueError(str(error), help="for instance `UTC` or `Europe/Berlin`") from None
        return value

    @field_validator("start", "end")
    @classmethod
    def _parses(cls, value: str) -> str:
        try:
            cron.parse(value)
        except ValueError as error:
            raise WrongValueError(
                str(error), help="`30 7 * * 1-5` is half past seven from Monday to Friday; Sunday is 0"
            ) from None
        return value

    @model_validator(mode="after")
    def _apart(self) -> ScheduledFloor:
        if self.start == self.end:
            raise WrongValueError("start and end are the same", help="KEDA refuses that", at=("end",))
        return self


class Autoscaling(Section):
    """When replicas are added and removed."""

    target_concurrency: int | Literal["auto"] = "auto"
    """Requests running and waiting for each replica that scaling aims at; from the planned concurrency where `auto`."""
    floors: list[ScheduledFloor] = Field(default_factory=list[ScheduledFloor], max_length=20)
    """Scheduled minimum replicas."""
    scale_up_replicas: int | Literal["auto"] = "auto"
    """Replicas added at once, and none more until they can serve; where `auto`, as many as the traffic's growth during
    a start needs (a quarter of the room between min and max where none is stated), or as many as there are."""
    idle_minutes: int | None = Field(default=None, ge=5, le=1440)
    """Minutes without a request after which every replica goes, the minimum too, until the next of `floors` begins:
    for models of office hours, whose GPUs nobody should pay for at night. Never where left out, unless
    `replicas.min` is 0: the next request then brings the model back, and the planner takes 15 minutes or the time of a
    start, whichever is longer."""

    @field_validator("target_concurrency", "scale_up_replicas")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise WrongValueError("must be 1 or more", help="or `auto`")
        return value


FLOATING_TAGS = frozenset({"latest", "main", "master", "nightly", "dev", "edge", "stable", "canary", "head"})
"""Tags that name whatever was built last."""


class Image(Section):
    """A container image of the engine in place of the catalog's."""

    repository: str = Field(pattern=r"^[a-z0-9][a-z0-9._:/-]+$")
    tag: str = Field(pattern=r"^[\w][\w.-]{0,127}$")
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    """Wins over the tag."""
    carries_efa: bool = False
    """Whether it holds libfabric and aws-ofi-nccl, which traffic between nodes needs."""
    carries_lmcache: bool = False
    """Whether it holds LMCache, built for its vLLM; `kv_offload.through: lmcache` needs it."""
    carries_nixl: bool = False
    """Whether it holds NIXL with the transport of `disaggregated`, which moves the KV cache between groups."""
    writable_root: bool = False
    """Whether its engine writes outside of /tmp, its home, shared memory and what is mounted. vLLM does not, and its
    root file system is read-only unless this says so; SGLang's and Ray's are writable anyway."""

    @model_validator(mode="after")
    def _pinned(self) -> Image:
        if self.digest is None and self.tag.lower() in FLOATING_TAGS:
            raise WrongValueError(f"tag `{self.tag}` moves", help="name a release, or add its digest", at=("tag",))
        return self


WarmPrompt = Annotated[str, Field(min_length=1, max_length=100_000)]


class RayOptions(Section):
    """What a model on Ray Serve does beyond the rest."""

    gcs_fault_tolerance: bool | Literal["auto"] = "auto"
    """Whether the head keeps its cluster's state in the stack's Valkey, so that a new head finds the running replicas;
    `auto` does where there is one."""


class Model(Section):
    """One model behind one OpenAI-compatible endpoint."""

    name: Name
    """Name of the endpoint and of its Kubernetes objects; clients send it as `model`."""
    model: str | InlineCard
    """An entry of the catalog, for instance `deepseek-ai/DeepSeek-R1`, or the numbers of another model."""
    revision: CommitSha
    """Commit of the weights on the hub."""
    next_revision: CommitSha | None = None
    """The commit to serve next: staged, warmed and kept on the cache beside the one that serves, so that making it
    `revision` later waits for no download."""
    engine: Literal["vllm", "sglang"] = "vllm"
    runtime: Literal["auto", "deployment", "leader_worker_set", "ray_service"] = "auto"
    """What runs the pods: a Deployment where it fits one node, a LeaderWorkerSet where it does not, or RayService."""
    pool: Name
    """Pool whose nodes it runs on."""
    layout: Literal["auto"] | Layout = "auto"
    quantization: Literal["checkpoint", "fp8", "fp8_weight_only"] = "checkpoint"
    """`checkpoint` serves the weights as published; `fp8` quantises bf16 weights while loading; `fp8_weight_only`
    says that FP8 weights on GPUs without FP8 units (A100, A10G) are meant: less memory, no more speed."""
    kv_cache: Literal["auto", "fp8"] = "auto"
    """Number format of the KV cache; `auto` keeps the model's."""
    engine_options: EngineOptions | None = None
    """What the engine is told beyond that; its `engine` is the model's."""
    context_tokens: int = Field(default=8192, ge=256, le=10_000_000)
    """Longest prompt plus answer in tokens."""
    replicas: Replicas = Replicas()
    warm_replicas: int = Field(default=0, ge=0, le=20)
    """Replicas beside those that run whose nodes are kept booted, by placeholder pods of their size: all nodes of a
    group on one rung, or a part of a node. A new replica takes the place at once, and another node boots. They cost as
    much as used ones."""
    disaggregated: Disaggregated | None = None
    """Prefill and decode on GPUs of their own, in place of `replicas` and `layout`; together where left out."""
    objectives: Objectives = Objectives()
    traffic: Traffic | None = None
    """The load that it is planned for; without it lengths are assumed and no rate is."""
    autoscaling: Autoscaling = Autoscaling()
    efa_gate: EfaGateMode = "auto"
    """What pods of a model over several nodes, or of two groups, prove before the engine starts: `all_reduce` that NCCL
    uses EFA fast between the nodes of a replica, `provider` that devices and libfabric are there; `auto` is the most
    that runtime and layout allow."""
    api_key: SecretSource = GeneratedSecret()
    """Key that clients must send."""
    image: Image | None = None
    """The catalog's image of the engine where left out."""
    ray: RayOptions = RayOptions()
    kv_offload: KvOffload | None = None
    """Tiers of the KV cache behind the GPUs' own; none where left out."""
    warm_prompts: list[WarmPrompt] = Field(default_factory=list[WarmPrompt], max_length=20)
    """System prompts that every pod computes once before it is ready, so that the first requests which begin with
    them find their prefix cached. They lie in a ConfigMap: no secrets."""
    routing: Routing = Routing()
    standby: Standby | None = None
    """Another model that answers, within 30 seconds, while no replica of this one does."""

    @model_validator(mode="after")
    def _groups_have_their_own(self) -> Model:
        for key in ("replicas", "layout"):
            if self.disaggregated is not None and key in self.model_fields_set:
                raise WrongValueError(
                    "prefill and decode each have their own",
                    help=f"say it at `disaggregated.prefill.{key}` and `disaggregated.decode.{key}`",
                    at=(key,),
                )
        return self

    @model_validator(mode="after")
    def _moves_on(self) -> Model:
        if self.next_revision == self.revision:
            raise WrongValueError(
                "is the revision that is served", help="leave it out, or name another", at=("next_revision",)
            )
        return self

    @model_validator(mode="after")
    def _comes_back(self) -> Model:
        autoscaling = self.autoscaling
        # Of two groups the planner refuses it for a reason of its own: none of them may go.
        if (
            self.disaggregated is None
            and autoscaling.idle_minutes is not None
            and self.replicas.min
            and not autoscaling.floors
        ):
            raise WrongValueError(
                "nothing would bring the model back",
                help="give `floors` that do, or set `replicas.min` to 0: its router wakes it",
                at=("autoscaling", "idle_minutes"),
            )
        return self
