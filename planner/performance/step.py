"""Milliseconds of one step of a replica, from the roofline of one pipeline stage.

A step takes some sequences one token further (decode) and may carry a chunk of new prompts (prefill). Its matrix
products take as long as reading the weights that they touch or as computing, whichever is more; the KV cache, each
layer's small kernels, the sums between ranks and the engine's own work come on top. Source of each factor:
docs/explanation/performance.md.
"""

from __future__ import annotations

import math
from typing import Literal

from catalog.assumptions import assumed
from catalog.measurements import GpuFactors, factors
from catalog.shapes import active_params, expert_params
from catalog.types import Gpu, ModelCard
from planner.performance.links import Links, NodeLink, links_of
from planner.plan import LayoutPlan, MemoryBudget

_LEAST_TILE = 16
"""Rows of the smallest product of a tensor core; tiles grow with the rows that an expert gets."""
_WEIGHT_ONLY_BYTES = 1.5
"""Fewer bytes a parameter than this under bf16 products: the weights are widened on the way."""


def known_factors(gpu: Gpu) -> GpuFactors:
    """Factors of a GPU of the catalog."""
    return factors()[gpu.name]


def chunk_tokens(engine: Literal["vllm", "sglang"], gpu: Gpu) -> int:
    """Tokens that one step of the engine takes at most, by its defaults for the GPU."""
    if engine == "vllm":
        small = gpu.memory_gib < 70 or gpu.name.startswith("A100")
        size = "small" if small else "70gib" if gpu.memory_gib < 160 else "160gib"
    else:
        size = "small" if gpu.memory_gib < 20 else "20gib" if gpu.memory_gib < 60 else "60gib"
    return int(assumed(f"{engine}_chunk_tokens_{size}"))


