"""Options of an engine that cannot work, told before anything is made: reason and the nearest thing that does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from catalog.engine_flags import ParserData, Refusal, parser_data
from catalog.types import Engine, ModelCard
from planner.engines import vllm
from planner.engines.combinations import combination_problems, layout_problems
from planner.engines.extra import Told, extra_problems, spread_problems
from planner.plan import LayoutPlan
from planner.problems import Findings
from settings.engines import DraftSpeculation, Lora, SglangOptions, VllmOptions
from settings.errors import Path
from settings.serving import Model

Options = VllmOptions | SglangOptions

# What the planner sets, by the option's name inside the engine, and where the stack file says it.
_OWNED: Mapping[str, str] = {
    "model_tag": "model", "model": "model", "model_path": "model", "served_model_name": "name", "host": "", "port": "",
    "api_key": "api_key", "tensor_parallel_size": "layout.tensor", "tp_size": "layout.tensor",
    "pipeline_parallel_size": "layout.pipeline", "pp_size": "layout.pipeline",
    "data_parallel_size": "layout.data", "dp_size": "layout.data", "attn_dp_size": "layout.data",
    "enable_dp_attention": "layout.data", "enable_expert_parallel": "layout.expert", "ep_size": "layout.expert",
    "all2all_backend": "engine_options.expert_backend", "moe_a2a_backend": "engine_options.expert_backend",
    "max_model_len": "context_tokens", "context_length": "context_tokens",
    "max_num_seqs": "engine_options.max_running", "max_running_requests": "engine_options.max_running",
    "max_num_queued_reqs": "engine_options.max_queued", "max_queued_requests": "engine_options.max_queued",
    "gpu_memory_utilization": "engine_options.memory_share", "mem_fraction_static": "engine_options.memory_share",
    "max_num_batched_tokens": "engine_options.prefill_chunk_tokens",
    "chunked_prefill_size": "engine_options.prefill_chunk_tokens",
    "quantization": "quantization, or engine_options.quantization_method", "kv_cache_dtype": "kv_cache",
    "enable_prefix_caching": "engine_options.prefix_caching", "disable_radix_cache": "engine_options.prefix_caching",
    "scheduling_policy": "engine_options.scheduling_policy", "schedule_policy": "engine_options.scheduling_policy",
    "tool_call_parser": "engine_options.tool_parser", "enable_auto_tool_choice": "engine_options.tool_parser",
    "reasoning_parser": "engine_options.reasoning_parser",
    "speculative_config": "engine_options.speculation", "speculative_algorithm": "engine_options.speculation",
    "structured_outputs_config": "engine_options.structured_output",
    "grammar_backend": "engine_options.structured_output",
    "enable_lora": "engine_options.lora", "lora_modules": "engine_options.lora", "lora_paths": "engine_options.lora",
    "max_lora_rank": "engine_options.lora.max_rank", "max_loras": "engine_options.lora.concurrent",
    "max_loras_per_batch": "engine_options.lora.concurrent",
    "load_format": "engine_options.load, or cache", "safetensors_load_strategy": "cache",
    "weight_loader_prefetch_checkpoints": "cache",
    "model_loader_extra_config": "cache", "enable_ep_weight_filter": "layout.expert",
    "enable_log_requests": "engine_options.log_requests", "log_requests": "engine_options.log_requests",
    "log_level": "engine_options.log_level",
    "nnodes": "layout", "node_rank": "layout", "master_addr": "", "master_port": "", "dist_init_addr": "",
    "headless": "layout", "shutdown_timeout": "", "distributed_timeout_seconds": "", "dist_timeout": "",
    "cpu_distributed_timeout_seconds": "", "speculative_draft_load_format": "engine_options.load",
    "distributed_executor_backend": "runtime", "enable_metrics": "", "disable_access_log_for_endpoints": "",
    "kv_cache_memory_bytes": "engine_options.memory_share", "config": "engine_options",
    "kv_transfer_config": "kv_offload.through, or disaggregated", "enable_lmcache": "kv_offload",
    "lmcache_config_file": "kv_offload", "hicache_write_policy": "kv_offload", "hicache_storage_backend": "kv_offload",
    "kv_offloading_size": "kv_offload", "kv_offloading_backend": "kv_offload",
    "disaggregation_mode": "disaggregated", "disaggregation_transfer_backend": "disaggregated",
    "disaggregation_bootstrap_port": "disaggregated",
    "enable_hierarchical_cache": "kv_offload", "hicache_size": "kv_offload", "hicache_ratio": "kv_offload",
}  # fmt: skip

# Ways to read quantised weights, by what the checkpoint is. Sources: the `quantization` choices of both engines and the
# `quant_method` that checkpoints of each format carry.
_METHODS: Mapping[str, frozenset[str]] = {
    "bf16": frozenset(),
    "fp8": frozenset({"fp8", "modelopt", "modelopt_fp8", "compressed-tensors", "fbgemm_fp8", "w8a8_fp8"}),
    "fp8_block128": frozenset({"fp8"}),
    "mxfp4": frozenset({"mxfp4", "gpt_oss_mxfp4", "quark"}),
    "awq_int4": frozenset({"awq", "awq_marlin", "auto_awq", "moe_wna16"}),
}


def options_of(model: Model) -> Options:
    """The engine's options as the stack file gives them, else its defaults."""
    given = model.engine_options
    if given is not None and given.engine == model.engine:
        return given
    return VllmOptions(engine="vllm") if model.engine == "vllm" else SglangOptions(engine="sglang")


