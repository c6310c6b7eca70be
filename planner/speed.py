"""First estimate of decode speed, from the memory roofline."""

from __future__ import annotations

from catalog.assumptions import assumed
from catalog.types import Gpu, ModelCard

_LIMIT = 1024


def decode_step_ms(
    card: ModelCard, gpu: Gpu, *, weights_gb: float, kv_bytes_per_token: float, batch: int, tokens: int
) -> float:
    """Milliseconds of one decode step of `batch` sequences of `tokens` tokens each.

    step >= (weights touched + batch x tokens x KV) / HBM bandwidth, all of one GPU (`weights_gb` and
    `kv_bytes_per_token` are its shares), at the assumed efficiency. A mixture of experts touches
    1 - (1 - top_k / experts)^batch of its experts. Source: roofline, docs/explanation/sizing.md.
    """
    touched = weights_gb
    if card.moe is not None:
        always = card.active_params_billion / card.params_billion * weights_gb
        hit = 1 - (1 - card.moe.top_k / card.moe.experts) ** batch
        touched = min(weights_gb, always + (weights_gb - always) * hit)
    gigabytes = touched + batch * tokens * kv_bytes_per_token / 1e9
    return gigabytes / (gpu.hbm_gb_per_s * assumed("decode_efficiency")) * 1000


def knee_concurrency(
    card: ModelCard,
    gpu: Gpu,
    *,
    weights_gb: float,
    kv_bytes_per_token: float,
    tokens: int,
    tpot_ms: float,
    memory_limit: int,
) -> int:
    """Most sequences that one replica decodes within `tpot_ms` and its KV cache holds; 0 where one is too slow."""

    def fast_enough(batch: int) -> bool:
        step = decode_step_ms(
            card,
            gpu,
            weights_gb=weights_gb,
            kv_bytes_per_token=kv_bytes_per_token,
            batch=batch,
            tokens=tokens,
        )
        return step <= tpot_ms

    low, high = 0, min(memory_limit, _LIMIT)
    while low < high:
        middle = (low + high + 1) // 2
        if fast_enough(middle):
            low = middle
        else:
            high = middle - 1
    return low
