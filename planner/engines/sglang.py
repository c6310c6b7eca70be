"""SGLang: command line and environment of the pinned version.

Each option is held to catalog/engine_flags/sglang.json, recorded from that version's own parser.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.engines import alike, nixl
from planner.engines.arguments import Argument, line_of, option, switch
from planner.engines.request import (
    COMPILED_DIRECTORY,
    RENDEZVOUS_PORT,
    SHARDS_DIRECTORY,
    EngineRequest,
    compact,
    compiles_deep_gemm,
    sglang_gigabytes,
    shared_env,
)
from planner.plan import EnvVar
from settings.engines import DraftSpeculation, SglangOptions

_ALGORITHMS = {"mtp": "NEXTN", "ngram": "NGRAM", "eagle": "EAGLE", "eagle3": "EAGLE3", "draft_model": "STANDALONE"}


def args(request: EngineRequest) -> tuple[str, ...]:
    """Arguments of every pod; ranks beyond the first differ by LWS_WORKER_INDEX alone."""
    return line_of(arguments(request))


def arguments(request: EngineRequest) -> tuple[Argument, ...]:
    """The same, each with its reason."""
    return tuple(_arguments(request))


def _arguments(request: EngineRequest) -> Iterator[Argument]:
    options = _options(request)
    yield option("--model-path", request.weights.directory, "weights of the revision on the cache")
    yield option("--served-model-name", request.name, "models[].name is what clients send")
    yield option("--host", "0.0.0.0", "the default listens on loopback only")  # noqa: S104 - inside the pod
    yield option("--port", request.engine.port, "catalog: port of the engine")
    yield option("--tp-size", request.layout.tensor, request.layout_why)
    yield option("--context-length", request.context_tokens, "models[].context_tokens")
    yield option("--max-running-requests", request.max_running, request.running_why)
    yield option("--max-queued-requests", request.queue_limit, "more are answered 503 at once, not after a time-out")
    yield option("--mem-fraction-static", f"{request.utilization:.2f}", request.utilization_why)
    yield option("--api-key", "$(SGLANG_API_KEY)", "models[].api_key; the kubelet puts it in")
    yield switch("--enable-metrics", "off by default, and alerts and scaling read them")
    if request.group is not None:
        yield from nixl.sglang_arguments(request.group)
    yield from _layout(request, options)
    yield from _numbers(request)
    yield from _loading(request)
    yield from _scheduling(options)
    yield from _answers(request, options)
    yield from alike.adapters(request, at_once="--max-loras-per-batch", named="--lora-paths")
    if request.multi_node:
        yield from alike.own_rank(request)
        yield option("--dist-init-addr", f"$(LWS_LEADER_ADDRESS):{RENDEZVOUS_PORT}", "where the ranks meet")
    if request.patient:
        why = "twice the planned start at least: ranks that load at different speed are not dead"
        yield option("--dist-timeout", request.patience_seconds, why)
    yield from alike.further(request)


def _layout(request: EngineRequest, options: SglangOptions) -> Iterator[Argument]:
    layout = request.layout
    if layout.pipeline > 1:
        yield option("--pp-size", layout.pipeline, "models[].layout.pipeline")
    if layout.expert > 1:
        # Experts spread over the tensor ranks of each stage.
        yield option("--ep-size", layout.tensor, "whole experts on each GPU")
        if options.expert_backend != "none":
            yield option("--moe-a2a-backend", options.expert_backend, "engine_options.expert_backend")
    if layout.data > 1:
        yield option("--attn-dp-size", layout.data, "attention groups keep each sequence's cache once")


def _numbers(request: EngineRequest) -> Iterator[Argument]:
    yield from alike.weight_format(request)
    if request.kv_cache == "fp8":
        yield option("--kv-cache-dtype", "fp8_e4m3", "models[].kv_cache")
    if request.kv_tiers is not None:
        yield switch("--enable-hierarchical-cache", "models[].kv_offload")
        each = sglang_gigabytes(request.kv_tiers.cpu_gib, request.layout.gpus_per_node)
        yield option("--hicache-size", each, "models[].kv_offload: decimal GB of RAM of each rank")


def _loading(request: EngineRequest) -> Iterator[Argument]:
    if request.card.remote_code:
        yield switch("--trust-remote-code", "the model's tokenizer is code of its repository, pinned by the revision")
    if request.weights.medium == "s3_stream":
        yield option("--load-format", "runai_streamer", "streams from S3 without a copy on disk")
        return
    if request.weights.shards is not None:
        yield option("--load-format", "presharded", "engine_options.load: each rank reads what it holds, once written")
        where = {"presharded_path": SHARDS_DIRECTORY, "draft_presharded_path": f"{SHARDS_DIRECTORY}/draft"}
        config = compact({**where, "verify_on_load": True})
        yield option("--model-loader-extra-config", config, "where they lie; each start checks their checksums")
    yield switch("--weight-loader-prefetch-checkpoints", "one read of the checkpoint a node instead of one a rank")


def _scheduling(options: SglangOptions) -> Iterator[Argument]:
    if options.prefill_chunk_tokens != "auto":
        yield option("--chunked-prefill-size", options.prefill_chunk_tokens, "engine_options.prefill_chunk_tokens")
    if options.scheduling_policy != "fcfs":
        yield option("--schedule-policy", options.scheduling_policy, "engine_options.scheduling_policy")
    if not options.prefix_caching:
        yield switch("--disable-radix-cache", "engine_options.prefix_caching")


def _answers(request: EngineRequest, options: SglangOptions) -> Iterator[Argument]:
    if request.reasoning_parser:
        yield option("--reasoning-parser", request.reasoning_parser, request.parser_why("reasoning_parser"))
    if request.tool_parser:
        yield option("--tool-call-parser", request.tool_parser, request.parser_why("tool_parser"))
    if options.structured_output != "auto":
        yield option("--grammar-backend", options.structured_output, "engine_options.structured_output")
    yield from _speculation(request)
    if options.log_requests:
        yield switch("--log-requests", "engine_options.log_requests")
    if options.log_level != "info":
        yield option("--log-level", options.log_level, "engine_options.log_level")


def _speculation(request: EngineRequest) -> Iterator[Argument]:
    speculation = request.options.speculation
    if speculation is None:
        return
    why = "engine_options.speculation"
    yield option("--speculative-algorithm", _ALGORITHMS[speculation.kind], why)
    if isinstance(speculation, DraftSpeculation):
        directory = request.directory_of(speculation.model, speculation.revision)
        yield option("--speculative-draft-model-path", directory, why)
    if speculation.kind == "ngram":
        yield option("--speculative-num-draft-tokens", speculation.tokens, why)
        return
    yield option("--speculative-num-steps", speculation.tokens, why)
    yield option("--speculative-eagle-topk", 1, "a chain of proposals: one candidate a step")
    yield option("--speculative-num-draft-tokens", speculation.tokens + 1, "the steps' tokens and the one before them")


def _options(request: EngineRequest) -> SglangOptions:
    assert isinstance(request.options, SglangOptions)  # noqa: S101 - settings are of the model's engine
    return request.options


def _compiled(request: EngineRequest) -> Iterator[EnvVar]:
    """Where SGLang keeps what is compiled: it sends Triton, Inductor, FlashInfer and TileLang below its own directory
    (sglang/srt/environ.py of 0.5.23)."""
    root = f"{COMPILED_DIRECTORY}/sglang"
    yield EnvVar(name="SGLANG_CACHE_DIR", value=root)
    yield EnvVar(name="SGLANG_JIT_CACHE_DIR", value=f"{root}/jit")
    yield EnvVar(name="SGLANG_DG_CACHE_DIR", value=f"{root}/deep_gemm")
    # DeepGEMM reads its own name when it is imported, which may be before SGLang sets it.
    yield EnvVar(name="DG_JIT_CACHE_DIR", value=f"{root}/deep_gemm")
    if compiles_deep_gemm(request.card):
        # Every number of tokens up to 16,384 has a kernel: half an hour on a cold cache. A sample takes 3 minutes.
        yield EnvVar(name="SGLANG_JIT_DEEPGEMM_FAST_WARMUP", value="1")


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of every pod."""
    return (
        *shared_env(request),
        EnvVar(name="SGLANG_API_KEY", secret=(request.api_key.name, request.api_key.key)),
        *_compiled(request),
        # Liveness generates a token; the default gives it 20 s, which our probe waits out.
        EnvVar(name="SGLANG_HEALTH_CHECK_TIMEOUT", value="20"),
        *(nixl.env(request.group, "sglang") if request.group else ()),
    )
