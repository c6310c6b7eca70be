"""Ray Serve LLM: the application that RayService runs, with the vLLM that the pinned Ray carries.

The document is held to Ray Serve's own schema and to that vLLM's engine arguments (catalog/engine_flags). With Serve's
own defaults for ongoing requests (1e9) autoscaling never fires.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from catalog.engine_flags import Flag, parser_data
from catalog.types import Gpu
from planner.engines import vllm
from planner.engines.request import EngineRequest, shared_env
from planner.plan import EnvVar, ScalingPlan
from settings.engines import VllmOptions

IDLE_SECONDS = 60
"""After that Ray's autoscaler lets an empty worker go. Serve has waited its downscale delay before it empties one, and
what pending replicas need is kept whatever its age (autoscaler v2), so nothing is gained by waiting again."""


def serve_config(request: EngineRequest, gpu: Gpu, scaling: ScalingPlan) -> Mapping[str, Any]:
    """The `serveConfigV2` document."""
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": request.name, "model_source": request.weights.directory},
        "engine_kwargs": engine_kwargs(request),
        "placement_group_config": {"bundle_per_worker": {"GPU": 1, "CPU": 1}, "strategy": "PACK"},
        "log_engine_metrics": True,
        "deployment_config": {
            "max_ongoing_requests": request.max_running + request.queue_limit,
            # At each ingress while all replicas are full; the next one is answered with 503, as the engines' own limit
            # does elsewhere. Serve's default is no limit.
            "max_queued_requests": request.queue_limit,
            "graceful_shutdown_timeout_s": request.drain_seconds,
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "target_ongoing_requests": scaling.target_concurrency,
                "upscale_delay_s": scaling.polling_seconds,
                "downscale_delay_s": scaling.scale_down_stabilization_seconds,
                "downscaling_factor": downscaling_factor(scaling),
            },
        },
    }
    if gpu.ray_accelerator_type:
        llm["accelerator_type"] = gpu.ray_accelerator_type
    application = {
        "name": request.name,
        "import_path": "ray.serve.llm:build_openai_app",
        "route_prefix": "/",
        "args": {"llm_configs": [llm]},
    }
    return {"applications": [application]}


def downscaling_factor(scaling: ScalingPlan) -> float:
    """Takes so small a part of any surplus that replicas go as few at a time as with KEDA.

    Serve takes `ceil(running + factor x (wanted - running))`, and one replica where that is none.
    """
    return round(scaling.scale_down_pods / max(1, scaling.max_replicas - scaling.min_replicas), 4)


def engine_kwargs(request: EngineRequest) -> dict[str, Any]:
    """vLLM's engine arguments as keywords."""
    options = request.options
    assert isinstance(options, VllmOptions)  # noqa: S101 - Ray Serve LLM runs vLLM only
    found: dict[str, Any] = {
        "tensor_parallel_size": request.layout.tensor,
        "max_model_len": request.context_tokens,
        "max_num_seqs": request.max_running,
        "gpu_memory_utilization": round(request.utilization, 2),
        "safetensors_load_strategy": "prefetch",
    }
    if request.patient:
        found["distributed_timeout_seconds"] = request.patience_seconds
    if request.card.remote_code:
        found["trust_remote_code"] = True
    found.update(_layout(request, options))
    found.update(_numbers(request, options))
    if request.reasoning_parser:
        found["reasoning_parser"] = request.reasoning_parser
    found.update(_choices(request, options))
    for text in options.extra_args:
        name, _, value = text.partition("=")
        flag = parser_data("ray-llm").flag(name)
        if flag is not None:
            found[flag.dest] = keyword_value(flag, name, value)
    return found


def _layout(request: EngineRequest, options: VllmOptions) -> Iterator[tuple[str, Any]]:
    if request.layout.pipeline > 1:
        yield "pipeline_parallel_size", request.layout.pipeline
    if request.layout.expert > 1:
        yield "enable_expert_parallel", True
        if options.expert_backend != "allgather_reducescatter":
            yield "all2all_backend", options.expert_backend


def _numbers(request: EngineRequest, options: VllmOptions) -> Iterator[tuple[str, Any]]:
    if request.quantization != "checkpoint" and request.card.checkpoint.format == "bf16":
        yield "quantization", "fp8"
    elif options.quantization_method is not None:
        yield "quantization", options.quantization_method
    if request.kv_cache == "fp8":
        yield "kv_cache_dtype", "fp8"
    if request.kv_tiers is not None:
        yield "kv_offloading_size", float(request.kv_tiers.cpu_gib * request.layout.nodes)
        yield "kv_offloading_backend", "native"
    if request.kv_cache_bytes is not None:
        yield "kv_cache_memory_bytes", request.kv_cache_bytes
    if request.step_tokens is not None and options.prefill_chunk_tokens == "auto":
        yield "max_num_batched_tokens", request.step_tokens


def _choices(request: EngineRequest, options: VllmOptions) -> Iterator[tuple[str, Any]]:
    if request.tool_parser:
        yield "enable_auto_tool_choice", True
        yield "tool_call_parser", request.tool_parser
    if options.prefill_chunk_tokens != "auto":
        yield "max_num_batched_tokens", options.prefill_chunk_tokens
    if options.scheduling_policy != "fcfs":
        yield "scheduling_policy", options.scheduling_policy
    if not options.prefix_caching:
        yield "enable_prefix_caching", False
    if options.structured_output != "auto":
        yield "structured_outputs_config", {"backend": options.structured_output}
    if options.log_requests:
        yield "enable_log_requests", True
    speculation = vllm.speculative_config(request)
    if speculation is not None:
        yield "speculative_config", speculation


def keyword_value(flag: Flag, name: str, value: str) -> Any:
    """The value of an option as Python has it."""
    if flag.takes != "value":
        return not _says_no(flag, name)
    try:
        # On a command line vLLM reads an object's text itself (--hf-overrides); as a keyword it wants the object.
        if flag.type == "json" or value.startswith("{"):
            return json.loads(value)
        if flag.type == "float":
            return float(value)
    except ValueError:
        return value  # refused where it stands in the stack file
    if flag.type in {"int", "count"} and value.lstrip("-").isdigit():
        return int(value)
    return value


def _says_no(flag: Flag, name: str) -> bool:
    """Whether a spelling is the negative one of its pair: --no-x of --x, --disable-x of --enable-x or the reverse."""
    first = flag.names[0]
    if name == first or flag.takes == "nothing":
        return False
    turned = {"enable", "disable"} == {name.split("-")[2], first.split("-")[2]}
    return name.startswith("--no-") or turned


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of the worker pods."""
    return (
        *shared_env(request),
        *vllm.compile_caches(),
        EnvVar(name="VLLM_NO_USAGE_STATS", value="1"),
        EnvVar(name="VLLM_ENGINE_READY_TIMEOUT_S", value=str(request.patience_seconds)),
        EnvVar(name="RAYLLM_ENGINE_START_TIMEOUT_S", value=str(request.patience_seconds)),
    )