def lora_rank(lora: Lora | None, engine: Engine) -> int:
    """Rank that memory is set aside for; 0 without adapters. Ranks that cannot be held are a problem elsewhere."""
    if lora is None:
        return 0
    wanted = max(adapter.rank for adapter in lora.adapters) if lora.max_rank == "auto" else int(lora.max_rank)
    return wanted if engine.name == "sglang" else vllm.rank_for(wanted, engine.name) or wanted


def check_options(path: Path, model: Model, card: ModelCard | None, engine: Engine, findings: Findings) -> None:
    """Judge a model's engine options by themselves, on whatever hardware and in whatever layout.

    Args:
        path: of the model in the stack file.
        model: as the stack file has it.
        card: numbers of the model; None where they are not known, and options are judged that do not need them.
        engine: with the version that it runs.
        findings: collects the problems.
    """
    given = model.engine_options
    if given is None:
        return
    at = (*path, "engine_options")
    if given.engine != model.engine:
        findings.problem(
            (*at, "engine"), f"these are options of {given.engine}, and the model's engine is {model.engine}", "say one"
        )
        return
    data = parser_data(engine.name)
    for key, message, help_text in (
        *_parsers(given, data),
        *(_of_card(given, card, data) if card is not None else ()),
        *_lora(given, engine),
        *combination_problems(model, given),
        *extra_problems(given.extra_args, data, _OWNED),
    ):
        findings.problem((*at, *key), message, help_text)


def check_options_in_layout(
    path: Path,
    model: Model,
    engine: Engine,
    layout: LayoutPlan,
    *,
    files: bool,
    running: int,
    step_tokens: int,
    findings: Findings,
) -> None:
    """Judge them beside what has been decided.

    Args:
        path: of the model in the stack file.
        model: as the stack file has it.
        engine: with the version that it runs.
        layout: of one replica.
        files: whether pods read weights from a file system (False: streamed from S3).
        running: sequences at once over the whole replica.
        step_tokens: tokens of one step at most.
        findings: collects the problems.
    """
    _remark(path, model, layout, findings)
    given = model.engine_options
    if given is None or given.engine != model.engine:
        return
    for key, message, help_text in (
        *(() if files else _files(given, engine)),
        *_experts(given, layout),
        *layout_problems(given, layout, running=running, step_tokens=step_tokens),
        *spread_problems(given.extra_args, parser_data(engine.name), layout),
    ):
        findings.problem((*path, "engine_options", *key), message, help_text)


def _remark(path: Path, model: Model, layout: LayoutPlan, findings: Findings) -> None:
    """What works between nodes, but worse than its neighbor."""
    subject = f"models[{path[1]}]"
    if model.engine == "vllm" and layout.nodes > 1 and layout.tensor > layout.gpus_per_node:
        findings.remark(
            subject,
            f"tensor {layout.tensor} crosses nodes, so every layer waits for EFA: vLLM is faster with tensor "
            f"{layout.gpus_per_node} and pipeline {layout.nodes}",
        )
    options = options_of(model)
    if layout.nodes > 1 and options.expert_backend.startswith("deepep"):
        findings.remark(
            subject, "DeepEP between nodes was asked for: nobody has shown it fast on EFA, so measure first"
        )


