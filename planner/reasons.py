"""Decisions about a model in words, for people."""

from __future__ import annotations

from collections.abc import Mapping

from planner.drafts import Draft
from planner.performance import MAX_RUNNING
from planner.plan import LoadPlan, PerformancePlan, PoolPlan
from planner.sharing import cost_of_replica


def running_why(automatic: bool, kv_tokens: int, mean_tokens: int) -> str:
    """Why an engine may run so many sequences at once."""
    if not automatic:
        return "engine_options.max_running"
    return f"1.3 x {kv_tokens} tokens of cache / {mean_tokens} of a mean sequence, at most {MAX_RUNNING}"


def share_why(automatic: bool, engine: str, pool: PoolPlan) -> str:
    """What the share of memory that an engine is given counts."""
    share = "engine_options.memory_share" if not automatic else "the planned share"
    told = f"{share}; {'weights and cache alone' if engine == 'sglang' else 'everything that the engine holds'}"
    return f"{told}, on {pool.sharing.words}" if pool.sharing is not None else told


def quantization_words(sketch: Draft) -> str:
    """What is served."""
    published = sketch.card.checkpoint.format
    if sketch.model.quantization == "fp8":
        return f"fp8, quantised from {published} while loading"
    if sketch.model.quantization == "fp8_weight_only":
        return f"fp8 weight only, from {published}"
    return f"{published} as published"


def reasons(sketch: Draft, load: LoadPlan, speed: PerformancePlan, pool: PoolPlan) -> Mapping[str, str]:
    """Layout, memory, concurrency and load."""
    layout, memory = sketch.fit.layout, sketch.fit.memory
    chosen = (
        "smallest that holds several full sequences" if sketch.model.layout == "auto" else "given in the stack file"
    )
    objectives = sketch.model.objectives
    return {
        "layout": (
            f"tensor {layout.tensor} x pipeline {layout.pipeline}, {layout.gpus_per_node} x {pool.hardware.gpu} on "
            f"each of {layout.nodes} node(s): {chosen}"
        ),
        "memory": (
            f"{memory.gpu_gib:.1f} GiB x {memory.utilization:.2f} - {memory.overhead_gib:.1f} overhead - "
            f"{memory.weights_gib:.1f} weights = {memory.kv_gib:.1f} GiB KV cache a GPU, "
            f"{memory.kv_tokens} tokens, {memory.max_sequences} sequences of {sketch.model.context_tokens}"
        ),
        "concurrency": (
            f"{speed.knee_concurrency} requests run at once where p99 leaves {objectives.ttft_p99_ms} ms to the first "
            f"token or {objectives.tpot_p99_ms} ms a token, or batch or cache are full (limited by "
            f"{speed.limited_by}; GPU {speed.band.evidence})"
        ),
        "load": (
            f"{load.gigabytes_per_node:.1f} GB a node, {load.readers} node(s) reading, bound by {load.bottleneck}: "
            f"{load.seconds:.0f} s"
        ),
        **({"sharing": cost_of_replica(pool, pool.sharing)} if pool.sharing else {}),
    }
