"""Models on GPUs, engines and runtimes: what the planner makes of each, to be held to the engines' own parsers.

Stacks are made here as a person would write them and go through settings and planner; what does not fit is left out,
and the page says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from catalog.load import Catalog, load
from planner.plan import ModelPlan
from planner.planning import plan
from planner.problems import PlanError
from settings.root import Settings

_REVISION = "0" * 40

MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "nvidia/Llama-3.3-70B-Instruct-FP8",
    "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-235B-A22B-FP8",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "google/gemma-3-27b-it",
    "zai-org/GLM-4.5-Air",
    "deepseek-ai/DeepSeek-V2-Lite-Chat",
    "deepseek-ai/DeepSeek-R1-0528",
    "moonshotai/Kimi-K2-Instruct",
)
"""Dense and mixtures, grouped, latent and sliding attention, every number format of the catalog."""

INSTANCES = (
    "g6e.xlarge",
    "g6.12xlarge",
    "g5.48xlarge",
    "p4d.24xlarge",
    "p5.48xlarge",
    "p5en.48xlarge",
    "p6-b200.48xlarge",
)

SERVERS = (("vllm", "auto"), ("sglang", "auto"), ("vllm", "ray_service"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model on one instance type, with what its entry says beyond that."""

    name: str
    model: str
    instance: str
    engine: str = "vllm"
    runtime: str = "auto"
    entry: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further keys of its `models` entry."""
    sharing: Mapping[str, Any] | None = None
    """How the pool cuts its GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A case as it was planned, or why it was not."""

    case: Case
    plan: ModelPlan | None
    why_not: str = ""


_LMCACHE_IMAGE = {"repository": "registry.example.com/vllm-lmcache", "tag": "v1", "carries_lmcache": True}

_OPTIONS: tuple[Case, ...] = (
    Case(
        name="MTP of DeepSeek on vLLM", model="deepseek-ai/DeepSeek-R1-0528", instance="p5en.48xlarge",
        entry={"engine_options": {"engine": "vllm", "speculation": {"kind": "mtp", "tokens": 1}}},
    ),
    Case(
        name="MTP of DeepSeek on SGLang", model="deepseek-ai/DeepSeek-R1-0528", instance="p5en.48xlarge",
        engine="sglang", entry={"engine_options": {"engine": "sglang", "speculation": {"kind": "mtp", "tokens": 3}}},
    ),
    Case(
        name="MTP on Ray", model="deepseek-ai/DeepSeek-R1-0528", instance="p5en.48xlarge", runtime="ray_service",
        entry={"engine_options": {"engine": "vllm", "speculation": {"kind": "mtp", "tokens": 1}}},
    ),
    Case(
        name="data parallel attention and experts on SGLang", model="deepseek-ai/DeepSeek-R1-0528",
        instance="p5en.48xlarge", engine="sglang", entry={"layout": {"tensor": 8, "data": 8, "expert": 8}},
    ),
    Case(
        name="data parallel attention and experts on vLLM", model="deepseek-ai/DeepSeek-R1-0528",
        instance="p5en.48xlarge", entry={"layout": {"tensor": 8, "data": 8, "expert": 8}, "context_tokens": 8192},
    ),
    Case(
        name="experts over two nodes on SGLang, DeepEP asked for", model="deepseek-ai/DeepSeek-R1-0528",
        instance="p5.48xlarge", engine="sglang",
        entry={
            "layout": {"tensor": 16, "expert": 16}, "engine_options": {"engine": "sglang", "expert_backend": "deepep"},
        },
    ),
    Case(
        name="experts in stages over two nodes on vLLM", model="deepseek-ai/DeepSeek-R1-0528", instance="p5.48xlarge",
        entry={"layout": {"tensor": 8, "pipeline": 2, "expert": 16}},
    ),
    Case(
        name="bf16 as FP8, FP8 cache, vLLM", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        entry={"quantization": "fp8", "kv_cache": "fp8"},
    ),
    Case(
        name="bf16 as FP8, FP8 cache, SGLang", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        engine="sglang", entry={"quantization": "fp8", "kv_cache": "fp8"},
    ),
    Case(
        name="bf16 as FP8, FP8 cache, Ray", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        runtime="ray_service", entry={"quantization": "fp8", "kv_cache": "fp8"},
    ),
    Case(
        name="adapters on vLLM", model="meta-llama/Llama-3.1-8B-Instruct", instance="g6e.xlarge",
        entry={"engine_options": {"engine": "vllm", "lora": {"concurrent": 2, "adapters": [
            {"name": "legal", "source": "acme/llama-legal", "revision": "1" * 40, "rank": 16},
            {"name": "support", "source": "acme/llama-support", "revision": "2" * 40, "rank": 48},
        ]}}},
    ),
    Case(
        name="adapters on SGLang", model="meta-llama/Llama-3.1-8B-Instruct", instance="g6e.xlarge", engine="sglang",
        entry={"engine_options": {"engine": "sglang", "lora": {"concurrent": 2, "adapters": [
            {"name": "legal", "source": "acme/llama-legal", "revision": "1" * 40, "rank": 16},
            {"name": "support", "source": "acme/llama-support", "revision": "2" * 40, "rank": 48},
        ]}}},
    ),
    Case(
        name="EAGLE 3 on vLLM", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        entry={"engine_options": {"engine": "vllm", "speculation": {
            "kind": "eagle3", "model": "acme/eagle3-llama-3.3-70b", "revision": "3" * 40, "gigabytes": 3.2,
        }}},
    ),
    Case(
        name="EAGLE 3 on SGLang", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge", engine="sglang",
        entry={"engine_options": {"engine": "sglang", "speculation": {
            "kind": "eagle3", "model": "acme/eagle3-llama-3.3-70b", "revision": "3" * 40, "gigabytes": 3.2,
        }}},
    ),
    Case(
        name="every option of vLLM", model="hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
        instance="p4d.24xlarge",
        entry={"engine_options": {
            "engine": "vllm", "memory_share": 0.9, "max_running": 64, "max_queued": 100, "prefill_chunk_tokens": 4096,
            "prefix_caching": False, "scheduling_policy": "priority", "quantization_method": "awq_marlin",
            "structured_output": "xgrammar", "tool_parser": "hermes", "reasoning_parser": "qwen3",
            "log_requests": True, "speculation": {"kind": "ngram"},
            "extra_args": ["--stream-interval=4", "--enable-server-load-tracking"],
        }},
    ),
    Case(
        name="every option of SGLang", model="hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
        instance="p4d.24xlarge", engine="sglang",
        entry={"engine_options": {
            "engine": "sglang", "memory_share": 0.85, "max_running": 64, "max_queued": 100,
            "prefill_chunk_tokens": 4096, "prefix_caching": False, "scheduling_policy": "lpm",
            "quantization_method": "awq_marlin", "structured_output": "llguidance", "tool_parser": "qwen25",
            "reasoning_parser": "qwen3", "log_requests": True, "log_level": "warning",
            "speculation": {"kind": "ngram"}, "extra_args": ["--stream-interval=4", "--enable-cache-report"],
        }},
    ),
    Case(
        name="every option on Ray", model="hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
        instance="p4d.24xlarge",
        runtime="ray_service",
        entry={"engine_options": {
            "engine": "vllm", "memory_share": 0.9, "max_running": 64, "prefill_chunk_tokens": 4096,
            "prefix_caching": False, "scheduling_policy": "priority", "quantization_method": "awq_marlin",
            "structured_output": "xgrammar", "tool_parser": "hermes", "log_requests": True,
            "speculation": {"kind": "ngram"},
            "extra_args": ["--stream-interval=4", "--enforce-eager"],
        }},
    ),
    Case(
        name="KV blocks in RAM, vLLM", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        entry={"kv_offload": {"cpu_gib": 100}},
    ),
    Case(
        name="KV blocks in RAM, SGLang", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        engine="sglang", entry={"kv_offload": {"cpu_gib": 100}},
    ),
    Case(
        name="KV blocks through LMCache to a store", model="meta-llama/Llama-3.3-70B-Instruct",
        instance="p5.48xlarge",
        entry={
            "kv_offload": {"cpu_gib": 100, "through": "lmcache", "remote": "valkey"}, "image": _LMCACHE_IMAGE,
            "kv_store": {"memory_gib": 6},
        },
    ),
    Case(
        name="latent attention's blocks through LMCache", model="deepseek-ai/DeepSeek-R1-0528",
        instance="p5en.48xlarge",
        entry={"kv_offload": {"cpu_gib": 400, "through": "lmcache"}, "image": _LMCACHE_IMAGE},
    ),
    Case(
        name="KV blocks in RAM, Ray", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        runtime="ray_service", entry={"kv_offload": {"cpu_gib": 100}},
    ),
    Case(
        name="a time slice, vLLM", model="meta-llama/Llama-3.1-8B-Instruct", instance="p5.48xlarge",
        sharing={"kind": "time_slicing", "replicas": 2},
    ),
    Case(
        name="a time slice, Ray", model="meta-llama/Llama-3.1-8B-Instruct", instance="p5.48xlarge",
        runtime="ray_service", sharing={"kind": "time_slicing", "replicas": 2},
    ),
    Case(
        name="a group of one node", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        runtime="leader_worker_set",
    ),
    Case(
        name="shards of two nodes on SGLang", model="deepseek-ai/DeepSeek-R1-0528", instance="p5.48xlarge",
        engine="sglang",
        entry={"layout": {"tensor": 16}, "engine_options": {
            "engine": "sglang", "load": "sharded", "speculation": {"kind": "mtp", "tokens": 3},
        }},
    ),
    Case(
        name="shards of two nodes on vLLM", model="meta-llama/Llama-3.1-405B-Instruct", instance="p5.48xlarge",
        entry={"engine_options": {"engine": "vllm", "load": "sharded"}},
    ),
    Case(
        name="shards of one node on vLLM", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        entry={"layout": {"tensor": 8}, "kv_offload": {"cpu_gib": 100}, "engine_options": {
            "engine": "vllm", "load": "sharded", "speculation": {"kind": "ngram"},
        }},
    ),
    Case(
        name="streamed from S3, vLLM", model="meta-llama/Llama-3.1-8B-Instruct", instance="g6e.xlarge",
        entry={"cache": {"kind": "s3"}},
    ),
    Case(
        name="streamed from S3, SGLang", model="meta-llama/Llama-3.1-8B-Instruct", instance="g6e.xlarge",
        engine="sglang", entry={"cache": {"kind": "s3"}},
    ),
    Case(
        name="prefill and decode apart, vLLM", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        entry={"disaggregated": {"prefill": {"layout": {"tensor": 4}}, "decode": {"layout": {"tensor": 8}}}},
    ),
    Case(
        name="prefill and decode apart over libfabric, vLLM", model="Qwen/Qwen3-235B-A22B-FP8",
        instance="p5en.48xlarge",
        entry={"disaggregated": {"transport": "libfabric", "decode": {"layout": {"tensor": 4, "expert": 4}}}},
    ),
    Case(
        name="prefill and decode apart, SGLang", model="meta-llama/Llama-3.3-70B-Instruct", instance="p5.48xlarge",
        engine="sglang",
        entry={"disaggregated": {"prefill": {"layout": {"tensor": 4}}, "decode": {"layout": {"tensor": 4}}}},
    ),
    Case(
        name="prefill over two nodes and decode on one, SGLang", model="deepseek-ai/DeepSeek-R1-0528",
        instance="p5en.48xlarge", engine="sglang",
        entry={"disaggregated": {
            "prefill": {"layout": {"tensor": 16}}, "decode": {"layout": {"tensor": 8, "data": 8, "expert": 8}},
        }},
    ),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Every model on every instance type with each server, then options."""
    for model in MODELS:
        for instance in INSTANCES:
            for engine, runtime in SERVERS:
                server = "ray" if runtime == "ray_service" else engine
                yield Case(
                    name=f"{model} on {instance} with {server}", model=model, instance=instance, engine=engine,
                    runtime=runtime,
                )  # fmt: skip
    yield from _OPTIONS


