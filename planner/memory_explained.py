"""Each number of a memory budget with its formula, inputs and sources: what `plan --explain` prints of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from catalog.shapes import Weights, weights
from catalog.types import Gpu, ModelCard
from planner.inputs import assumption, from_catalog, planned
from planner.memory import Serving, Shards, sequence_bytes, sequences_at, served_format
from planner.overhead import activations_gib, context_assumption, sampling_gib, step_of
from planner.plan import Explained, Input, MemoryBudget, MemoryPart

_LENGTHS = (2048, 8192, 32768, 131072)
_SHARD_RULES = "docs/explanation/sizing.md: sharding rules of vLLM and SGLang"
_FORMULAS = {
    "attention": "params x bytes x stage share x (queries and output / ranks + KV heads of this GPU / KV heads)",
    "latent projections": "params x bytes x stage share, whole on every rank",
    "experts": "params x bytes x stage share / tensor, whole experts under expert parallelism",
    "router": "params x bytes x stage share, whole on every rank",
    "embedding": "vocab x hidden x bytes / tensor, on the first stage",
    "head": "vocab x hidden x bytes / tensor, on the last stage",
    "prediction layers": "params x bytes / tensor, on the last stage",
    "vision": "params x bytes / tensor, on the first stage",
}
_MATRIX = "params x bytes x stage share / tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryQuestion:
    """What a budget was made from."""

    card: ModelCard
    gpu: Gpu
    serving: Serving
    shards: Shards
    context_source: str
    """Where `context_tokens` was said."""


def memory_numbers(asked: MemoryQuestion, memory: MemoryBudget) -> tuple[Explained, ...]:
    """Weights by part, overhead by part, and what is left for how many sequences."""
    return (
        *_weights(asked, memory),
        *(_overhead(asked, part) for part in memory.parts if part.kind == "overhead"),
        *_cache(asked, memory),
        *_by_length(asked, memory),
    )


def _number(name: str, value: float, unit: str, formula: str, *inputs: Input) -> Explained:
    return Explained(section="memory", name=name, value=value, unit=unit, formula=formula, inputs=inputs)


def _weights(asked: MemoryQuestion, memory: MemoryBudget) -> tuple[Explained, ...]:
    card, shards = asked.card, asked.shards
    shapes = {w.part: w for w in weights(card, served_format(card, asked.serving))}
    layout = (
        planned("tensor", shards.tensor, "", "layout"),
        planned("ranks", shards.attention_ranks, "that share the heads of a sequence", "layout"),
        Input(name="stage share", value=round(shards.stage_share(card), 4), unit="of the layers", source=_SHARD_RULES),
    )
    found = [_part(card, part, shapes, layout) for part in memory.parts if part.kind == "weights"]
    total = _number(
        "weights on one GPU",
        memory.weights_gib,
        "GiB",
        "sum of the parts above, scaled to the size of the files",
        from_catalog(card, "files served", asked.serving.weights_gb, "GB, prediction layers left out unless used"),
    )
    return (*found, total)


def _part(card: ModelCard, part: MemoryPart, shapes: dict[str, Weights], layout: tuple[Input, ...]) -> Explained:
    if part.name == "absorbed projections":
        return _number(
            f"weights: {part.name}",
            part.gib,
            "GiB",
            "bf16 copies of the up projections from the latent, which decode folds into queries and outputs / ranks",
            from_catalog(card, "kv_lora_rank", card.mla.kv_lora_rank if card.mla else 0, "values"),
            *layout[1:],
        )
    shape = next(w for name, w in shapes.items() if name == part.name)
    return _number(
        f"weights: {part.name}",
        part.gib,
        "GiB",
        _FORMULAS.get(part.name, _MATRIX),
        from_catalog(card, "params", round(shape.params / 1e9, 4), "billion, from the shapes of the config"),
        Input(
            name="bytes",
            value=round(shape.bytes_per_param, 4),
            unit="a parameter",
            source="catalog/shapes.py: what the number format converts and what it leaves in bf16",
        ),
        *_needed(part.name, layout),
    )


def _needed(part: str, layout: tuple[Input, ...]) -> tuple[Input, ...]:
    """What of (tensor, ranks, stage share) a part's formula names."""
    tensor, ranks, stage = layout
    if part == "attention":
        return ranks, stage
    if part in ("embedding", "head", "prediction layers", "vision"):
        return (tensor,)
    return (stage,) if part in ("router", "latent projections") else (tensor, stage)


