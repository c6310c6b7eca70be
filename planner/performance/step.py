"""Milliseconds of one step of a replica, from the roofline of one pipeline stage.

A step takes some sequences one token further (decode) and may carry a chunk of new prompts (prefill). Its matrix products
take as long as reading the weights that they touch or as computing, whichever is more; the KV cache, each layer's small
kernels, the sums between ranks and the engine's own work come on top. Source of each factor: docs/explanation/performance.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from catalog.assumptions import assumed
from catalog.measurements import GpuFactors, factors, links
from catalog.types import Gpu, ModelCard
from planner.plan import LayoutPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """The network between the nodes of one replica."""

    nodes: int
    gbps: float
    """Of one node, all cards together."""


def known_factors(gpu: Gpu) -> GpuFactors:
    """Factors of a GPU."""
    found = factors()
    return found.get(gpu.name) or found["L40S"]


class StepCosts:
    """Coefficients of a replica's step times; made once, asked often."""

    def __init__(
        self,
        *,
        card: ModelCard,
        gpu: Gpu,
        layout: LayoutPlan,
        engine: Literal["vllm", "sglang"],
        precision: Literal["bf16", "fp8"],
        weights_gb: float,
        kv_bytes_per_value: float,
        between: NodeLink | None,
        nvlink: bool,
    ) -> None:
        known = known_factors(gpu)
        at = known.at(precision)
        ranks = layout.tensor * layout.pipeline
        self.stages = layout.pipeline
        self.groups = layout.data
        self.layers = card.layers / layout.pipeline
        self.hidden = card.hidden
        embedding = 0.0 if card.tied_embeddings else card.vocab * card.hidden / 1e9
        weights_gb *= 1 - embedding / card.params_billion
        routed = 0.0
        self.experts = card.moe
        if card.moe is not None:
            expert_params = 3 * card.hidden * card.moe.intermediate * card.moe.experts / 1e9
            routed = min(0.98, (card.layers - card.dense_layers) * expert_params / card.params_billion)
        per_gb = 1e3 / (gpu.hbm_gb_per_s * at.weights_share)
        self.always_ms = weights_gb * (1 - routed) * per_gb
        self.routed_ms = weights_gb * routed * per_gb
        self.miss = 1 - card.moe.top_k / card.moe.experts if card.moe else 0.0
        fp8 = precision == "fp8" and known.fp8 is not None
        peak = ((gpu.fp8_tflops if fp8 else None) or gpu.bf16_tflops) * at.matrix_share
        self.compute_ms = 2 * (card.active_params_billion - embedding) / 1e3 / ranks / peak * 1e3
        heads = card.heads / layout.tensor * layout.data
        per_value = kv_bytes_per_value / 1e9 * 1e3 / (gpu.hbm_gb_per_s * known.kv_share)
        flops_ms = 1e-12 / (gpu.bf16_tflops * known.attention_share) * 1e3
        if card.mla is not None:
            mla = card.mla
            values = mla.kv_lora_rank + mla.qk_rope_head_dim
            decode_flops = 2 * heads * (2 * mla.kv_lora_rank + mla.qk_rope_head_dim)
            prefill_flops = 2 * heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim)
        else:
            kv_heads = max(1, -(-card.kv_heads * layout.data // layout.tensor))
            values = 2 * kv_heads * card.head_dim
            decode_flops = prefill_flops = 4 * heads * card.head_dim
        sliding = card.sliding_layers / layout.pipeline if card.sliding_window else 0.0
        self.window = card.sliding_window or 0
        self.full_layers, self.sliding_layers = self.layers - sliding, sliding
        self.decode_token_ms = max(values * per_value, decode_flops * flops_ms)
        self.prefill_pair_ms = prefill_flops * flops_ms / self.groups
        self.decode_fixed_ms = self.layers * at.decode_layer_us / 1e3
        self.prefill_fixed_ms = self.layers * at.prefill_layer_us / 1e3
        self._links(known, card, layout, between)
        self.engine_ms = assumed(f"{engine}_step_ms")
        self.sequence_ms = assumed("engine_sequence_us") / 1e3
        self.mixed = engine == "vllm"
        self.chunk = int(assumed("prefill_chunk_tokens"))

    def _links(self, known: GpuFactors, card: ModelCard, layout: LayoutPlan, between: NodeLink | None) -> None:
        """Latency and milliseconds a row of all sums of one stage, and of the hand-over to the next."""
        inside = min(layout.tensor, layout.gpus_per_node)
        nodes = layout.tensor // layout.gpus_per_node
        latency = per_row = 0.0
        if inside > 1 and known.all_reduce is not None:
            latency += known.all_reduce.latency_us
            per_row += 2 * (inside - 1) / inside * card.hidden * 2 / known.all_reduce.bus_gb_per_s / 1e3
        efa = links()["efa"]
        per_us = between.gbps * efa.line_rate_share / 8 * 1e3 if between else math.inf
        if nodes > 1:
            latency += efa.latency_us
            per_row += 2 * (nodes - 1) / nodes * card.hidden * 2 / per_us
        self.sum_ms = 2 * self.layers * latency / 1e3
        self.sum_row_ms = 2 * self.layers * per_row / 1e3
        self.hand_ms = self.hand_row_ms = 0.0
        if layout.pipeline > 1:
            self.hand_ms = efa.latency_us / 1e3
            self.hand_row_ms = card.hidden * 2 / per_us / 1e3

    def matrices_ms(self, rows: float) -> float:
        """Matrix products of one stage for `rows` tokens."""
        read = self.always_ms
        if self.routed_ms:
            read += self.routed_ms * (1 - self.miss**rows)
        computed = self.compute_ms * rows
        return read if read > computed else computed

    def cache_ms(self, batch: float, context: float) -> float:
        """Attention of `batch` sequences of `context` tokens to their caches, on one stage."""
        tokens = self.full_layers * context
        if self.sliding_layers:
            tokens += self.sliding_layers * min(context, self.window)
        return batch / self.groups * tokens * self.decode_token_ms

    def attention_ms(self, tokens: float, context: float) -> float:
        """Attention of `tokens` new tokens to themselves and the `context` before them, on one stage."""
        pairs = self.full_layers * tokens * (context + tokens / 2)
        if self.sliding_layers:
            pairs += self.sliding_layers * tokens * min(context + tokens / 2, self.window)
        return pairs * self.prefill_pair_ms

    def row_ms(self, rows: float) -> float:
        """Sums and hand-over of `rows` tokens beyond their latency."""
        return rows * (self.sum_row_ms + self.hand_row_ms)

    @property
    def fixed_ms(self) -> float:
        """What every step of one stage costs, whatever it carries."""
        return self.decode_fixed_ms + self.sum_ms + self.hand_ms + self.engine_ms

    def decode_ms(self, batch: float, context: float) -> float:
        """One token for each of `batch` sequences: all stages, the batch split over them."""
        part = max(1.0, batch / self.stages)
        stage = self.matrices_ms(part) + self.cache_ms(part, context) + self.row_ms(part) + part * self.sequence_ms
        return self.stages * (stage + self.fixed_ms)

    def prefill_ms(
        self, tokens: float, context: float = 0.0, *, beside: float = 0.0, beside_context: float = 0.0
    ) -> float:
        """The first pass over `tokens` tokens after `context` cached ones, in chunks, the stages in turn.

        `beside` sequences of `beside_context` tokens decode in the same steps.
        """
        chunks = max(1, math.ceil(tokens / self.chunk))
        part = beside / self.stages
        rows = tokens / chunks
        stage = self.matrices_ms(rows + part) + self.row_ms(rows + part) + self.fixed_ms
        stage += self.prefill_fixed_ms - self.decode_fixed_ms + part * self.sequence_ms
        stage += self.cache_ms(part, beside_context) + self.attention_ms(tokens, context) / chunks
        return (chunks + self.stages - 1) * stage