class StepCosts:
    """Coefficients of a replica's step times; made once, asked often. All are of one GPU of one pipeline stage."""

    def __init__(
        self,
        *,
        card: ModelCard,
        gpu: Gpu,
        layout: LayoutPlan,
        engine: Literal["vllm", "sglang"],
        precision: Literal["bf16", "fp8"],
        memory: MemoryBudget,
        kv_bytes_per_value: float,
        between: NodeLink | None,
        nvlink: bool,
        chunk: int,
    ) -> None:
        known = known_factors(gpu)
        at = known.at(precision)
        self.stages = layout.pipeline
        self.groups = layout.data
        self.layers = card.layers / layout.pipeline
        self._matrices(card, gpu, known, layout, precision, memory)
        self._attention(card, gpu, known, layout, kv_bytes_per_value)
        links: Links = links_of(card, known, layout, between, nvlink)
        self.sum_ms, self.sum_row_ms = links.ms, links.row_ms
        extra_us = 0.0
        if card.moe is not None:
            extra_us += assumed("moe_layer_us") * (1 - card.dense_layers / card.layers)
        if card.mla is not None:
            extra_us += assumed("mla_layer_us")
        self.decode_layers_ms = self.layers * (at.decode_layer_us + extra_us) / 1e3
        self.prefill_layers_ms = self.layers * (at.prefill_layer_us + extra_us) / 1e3
        self.engine_ms = assumed(f"{engine}_step_ms")
        self.sequence_ms = assumed("engine_sequence_us") / 1e3
        self.mixed = engine == "vllm"
        """Whether prompts and answers share a step; SGLang gives prompts steps of their own."""
        self.chunk = chunk

    def _matrices(
        self,
        card: ModelCard,
        gpu: Gpu,
        known: GpuFactors,
        layout: LayoutPlan,
        precision: Literal["bf16", "fp8"],
        memory: MemoryBudget,
    ) -> None:
        """Reading what the memory model has on the GPU, and computing what a token is multiplied with."""
        at = known.at(precision)
        ranks = layout.tensor * layout.pipeline
        held = {part.name: part.gib * 2**30 / 1e9 for part in memory.parts if part.kind == "weights"}
        routed_gb = held.get("experts", 0.0)
        idle = {"experts", "vision", "prediction layers"} | (set[str]() if card.tied_embeddings else {"embedding"})
        read_gb = sum(gigabytes for name, gigabytes in held.items() if name not in idle)
        read_ms = 1e3 / (gpu.hbm_gb_per_s * at.weights_share)
        fp8 = precision == "fp8" and known.fp8 is not None
        peak = ((gpu.fp8_tflops if fp8 else None) or gpu.bf16_tflops) * at.matrix_share
        if not fp8 and memory.weights_gib * 2**30 / 1e9 * ranks / card.params_billion < _WEIGHT_ONLY_BYTES:
            peak *= assumed("weight_only_matrix_share")
        flop_ms = 2e-9 / ranks / peak  # of one parameter and one row
        head = card.vocab * card.hidden
        active = active_params(card) - head
        self.miss = self.routed_ms = self.routed_row_ms = self.tile_row_ms = 0.0
        self.half_rows = self.rows_each = 0.0
        if card.moe is not None:
            routed = card.moe_layers * card.moe.top_k * expert_params(card)
            active -= routed
            uneven = assumed("expert_imbalance") if layout.expert > 1 else 1.0
            self.routed_ms = routed_gb * read_ms / assumed("moe_weights_share")
            row_ms = routed * flop_ms / assumed("moe_matrix_share")
            self.routed_row_ms = row_ms * uneven
            self.tile_row_ms = row_ms * card.moe.experts / card.moe.top_k
            self.half_rows = assumed("moe_half_rows")
            self.rows_each = card.moe.top_k / card.moe.experts
            self.miss = 1 - card.moe.top_k / card.moe.experts
        self.always_ms = read_gb * read_ms
        self.dense_row_ms = active * flop_ms
        self.head_row_ms = head * flop_ms

    def _attention(
        self, card: ModelCard, gpu: Gpu, known: GpuFactors, layout: LayoutPlan, kv_bytes_per_value: float
    ) -> None:
        """Milliseconds of one cached token and layer in decode, of one pair of tokens and layer in prefill.

        Latent attention decodes absorbed: every head reads the same latent, so many heads a GPU compute rather than
        read; it prefills with the heads unfolded.
        """
        ranks = layout.tensor // layout.data
        heads = card.heads / ranks
        if card.mla is not None:
            mla = card.mla
            values = mla.kv_lora_rank + mla.qk_rope_head_dim
            decode_flop = 2 * heads * (2 * mla.kv_lora_rank + mla.qk_rope_head_dim)
            prefill_flop = 2 * heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim)
        else:
            values = 2 * max(1, -(-card.kv_heads // ranks)) * card.head_dim
            decode_flop = prefill_flop = 4 * heads * card.head_dim
        flop_ms = 1e-9 / (gpu.bf16_tflops * known.attention_share)
        read_ms = 1e-6 / (gpu.hbm_gb_per_s * known.kv_share)
        self.decode_token_ms = max(values * kv_bytes_per_value * read_ms, decode_flop * flop_ms) / self.groups
        self.prefill_pair_ms = prefill_flop * flop_ms / self.groups
        self.window = card.sliding_window or 0
        self.sliding_layers = card.sliding_layers / layout.pipeline if self.window else 0.0
        linear_layers = card.linear_layers / layout.pipeline
        self.full_layers = self.layers - self.sliding_layers - linear_layers
        # Layers of linear attention read and write a state of fixed size.
        state = 2 * card.state_bytes_per_sequence() / layout.pipeline / ranks
        self.state_ms = state * read_ms / self.groups

    def matrices_ms(self, rows: float, sampled: float) -> float:
        """Matrix products of one stage for `rows` tokens, `sampled` of which go through the output head.

        A mixture of experts touches 1 - (1 - top_k / experts)^rows of its experts; each fills its last tiles in part.
        """
        computed = self.dense_row_ms * rows + self.head_row_ms * sampled
        total = self.always_ms if self.always_ms > computed else computed
        if self.routed_ms:
            touched = 1 - self.miss**rows
            read = self.routed_ms * touched
            padding = min(self.half_rows * touched, _LEAST_TILE * touched + self.rows_each * rows)
            computed = self.routed_row_ms * rows + self.tile_row_ms * padding
            total += read if read > computed else computed
        return total

    def cache_ms(self, batch: float, context: float) -> float:
        """Attention of `batch` sequences of `context` tokens to their caches, on one stage."""
        tokens = self.full_layers * context
        if self.sliding_layers:
            tokens += self.sliding_layers * min(context, self.window)
        return batch * (tokens * self.decode_token_ms + self.state_ms)

    def attention_ms(self, tokens: float, context: float) -> float:
        """Attention of `tokens` new tokens to themselves and the `context` before them, on one stage."""
        reach = context + tokens / 2
        pairs = self.full_layers * reach
        if self.sliding_layers:
            pairs += self.sliding_layers * min(reach, self.window)
        return tokens * pairs * self.prefill_pair_ms

    @property
    def step_ms(self) -> float:
        """What every step of one stage costs, whatever it carries."""
        return self.decode_layers_ms + self.sum_ms + self.engine_ms

    def decode_ms(self, batch: float, context: float) -> float:
        """One token for each of `batch` sequences: all stages in turn, the batch split over them."""
        part = max(1.0, batch / self.stages)
        stage = self.matrices_ms(part, part) + self.cache_ms(part, context)
        stage += part * (self.sum_row_ms + self.sequence_ms) + self.step_ms
        return self.stages * stage

    def decode_parts(self, batch: float, context: float) -> dict[str, float]:
        """What a decode step of all stages is made of, in ms: the sum is `decode_ms`."""
        part = max(1.0, batch / self.stages)
        dense = max(self.always_ms, (self.dense_row_ms + self.head_row_ms) * part)
        parts = {
            "matrices": dense,
            "experts": self.matrices_ms(part, part) - dense,
            "cache": self.cache_ms(part, context),
            "layers": self.decode_layers_ms,
            "messages": self.sum_ms + part * self.sum_row_ms,
            "engine": self.engine_ms + part * self.sequence_ms,
        }
        return {name: self.stages * ms for name, ms in parts.items() if ms}

    def prefill_ms(
        self, tokens: float, context: float = 0.0, *, beside: float = 0.0, beside_context: float = 0.0
    ) -> float:
        """The first pass over `tokens` tokens after `context` cached ones, in chunks, the stages in turn.

        Stages work on different chunks at once: the chunks one after another, and the largest again for each further
        stage. `beside` sequences of `beside_context` tokens decode in the same steps, where the engine mixes them.
        """
        chunks = max(1, math.ceil(tokens / self.chunk))
        part = beside / self.stages if self.mixed else 0.0
        first = chunks * self._chunk_ms(tokens / chunks, part) + self.attention_ms(tokens, context)
        first += chunks * self.cache_ms(part, beside_context)
        if self.stages == 1:
            return first
        largest = min(tokens, self.chunk)
        further = self._chunk_ms(largest, part) + self.attention_ms(largest, context + tokens - largest)
        return first + (self.stages - 1) * (further + self.cache_ms(part, beside_context))

    def _chunk_ms(self, rows: float, part: float) -> float:
        """A chunk on one stage, beside `part` sequences that decode, without attention."""
        stage = self.matrices_ms(rows + part, part + 1) + (rows + part) * self.sum_row_ms + part * self.sequence_ms
        return stage + self.prefill_layers_ms + self.sum_ms + self.engine_ms

    def prefill_parts(self, tokens: float, context: float = 0.0) -> dict[str, float]:
        """What the prefill of a prompt alone is made of, in ms: the sum is `prefill_ms`."""
        chunks, largest = max(1, math.ceil(tokens / self.chunk)), min(tokens, self.chunk)
        parts = dict.fromkeys(("matrices", "experts", "attention", "layers", "messages", "engine"), 0.0)
        for rows, times in ((tokens / chunks, chunks), (largest, self.stages - 1)):
            dense = max(self.always_ms, self.dense_row_ms * rows + self.head_row_ms)
            parts["matrices"] += times * dense
            parts["experts"] += times * (self.matrices_ms(rows, 1) - dense)
            parts["layers"] += times * self.prefill_layers_ms
            parts["messages"] += times * (self.sum_ms + rows * self.sum_row_ms)
            parts["engine"] += times * self.engine_ms
        parts["attention"] = self.attention_ms(tokens, context)
        parts["attention"] += (self.stages - 1) * self.attention_ms(largest, context + tokens - largest)
        return {name: ms for name, ms in parts.items() if ms}