def _overhead(asked: MemoryQuestion, part: MemoryPart) -> Explained:
    explain = _OVERHEAD.get(part.name)
    formula, inputs = explain(asked) if explain else ("a constant", ())
    return _number(f"overhead: {part.name}", part.gib, "GiB", formula, *inputs)


def _driver(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    gpu = from_catalog(asked.gpu, "gpu", asked.gpu.memory_gib, "GiB")
    return "gpu x driver_reserved_share", (gpu, assumption("driver_reserved_share"))


def _context(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    return "by the GPU's generation", (assumption(context_assumption(asked.gpu), "context"),)


def _workspace(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    return "by the engine", (assumption(f"{asked.serving.engine}_workspace_gib", "workspace"),)


def _activations(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    card, shards = asked.card, asked.shards
    given = asked.serving.step_tokens
    tokens = step_of(asked.serving.engine, asked.gpu, given, shards.data)
    layer = activations_gib(card, tokens, tensor=shards.tensor, data=shards.data)
    if layer < sampling_gib(card, asked.serving.running):
        running = Input(
            name="running",
            value=asked.serving.running,
            unit="sequences",
            source="planner: most sequences in one step (--max-num-seqs)",
        )
        return "running x vocab x sampling_bytes_per_logit: the sampler's peak, more than a layer's", (
            running,
            from_catalog(card, "vocab", card.vocab, "tokens"),
            assumption("sampling_bytes_per_logit"),
        )
    return (
        "tokens x 2 bytes x (3 hidden + queries, keys and values / ranks + the wider feed-forward): a layer's peak",
        (
            Input(
                name="tokens",
                value=tokens,
                unit="a step",
                source="engine_options.prefill_chunk_tokens in the stack file"
                if given
                else "assumptions.yaml: *_chunk_tokens_*, by engine and GPU",
            ),
            from_catalog(card, "hidden", card.hidden, "values"),
            planned("ranks", shards.attention_ranks, "", "layout"),
        ),
    )


def _graphs(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    return "graphs_gib_base + graphs_gib_per_layer x layers / pipeline", (
        assumption("graphs_gib_base"),
        assumption("graphs_gib_per_layer"),
        from_catalog(asked.card, "layers", asked.card.layers, ""),
        planned("pipeline", asked.shards.pipeline, "", "layout"),
    )


def _nccl(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    inputs = (assumption("nccl_gib_node"),)
    if asked.shards.nodes == 1:
        return "nccl_gib_node", inputs
    return "nccl_gib_node + nccl_gib_efa", (*inputs, assumption("nccl_gib_efa"))


def _expert_workspaces(_: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    inputs = (assumption("large_moe_workspace_gib"), assumption("large_moe_params_billion"))
    return "large_moe_workspace_gib for mixtures from large_moe_params_billion on", inputs


def _outside(asked: MemoryQuestion) -> tuple[str, tuple[Input, ...]]:
    gpu = from_catalog(asked.gpu, "gpu", asked.gpu.memory_gib, "GiB")
    share = _share(asked.serving)
    return "-min(sum of overhead, gpu x (1 - utilization)): SGLang's share holds weights and cache only", (gpu, share)


_OVERHEAD: dict[str, Callable[[MemoryQuestion], tuple[str, tuple[Input, ...]]]] = {
    "driver": _driver,
    "CUDA context": _context,
    "engine workspaces": _workspace,
    "activations": _activations,
    "CUDA graphs": _graphs,
    "NCCL": _nccl,
    "expert workspaces": _expert_workspaces,
    "outside the static share": _outside,
}


def _share(serving: Serving) -> Input:
    """Part of the GPU that the engine may take: the stack file's, else the assumed one."""
    if serving.utilization is not None:
        where = "models[].engine_options.memory_share"
        return Input(name="utilization", value=serving.utilization, unit="of the GPU", source=where)
    name = "vllm_gpu_memory_utilization" if serving.engine == "vllm" else "sglang_mem_fraction_static"
    return assumption(name, "utilization")


def _cache(asked: MemoryQuestion, memory: MemoryBudget) -> tuple[Explained, ...]:
    card, serving, shards = asked.card, asked.serving, asked.shards
    left = _number(
        "KV cache on one GPU",
        memory.kv_gib,
        "GiB",
        "gpu x utilization - overhead - weights",
        from_catalog(asked.gpu, "gpu", memory.gpu_gib, "GiB"),
        _share(serving),
        planned("overhead", round(memory.overhead_gib, 3), "GiB", "memory"),
        planned("weights", round(memory.weights_gib, 3), "GiB", "memory"),
    )
    context = Input(name="context_tokens", value=serving.context_tokens, unit="tokens", source=asked.context_source)
    per_token = _number(
        "KV cache of one token on one GPU",
        memory.kv_bytes_per_token,
        "bytes, the mean of a full-length sequence",
        _cache_formula(card),
        from_catalog(
            card,
            "layers",
            card.layers,
            f"in all, {card.sliding_layers} with a window, {card.linear_layers} without cache",
        ),
        from_catalog(card, "values", card.cached_values_per_layer, "a token and layer before sharding"),
        Input(
            name="bytes",
            value=serving.kv_bytes_per_value,
            unit="a value",
            source="kv_cache in the stack file: 2 for bf16, 1 for FP8",
        ),
        planned("ranks", shards.attention_ranks, "", "layout"),
        Input(name="stage share", value=round(shards.stage_share(card), 4), unit="of the layers", source=_SHARD_RULES),
        context,
    )
    tokens = _number(
        "tokens that the replica's cache holds",
        memory.kv_tokens,
        "tokens",
        "kv_gib x 2^30 / kv_bytes x data",
        planned("kv_gib", round(memory.kv_gib, 3), "GiB", "memory"),
        planned("kv_bytes", round(memory.kv_bytes_per_token, 1), "bytes", "memory"),
        planned("data", shards.data, "attention groups", "layout"),
    )
    sequences = _number(
        "full-length sequences at once",
        memory.max_sequences,
        "sequences",
        "kv_gib x 2^30 / (kv_bytes x context_tokens), rounded down, x data",
        planned("kv_gib", round(memory.kv_gib, 3), "GiB", "memory"),
        planned("kv_bytes", round(memory.kv_bytes_per_token, 1), "bytes", "memory"),
        planned("data", shards.data, "attention groups", "layout"),
        context,
    )
    return left, per_token, tokens, sequences


def _by_length(asked: MemoryQuestion, memory: MemoryBudget) -> tuple[Explained, ...]:
    """How many sequences fit by their length."""
    card, serving = asked.card, asked.serving
    lengths = [tokens for tokens in _LENGTHS if tokens <= card.max_context and tokens != serving.context_tokens]
    return tuple(
        _number(
            f"sequences of {tokens} tokens at once",
            count,
            "sequences",
            "kv_gib x 2^30 / bytes of one such sequence, rounded down, x data",
            planned("kv_gib", round(memory.kv_gib, 3), "GiB", "memory"),
            Input(
                name="bytes",
                value=round(
                    sequence_bytes(card, asked.shards, tokens=tokens, bytes_per_value=serving.kv_bytes_per_value)
                ),
                unit="of one GPU",
                source="the formula of one token, at this length",
            ),
            planned("data", asked.shards.data, "attention groups", "layout"),
        )
        for tokens, count in sequences_at(card, memory, serving, asked.shards, lengths).items()
    )


def _cache_formula(card: ModelCard) -> str:
    cut = "values" if card.mla is not None else "values x KV heads of this GPU / KV heads"
    formula = f"stage share x layers x {cut} x bytes"
    if card.sliding_layers:
        formula += ", layers with a window counting window / context_tokens"
    if card.linear is not None:
        formula += ", and the fixed state of the linear layers / context_tokens"
    return formula