def stack_of(case: Case, catalog: Catalog) -> tuple[Settings, str]:
    """A stack file with that one model, and a region that has the instance type."""
    region, zone = _where(case.instance, catalog)
    entry = dict(case.entry)
    shared_cache = {
        "kind": "fsx_lustre",
        "storage_gib": 9600,
        "throughput_mbps_per_tib": 1000,
        "availability_zone": zone,
    }
    document: dict[str, Any] = {
        "environment": "matrix",
        "target": {
            "kind": "eks",
            "admins": ["arn:aws:iam::111122223333:role/platform"],
            "endpoint": {"access": "public_and_private", "admin_cidrs": ["203.0.113.0/24"]},
        },
        "network": {"kind": "create", "cidr": "10.30.0.0/16"},
        "pools": [
            {
                "name": "gpus",
                "instance_type": case.instance,
                "availability_zone": zone,
                "capacity": [{"kind": "on_demand", "nodes": {"min": 0, "max": 8}}],
                "sharing": case.sharing,
            }
        ],
        "cache": entry.pop("cache", shared_cache),
        "kv_store": entry.pop("kv_store", None),
        "models": [
            {
                "name": "model",
                "model": case.model,
                "revision": _REVISION,
                "engine": case.engine,
                "runtime": case.runtime,
                "pool": "gpus",
                **({} if "disaggregated" in entry else {"replicas": {"min": 1, "max": 2}}),
                "objectives": {"ttft_p99_ms": 60_000, "tpot_p99_ms": 1000},
                "image": {
                    "repository": "registry.example.com/engine-efa",
                    "tag": "v1",
                    "carries_efa": True,
                    "carries_nixl": True,
                },
                **entry,
            }
        ],
    }
    return Settings.model_validate(document), region


