"""vLLM: command line and environment of the pinned version.

Each option is held to catalog/engine_flags/vllm.json, recorded from that version's own parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from catalog.engine_flags import parser_data
from planner.engines import alike, lmcache, nixl
from planner.engines.arguments import Argument, line_of, option, switch
from planner.engines.request import (
    COMPILED_DIRECTORY,
    GLOO_SECONDS,
    RENDEZVOUS_PORT,
    EngineRequest,
    compact,
    sharded_state,
    shared_env,
)
from planner.plan import EnvVar
from settings.engines import DraftSpeculation, NgramSpeculation, VllmOptions

_NGRAM_WINDOW = 4
"""Tokens at the end that are looked up in the prompt."""


def args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments after `vllm serve` of the pod that answers HTTP."""
    return line_of(arguments(request))


def arguments(request: EngineRequest) -> tuple[Argument, ...]:
    """The same, each with its reason."""
    return tuple(_arguments(request))


def _arguments(request: EngineRequest) -> Iterator[Argument]:
    options = _options(request)
    if request.weights.shards is not None:
        yield Argument(
            tokens=(sharded_state(request.weights),),
            why="what each rank holds of the revision, with its config, on the cache",
        )
    else:
        yield Argument(tokens=(request.weights.directory,), why="weights of the revision on the cache")
    yield option("--served-model-name", request.name, "models[].name is what clients send")
    yield option("--host", "0.0.0.0", "the pod's address, not loopback alone")  # noqa: S104 - inside the pod
    yield option("--port", request.engine.port, "catalog: port of the engine")
    # vLLM counts tensor ranks within one data parallel group.
    yield option("--tensor-parallel-size", request.layout.tensor // request.layout.data, request.layout_why)
    yield option("--max-model-len", request.context_tokens, "models[].context_tokens")
    yield option("--max-num-seqs", max(1, request.max_running // request.layout.data), request.running_why)
    yield option("--max-num-queued-reqs", request.queue_limit, "more are answered 503 at once, not after a time-out")
    yield option("--gpu-memory-utilization", f"{request.utilization:.2f}", request.utilization_why)
    yield option("--shutdown-timeout", request.drain_seconds, "without it SIGTERM aborts what runs")
    yield option("--disable-access-log-for-endpoints", "/health,/metrics", "probes and scrapes would fill the log")
    if request.group is not None:
        why = f"models[].disaggregated: this group does {request.group.role} alone"
        yield option("--kv-transfer-config", compact(nixl.vllm_connector(request.group)), why)
    yield from _layout(request, options)
    yield from _numbers(request, options)
    yield from _loading(request)
    yield from _scheduling(options)
    yield from _answers(request, options)
    yield from alike.adapters(request, at_once="--max-loras", named="--lora-modules")
    if request.multi_node:
        yield from alike.own_rank(request)
        yield option("--master-addr", "$(LWS_LEADER_ADDRESS)", "set by LeaderWorkerSet")
        yield option("--master-port", RENDEZVOUS_PORT, "where the ranks meet")
    if request.patient:
        wait, why = (
            request.patience_seconds,
            "twice the planned start at least: ranks that load at different speed are not dead",
        )
        yield option("--distributed-timeout-seconds", wait, why)
        if wait > GLOO_SECONDS:
            yield option("--cpu-distributed-timeout-seconds", wait, why)
    yield from alike.further(request)


def _layout(request: EngineRequest, options: VllmOptions) -> Iterator[Argument]:
    layout = request.layout
    if layout.pipeline > 1:
        yield option("--pipeline-parallel-size", layout.pipeline, "stages between nodes: little traffic for EFA")
    if layout.data > 1:
        yield option("--data-parallel-size", layout.data, "attention groups keep each sequence's cache once")
    if layout.expert > 1:
        yield switch("--enable-expert-parallel", "whole experts on each GPU")
        if options.expert_backend != "allgather_reducescatter":
            yield option("--all2all-backend", options.expert_backend, "engine_options.expert_backend")


def _numbers(request: EngineRequest, options: VllmOptions) -> Iterator[Argument]:
    yield from alike.weight_format(request)
    if request.kv_cache == "fp8":
        yield option("--kv-cache-dtype", "fp8", "models[].kv_cache")
    if request.kv_cache_bytes is not None:
        # vllm-project/vllm#55827.
        why = "time slices of one card: engines that start together count each other's memory as their own"
        yield option("--kv-cache-memory-bytes", request.kv_cache_bytes, why)
    tiers = request.kv_tiers
    if tiers is not None and tiers.through == "lmcache":
        why = "models[].kv_offload.through: LMCache keeps blocks; its environment says where"
        yield option("--kv-transfer-config", compact(lmcache.CONNECTOR), why)
    elif tiers is not None:
        # One number for all ranks of an engine, which share it evenly.
        total = tiers.cpu_gib * request.layout.nodes / request.layout.data
        yield option("--kv-offloading-size", f"{total:g}", "models[].kv_offload: GiB of RAM over all ranks")
        yield option("--kv-offloading-backend", "native", "needs nothing that the image lacks")
    if request.step_tokens is not None and options.prefill_chunk_tokens == "auto":
        yield option("--max-num-batched-tokens", request.step_tokens, "what the slice's memory was planned for")


def _loading(request: EngineRequest) -> Iterator[Argument]:
    if request.card.remote_code:
        yield switch("--trust-remote-code", "the model's tokenizer is code of its repository, pinned by the revision")
    if request.weights.medium == "s3_stream":
        yield option("--load-format", "runai_streamer", "streams from S3 without a copy on disk")
        yield option("--model-loader-extra-config", '{"concurrency":32}', "one stream does not fill the network")
        return
    if request.weights.shards is not None:
        yield option(
            "--load-format", "sharded_state", "engine_options.load: each rank reads what it holds, once written"
        )
        return
    yield option(
        "--safetensors-load-strategy", "prefetch", "lazy reads of every rank at once multiply a file system's traffic"
    )
    if request.layout.expert > 1:
        yield switch("--enable-ep-weight-filter", "each rank reads its own experts alone")


def _scheduling(options: VllmOptions) -> Iterator[Argument]:
    if options.prefill_chunk_tokens != "auto":
        yield option("--max-num-batched-tokens", options.prefill_chunk_tokens, "engine_options.prefill_chunk_tokens")
    if options.scheduling_policy != "fcfs":
        yield option("--scheduling-policy", options.scheduling_policy, "engine_options.scheduling_policy")
    if not options.prefix_caching:
        yield switch("--disable-prefix-caching", "engine_options.prefix_caching")


def _answers(request: EngineRequest, options: VllmOptions) -> Iterator[Argument]:
    if request.reasoning_parser:
        yield option("--reasoning-parser", request.reasoning_parser, request.parser_why("reasoning_parser"))
    if request.tool_parser:
        yield switch("--enable-auto-tool-choice", "a parser of tool calls is there")
        yield option("--tool-call-parser", request.tool_parser, request.parser_why("tool_parser"))
    if options.structured_output != "auto":
        backend = compact({"backend": options.structured_output})
        yield option("--structured-outputs-config", backend, "engine_options.structured_output")
    speculation = speculative_config(request)
    if speculation is not None:
        yield option("--speculative-config", compact(speculation), "engine_options.speculation")
    if options.log_requests:
        yield switch("--enable-log-requests", "engine_options.log_requests")


def speculative_config(request: EngineRequest) -> dict[str, Any] | None:
    """vLLM's `speculative_config`, on the command line and in Ray's engine_kwargs alike."""
    speculation = request.options.speculation
    if speculation is None:
        return None
    config: dict[str, Any] = {"method": speculation.kind, "num_speculative_tokens": speculation.tokens}
    if isinstance(speculation, NgramSpeculation):
        config["prompt_lookup_max"] = _NGRAM_WINDOW
    if isinstance(speculation, DraftSpeculation):
        config["model"] = request.directory_of(speculation.model, speculation.revision)
    return config


def rank_for(rank: int, engine: str = "vllm") -> int | None:
    """The smallest LoRA rank that vLLM can set memory aside for; None where it cannot for this one."""
    flag = parser_data(engine).by_dest["max_lora_rank"]
    return min((choice for choice in flag.choices if choice >= rank), default=None)


# What has no part in how weights lie in the GPUs.
_NOT_TO_SAVE = frozenset({
    "--load-format", "--kv-transfer-config", "--kv-offloading-size", "--kv-offloading-backend", "--speculative-config",
    "--host", "--port", "--served-model-name", "--max-num-queued-reqs", "--max-num-batched-tokens",
})  # fmt: skip


def saving_args(request: EngineRequest) -> tuple[str, ...]:
    """What `vllm serve` is told, without the model, to hold a checkpoint as the engine will: for who writes its shards.

    Nothing is compiled for that, and a small step leaves room on the GPUs whatever the engine's own step is.
    """
    _, *line = arguments(request)
    tokens = (token for part in line if part.tokens[0].partition("=")[0] not in _NOT_TO_SAVE for token in part.tokens)
    small = ("--enforce-eager", f"--max-num-batched-tokens={max(2048, request.max_running)}")
    return (*tokens, "--safetensors-load-strategy=prefetch", *small)


def worker_args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments of the other pods of a group: the same, without an HTTP server."""
    return (*args(request), "--headless")


def _options(request: EngineRequest) -> VllmOptions:
    assert isinstance(request.options, VllmOptions)  # noqa: S101 - settings are of the model's engine
    return request.options


def compile_caches() -> tuple[EnvVar, ...]:
    """Where vLLM and what it calls keep what they compile; below its root are torch.compile's graphs and DeepGEMM's
    kernels (vllm/compilation/backends.py, vllm/utils/deep_gemm.py of 0.33.0), the others have places of their own."""
    root = COMPILED_DIRECTORY
    return (
        EnvVar(name="VLLM_CACHE_ROOT", value=f"{root}/vllm"),
        EnvVar(name="TRITON_CACHE_DIR", value=f"{root}/triton"),
        EnvVar(name="TORCHINDUCTOR_CACHE_DIR", value=f"{root}/inductor"),
        EnvVar(name="FLASHINFER_WORKSPACE_BASE", value=root),
    )


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of every pod."""
    return (
        *shared_env(request),
        EnvVar(name="VLLM_API_KEY", secret=(request.api_key.name, request.api_key.key)),
        EnvVar(name="VLLM_HOST_IP", field_path="status.podIP"),
        *compile_caches(),
        EnvVar(name="VLLM_ENGINE_READY_TIMEOUT_S", value=str(request.patience_seconds)),
        EnvVar(name="VLLM_NO_USAGE_STATS", value="1"),
        *(nixl.env(request.group, "vllm") if request.group else ()),
        *_lmcache_env(request),
    )


def _lmcache_env(request: EngineRequest) -> Iterator[EnvVar]:
    tiers = request.kv_tiers
    if tiers is not None and tiers.through == "lmcache":
        yield from lmcache.env(tiers, request.layout, latent=request.card.mla is not None)
