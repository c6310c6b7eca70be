"""Replicas and lengths for tests."""

from __future__ import annotations

from dataclasses import replace

from catalog import load
from catalog.types import Gpu, ModelCard
from planner.layout import Node, fit
from planner.memory import Serving, served_weights_gb
from planner.performance import Replica, TokenLengths, matrix_precision, replica_of
from settings.serving import Layout

CATALOG = load()
LLAMA_8B = CATALOG.models["meta-llama/Llama-3.1-8B-Instruct"]
LLAMA_70B = CATALOG.models["meta-llama/Llama-3.1-70B-Instruct"]
R1 = CATALOG.models["deepseek-ai/DeepSeek-R1"]
MIXTRAL = CATALOG.models["mistralai/Mixtral-8x7B-Instruct-v0.1"]
CHAT = (TokenLengths(mean=1000, p99=4000), TokenLengths(mean=250, p99=1000))
EVEN = (TokenLengths(mean=300, p99=300), TokenLengths(mean=300, p99=300))


def replica(
    card: ModelCard,
    gpu: str | Gpu = "H100",
    layout: Layout | None = None,
    *,
    quantization: str = "checkpoint",
    engine: str = "vllm",
    context: int = 8192,
    network_gbps: float = 3200,
    **changes: object,
) -> Replica:
    """A replica as the planner makes it, on nodes of eight GPUs."""
    found = CATALOG.gpus[gpu] if isinstance(gpu, str) else gpu
    node = Node(gpu=found, gpus=8, nvlink=found.nvlink_gb_per_s > 0, gdr=True, name=found.name)
    serving = Serving(
        engine=engine,
        weights_gb=served_weights_gb(card, quantization),
        kv_bytes_per_value=2,
        context_tokens=context,
    )
    made = replica_of(
        card,
        node,
        fit(card, node, serving, layout or Layout()),
        engine=engine,
        precision=matrix_precision(card, quantization),
        network_gbps=network_gbps,
    )
    return replace(made, **changes)