def _where(instance: str, catalog: Catalog) -> tuple[str, str]:
    for region in catalog.regions.values():
        for zone in region.offerings.get(instance, ()):
            if all(found.control_plane for found in region.zones if found.name == zone):
                return region.name, zone
    message = f"no region of the catalog has {instance}"
    raise LookupError(message)


@cache
def matrix() -> tuple[Row, ...]:
    """Every case, planned."""
    catalog = load()
    return tuple(row for case in cases() for row in _planned(case, catalog))


def _planned(case: Case, catalog: Catalog) -> Iterator[Row]:
    """One row, two of a model whose prefill and decode are apart."""
    settings, region = stack_of(case, catalog)
    try:
        models = plan(settings, stack="matrix", region=region, catalog=catalog).models
    except PlanError as error:
        yield Row(case=case, plan=None, why_not=error.problems[0].message)
        return
    for model in models:
        group = model.disaggregation
        yield Row(case=replace(case, name=f"{case.name}, {group.role}") if group else case, plan=model)


def lines() -> dict[str, dict[str, Any]]:
    """Engine -> case -> what its parser must take: arguments, the workers' too, or Ray's serve document."""
    found: dict[str, dict[str, Any]] = {"vllm": {}, "sglang": {}, "ray-llm": {}}
    for row in matrix():
        if row.plan is None:
            continue
        if row.plan.ray is not None:
            found["ray-llm"][row.case.name] = row.plan.ray.serve_config
            continue
        found[row.case.engine][row.case.name] = list(row.plan.container.args)
        if row.plan.worker is not None:
            found[row.case.engine][f"{row.case.name}, worker"] = list(row.plan.worker.args)
        if row.plan.container.saving_args:
            saved = [row.plan.weights.directory, *row.plan.container.saving_args]
            found[row.case.engine][f"{row.case.name}, written"] = saved
    return found