def _parsers(options: Options, data: ParserData) -> Iterator[Told]:
    for field, dest in (("tool_parser", "tool_call_parser"), ("reasoning_parser", "reasoning_parser")):
        value: str | None = getattr(options, field)
        flag = data.by_dest[dest]
        known = [str(choice) for choice in flag.choices] or list(flag.known)
        if value not in (None, "card") and known and value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            advice = f"did you mean `{near[0]}`?" if near else "it has " + ", ".join(known)
            yield (field,), f"{data.engine} {data.version} has no {field.replace('_', ' ')} `{value}`", advice


def _of_card(options: Options, card: ModelCard, data: ParserData) -> Iterator[Told]:
    yield from _method(options, card, data)
    speculation = options.speculation
    if speculation is not None and speculation.kind == "mtp" and not card.mtp_layers:
        yield ("speculation", "kind"), f"{card.name} has no prediction layers", "use `kind: ngram`, or a draft model"


def _method(options: Options, card: ModelCard, data: ParserData) -> Iterator[Told]:
    method = options.quantization_method
    if method is None:
        return
    published = card.checkpoint.format
    fitting = _METHODS[published]
    if method not in fitting:
        usable = [m for m in sorted(fitting) if data.by_dest["quantization"].refusal(m) is None]
        advice = "leave it out, the engine reads it from the checkpoint" + (
            f"; or {', '.join(usable)}" if usable else ""
        )
        if published == "bf16":
            advice = "say `quantization: fp8` at the model (on A100 and A10G `fp8_weight_only`): it quantises at load"
        yield (
            ("quantization_method",),
            f"`{method}` reads other weights: {card.name} is published as {published}",
            advice,
        )
        return
    refusal = data.by_dest["quantization"].refusal(method)
    if refusal:
        yield ("quantization_method",), f"{data.engine} {data.version}: {refusal}", "leave it out"


_MOUNTED = "use `cache: {kind: fsx_lustre, ...}` in the pool's zone"


def _files(options: Options, engine: Engine) -> Iterator[Told]:
    """What is read beside the weights, where weights are streamed."""
    if isinstance(options.speculation, DraftSpeculation):
        words = "a draft model is read from the cache's file system, and weights are streamed"
        yield ("speculation", "kind"), words, _MOUNTED
    if options.lora is not None and engine.name != "ray-llm":
        yield ("lora",), "adapters are read from the cache's file system, and weights are streamed", _MOUNTED


def _lora(options: Options, engine: Engine) -> Iterator[Told]:
    lora = options.lora
    if lora is None:
        return
    if engine.name == "ray-llm":
        yield ("lora",), "Ray Serve LLM takes adapters from a bucket of its own", "use runtime deployment"
        return
    if engine.name == "sglang":
        return
    ranks = parser_data(engine.name).by_dest["max_lora_rank"].choices
    held = ", ".join(map(str, ranks))
    for index, adapter in enumerate(lora.adapters):
        if vllm.rank_for(adapter.rank, engine.name) is None:
            at: Path = ("lora", "adapters", index, "rank")
            yield (
                at,
                f"rank {adapter.rank} is over {max(ranks)}, the most that vLLM {engine.engine_version} holds",
                ("merge the adapter into its model, or train it at a lower rank"),
            )
    if lora.max_rank != "auto" and lora.max_rank not in ranks:
        yield (
            ("lora", "max_rank"),
            f"vLLM {engine.engine_version} sets memory aside for ranks {held}",
            (f"use {vllm.rank_for(int(lora.max_rank), engine.name) or max(ranks)}, or `auto`"),
        )


def _experts(options: Options, layout: LayoutPlan) -> Iterator[Told]:
    default = type(options).model_fields["expert_backend"].default
    if options.expert_backend != default and layout.expert == 1:
        yield ("expert_backend",), "experts are not spread over GPUs here", f"set `layout.expert: {layout.tensor}`"


SAMPLE_VALUES = {
    "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1", "LWS_LEADER_ADDRESS": "leader.example", "SGLANG_API_KEY": "key",
    "WEIGHTS_BUCKET": "weights",
}  # fmt: skip
"""In place of what the kubelet and LeaderWorkerSet fill in."""


def filled(line: Iterable[str]) -> list[str]:
    """A line as the engine sees it, with samples for what is known only in the cluster."""
    found: list[str] = []
    for token in line:
        for name, value in SAMPLE_VALUES.items():
            token = token.replace(f"$({name})", value)  # noqa: PLW2901 - each replaces in what is left
        found.append(token)
    return found


def refused(line: Iterable[str], engine: str) -> list[Refusal]:
    """What the pinned engine would refuse in a line of the planner's."""
    return parser_data(engine).check(filled(line))
