"""Ray Serve LLM: the application that RayService runs, with the vLLM that the pinned Ray carries.

Source: `ray.serve.llm` of 2.60 (LLMConfig); with its own defaults for ongoing requests (1e9) autoscaling never fires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.types import Gpu
from planner.engines.request import CACHE_DIRECTORY, EngineRequest, shared_env
from planner.plan import EnvVar, ScalingPlan


def serve_config(request: EngineRequest, gpu: Gpu, scaling: ScalingPlan) -> Mapping[str, Any]:
    """The `serveConfigV2` document."""
    engine_kwargs: dict[str, Any] = {
        "tensor_parallel_size": request.layout.tensor,
        "max_model_len": request.context_tokens,
        "max_num_seqs": request.max_running,
        "gpu_memory_utilization": round(request.utilization, 2),
        "safetensors_load_strategy": "prefetch",
    }
    if request.layout.pipeline > 1:
        engine_kwargs["pipeline_parallel_size"] = request.layout.pipeline
    if request.layout.expert > 1:
        engine_kwargs["enable_expert_parallel"] = True
    if request.quantization != "checkpoint" and request.card.checkpoint.format == "bf16":
        engine_kwargs["quantization"] = "fp8"
    if request.kv_cache == "fp8":
        engine_kwargs["kv_cache_dtype"] = "fp8"
    reasoning = request.card.reasoning_parser.get("vllm")
    if reasoning:
        engine_kwargs["reasoning_parser"] = reasoning
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": request.name, "model_source": request.weights.directory},
        "engine_kwargs": engine_kwargs,
        "placement_group_config": {"bundle_per_worker": {"GPU": 1, "CPU": 1}, "strategy": "PACK"},
        "log_engine_metrics": True,
        "deployment_config": {
            "max_ongoing_requests": request.max_running + request.queue_limit,
            "graceful_shutdown_timeout_s": request.drain_seconds,
            "autoscaling_config": {
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "target_ongoing_requests": scaling.target_concurrency,
                "upscale_delay_s": 15,
                "downscale_delay_s": scaling.scale_down_stabilization_seconds,
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


def env(request: EngineRequest) -> tuple[EnvVar, ...]:
    """Environment of the worker pods."""
    return (
        *shared_env(request),
        EnvVar(name="VLLM_CACHE_ROOT", value=f"{CACHE_DIRECTORY}/vllm"),
        EnvVar(name="VLLM_NO_USAGE_STATS", value="1"),
        EnvVar(name="RAYLLM_ENGINE_START_TIMEOUT_S", value=str(max(600, 2 * request.startup_seconds))),
    )
