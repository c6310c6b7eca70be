"""What an engine's command line is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from catalog.types import Engine, ModelCard
from planner.patience import SHORTEST_SECONDS, start_limit_seconds
from planner.plan import DisaggregationPlan, EnvVar, KvTiersPlan, LayoutPlan, RevisionPlan, SecretPlan, WeightsPlan
from settings.engines import SglangOptions, VllmOptions

CACHE_DIRECTORY = "/var/cache/engine"
"""The engine's home, on the node's NVMe: gone with the pod."""

COMPILED_DIRECTORY = f"{CACHE_DIRECTORY}/compiled"
"""Where kernels and graphs go that it compiles."""

KEPT_DIRECTORY = "/var/cache/kept"
"""Where an archive of them lies for later pods."""

SHARDS_DIRECTORY = "/var/cache/shards"
"""Where it keeps what each rank holds."""

RENDEZVOUS_PORT = 20000
"""Where the ranks of a multi-node group meet."""

GLOO_SECONDS = 1800
"""PyTorch's own limit for a collective of CPUs. Source: torch.distributed.init_process_group."""

BUCKET_VARIABLE = "WEIGHTS_BUCKET"


def saved_shards(weights: RevisionPlan) -> str:
    """Where components/scripts/save_shards.py keeps what vLLM's ranks hold.

    Its path says whose it is, as the checkpoint's does: LMCache tells models apart by the path that vLLM is given, and
    of one path for all would hand a model the blocks of another.
    """
    return f"{SHARDS_DIRECTORY}/{weights.hub_id}/{weights.revision}"


def sharded_state(weights: RevisionPlan) -> str:
    """Where vLLM reads it, with config and tokenizer beside."""
    return f"{saved_shards(weights)}/sharded_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One replica, as its engine must be told."""

    name: str
    card: ModelCard
    engine: Engine
    layout: LayoutPlan
    weights: WeightsPlan
    quantization: Literal["checkpoint", "fp8", "fp8_weight_only"]
    kv_cache: Literal["auto", "fp8"]
    context_tokens: int
    max_running: int
    utilization: float
    """Of the card that the engine sees."""
    drain_seconds: int
    startup_seconds: int
    api_key: SecretPlan
    uses_efa: bool
    kv_cache_bytes: int | None = None
    """Given on a card in time slices, whose free memory tells nothing; None: the engine measures what is left."""
    step_tokens: int | None = None
    """Tokens of one step at most; None: the engine's default for the card."""
    options: VllmOptions | SglangOptions
    layout_why: str
    running_why: str
    utilization_why: str
    lora_rank: int = 0
    """That memory is set aside for."""
    kv_tiers: KvTiersPlan | None = None
    """Where KV blocks go that leave the GPUs; None: nowhere."""
    group: DisaggregationPlan | None = None
    """Which of two phases it does; None: both."""

    @property
    def multi_node(self) -> bool:
        """Whether the replica spans pods."""
        return self.layout.nodes > 1

    @property
    def queue_limit(self) -> int:
        """Requests that may wait before the engine answers 503."""
        given = self.options.max_queued
        return queue_limit(self.max_running) if given == "auto" else int(given)

    @property
    def tool_parser(self) -> str | None:
        """How calls of tools are read in answers."""
        given = self.options.tool_parser
        return self.card.tool_parser.get(self.options.engine) if given == "card" else given

    @property
    def reasoning_parser(self) -> str | None:
        """How reasoning is told from answers."""
        given = self.options.reasoning_parser
        return self.card.reasoning_parser.get(self.options.engine) if given == "card" else given

    def parser_why(self, field: Literal["tool_parser", "reasoning_parser"]) -> str:
        """Where a parser comes from."""
        return "the model's card" if getattr(self.options, field) == "card" else f"engine_options.{field}"

    def directory_of(self, hub_id: str, revision: str) -> str:
        """Where further weights (a draft model, an adapter) lie on the cache."""
        wanted = (hub_id, revision)
        return next(one.directory for one in self.weights.beside if (one.hub_id, one.revision) == wanted)

    @property
    def patience_seconds(self) -> int:
        """How long ranks wait for each other: twice the planned start at least, and what the engines wait by default.
        Ranks that load or compile at different speed are not dead."""
        return start_limit_seconds(self.startup_seconds)

    @property
    def patient(self) -> bool:
        """Whether ranks must be told to wait longer than NCCL does by default, or wait across nodes."""
        return self.multi_node or (self.layout.gpus > 1 and self.patience_seconds > SHORTEST_SECONDS)


def compact(value: object) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def compiles_deep_gemm(card: ModelCard) -> bool:
    """Whether engines compile DeepGEMM's kernels for a model: FP8 in blocks of 128, as DeepSeek publishes it."""
    return card.checkpoint.format == "fp8_block128"


def sglang_gigabytes(cpu_gib: int, gpus: int) -> int:
    """SGLang's `--hicache-size` for so many GiB of a pod: whole decimal GB of each rank."""
    return int(cpu_gib * 2**30 / 1e9 / gpus)


def queue_limit(max_running: int) -> int:
    """Requests that may wait at one replica before its engine answers 503: a full batch twice over."""
    return 2 * max_running


def shared_env(request: EngineRequest) -> list[EnvVar]:
    """Environment that both engines need."""
    env = [
        # Weights come from the cache: a start that reaches for the hub would hang on a rate limit instead of failing.
        EnvVar(name="HF_HUB_OFFLINE", value="1"),
        EnvVar(name="HOME", value=CACHE_DIRECTORY),
        EnvVar(name="XDG_CACHE_HOME", value=CACHE_DIRECTORY),
    ]
    if request.weights.medium == "s3_stream":
        env.append(EnvVar(name=BUCKET_VARIABLE, output="bucket"))
        env.append(EnvVar(name="AWS_REGION", output="region"))
    if request.uses_efa:
        env += [
            EnvVar(name="FI_PROVIDER", value="efa"),
            # Without a name NCCL takes TCP in silence where plugin or devices are missing; with it, the start fails.
            EnvVar(name="NCCL_NET", value="AWS Libfabric"),
            # Only the pod's own interface: a wrong one makes NCCL fall back to TCP in silence.
            EnvVar(name="NCCL_SOCKET_IFNAME", value="eth0"),
            # The start log then says which provider NCCL took ("Selected provider is efa").
            EnvVar(name="NCCL_DEBUG", value="INFO"),
            EnvVar(name="NCCL_DEBUG_SUBSYS", value="INIT,NET"),
        ]
    return env
