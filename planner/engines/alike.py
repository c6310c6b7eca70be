"""What vLLM and SGLang are told in the same words, or in words that differ by a name."""

from __future__ import annotations

from collections.abc import Iterator

from planner.engines.arguments import Argument, option, switch
from planner.engines.request import EngineRequest


def weight_format(request: EngineRequest) -> Iterator[Argument]:
    """How weights are read, where the checkpoint does not say it all."""
    if request.quantization != "checkpoint" and request.card.checkpoint.format == "bf16":
        yield option("--quantization", "fp8", "models[].quantization: bf16 files become FP8 while loading")
    elif request.options.quantization_method is not None:
        yield option("--quantization", request.options.quantization_method, "engine_options.quantization_method")


def adapters(request: EngineRequest, *, at_once: str, named: str) -> Iterator[Argument]:
    """LoRA adapters; `at_once` and `named` are what the engine calls the options for their number and their files."""
    lora = request.options.lora
    if lora is None:
        return
    yield switch("--enable-lora", f"engine_options.lora: {len(lora.adapters)} adapter(s)")
    yield option("--max-lora-rank", request.lora_rank, "memory is set aside for adapters of this rank")
    yield option(at_once, lora.concurrent, "engine_options.lora.concurrent")
    files = (f"{adapter.name}={request.directory_of(adapter.source, adapter.revision)}" for adapter in lora.adapters)
    yield Argument(tokens=(named, *files), why="each adapter answers to its own name")


def own_rank(request: EngineRequest) -> Iterator[Argument]:
    """Which pod of a group over several nodes this is."""
    yield option("--nnodes", "$(LWS_GROUP_SIZE)", f"{request.layout.nodes} pods make one replica")
    yield option("--node-rank", "$(LWS_WORKER_INDEX)", "set by LeaderWorkerSet")


def further(request: EngineRequest) -> Iterator[Argument]:
    """What the stack file adds, last: engines take the last of two."""
    for text in request.options.extra_args:
        yield Argument(tokens=(text,), why="engine_options.extra_args")
