"""What may be said to an engine beyond the layout: one typed section for each engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from settings.base import Name, Section, WrongValueError

Auto = Literal["auto"]

_CommitSha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class MtpSpeculation(Section):
    """The model's own prediction layers propose tokens (multi-token prediction of DeepSeek, GLM and others)."""

    kind: Literal["mtp"]
    tokens: int = Field(default=1, ge=1, le=8)
    """Tokens proposed in a step."""


class NgramSpeculation(Section):
    """What followed the same words earlier in the prompt is proposed: no weights, for summaries and edits."""

    kind: Literal["ngram"]
    tokens: int = Field(default=4, ge=1, le=16)
    """Tokens proposed in a step."""


class DraftSpeculation(Section):
    """A small model proposes tokens: a head trained for this one (EAGLE), or a model of the same vocabulary."""

    kind: Literal["eagle", "eagle3", "draft_model"]
    model: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub id of the small model."""
    revision: _CommitSha
    """Commit of its weights, which lie in the cache beside the model's."""
    gigabytes: float = Field(gt=0, le=200)
    """Decimal GB of its weights; every GPU of a tensor group holds its share."""
    tokens: int = Field(default=3, ge=1, le=16)
    """Tokens proposed in a step."""


Speculation = Annotated[MtpSpeculation | NgramSpeculation | DraftSpeculation, Field(discriminator="kind")]


class LoraAdapter(Section):
    """A LoRA adapter that is served under its own name."""

    name: Name
    """What clients send as `model`."""
    source: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub id of the adapter."""
    revision: _CommitSha
    """Commit of the adapter, which lies in the cache beside the model's."""
    rank: int = Field(ge=1, le=4096)
    """Its rank, `r` in its adapter_config.json."""


class Lora(Section):
    """LoRA adapters served beside the model."""

    adapters: list[LoraAdapter] = Field(min_length=1, max_length=100)
    max_rank: int | Auto = "auto"
    """Rank that memory is set aside for; the smallest that holds all adapters where `auto`."""
    concurrent: int = Field(default=1, ge=1, le=64)
    """Adapters that one batch may mix."""

    @model_validator(mode="after")
    def _fits(self) -> Lora:
        seen: set[str] = set()
        for index, adapter in enumerate(self.adapters):
            if adapter.name in seen:
                raise WrongValueError(
                    f"a second `{adapter.name}`", help="names are unique", at=("adapters", index, "name")
                )
            seen.add(adapter.name)
            if isinstance(self.max_rank, int) and adapter.rank > self.max_rank:
                raise WrongValueError(
                    f"rank {adapter.rank} is over `max_rank` {self.max_rank}",
                    help=f"set max_rank to {adapter.rank} or more, or leave it at `auto`",
                    at=("adapters", index, "rank"),
                )
        return self


class _Options(Section):
    """What both engines can be told."""

    memory_share: float | Auto = "auto"
    """Share of each GPU's memory that the engine takes; `auto` is the planner's. vLLM counts everything into it
    (`--gpu-memory-utilization`), SGLang weights and KV cache alone (`--mem-fraction-static`)."""
    max_running: int | Auto = "auto"
    """Sequences that run at once; `auto` is somewhat more than the cache holds of mean length."""
    max_queued: int | Auto = "auto"
    """Requests that may wait before the engine answers 503; `auto` is a full batch twice over."""
    prefill_chunk_tokens: int | Auto = "auto"
    """Prompt tokens computed in one step at most; `auto` is the engine's, by GPU."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their cache."""
    speculation: Speculation | None = None
    """Speculative decoding: more tokens a step where proposals are right."""
    tool_parser: str | None = "card"
    """How calls of tools are read in answers; the model card's where `card`, none where null."""
    reasoning_parser: str | None = "card"
    """How reasoning is told from answers; the model card's where `card`, none where null."""
    lora: Lora | None = None
    load: Literal["checkpoint", "sharded"] = "checkpoint"
    """`sharded`: the first start writes what each rank holds onto the cache, and later ones read that alone. It gains
    where a replica spans nodes, each of which then reads its part in place of the whole checkpoint. With vLLM for dense
    models in 16 bit alone."""
    log_requests: bool = False
    """Write prompts and parameters of requests to the log."""
    extra_args: list[str] = Field(default_factory=list[str], max_length=60)
    """Further options, each as `--name=value` or `--name`; those that the pinned version does not have are refused, and
    those that the planner sets."""

    @field_validator("memory_share")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0.3 <= value <= 0.98:
            raise WrongValueError("is a share of the GPU's memory", help="give 0.3 to 0.98, or `auto`")
        return value

    @field_validator("max_running", "max_queued", "prefill_chunk_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise WrongValueError("must be 1 or more", help="or `auto`")
        return value

    @field_validator("extra_args")
    @classmethod
    def _are_options(cls, value: list[str]) -> list[str]:
        for index, text in enumerate(value):
            if not text.startswith("--") or " " in text.partition("=")[0]:
                # The value may be a secret: only the name is told.
                raise WrongValueError(
                    f"`{text.partition('=')[0]}` is no option",
                    help="write each as `--name=value` or `--name`",
                    at=(index,),
                )
        return value


class VllmOptions(_Options):
    """Options of vLLM; on runtime ray_service they become `engine_kwargs`."""

    engine: Literal["vllm"]
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    """`priority` serves requests by the priority that they carry."""
    quantization_method: str | None = None
    """How the engine reads quantised weights (`awq_marlin`, `modelopt`, ...); told by the checkpoint where left out."""
    structured_output: Literal["auto", "xgrammar", "guidance", "outlines"] = "auto"
    """What holds answers to a grammar."""
    expert_backend: Literal[
        "allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency", "flashinfer_nvlink_two_sided"
    ] = "allgather_reducescatter"
    """How tokens reach experts on other GPUs under expert parallelism. DeepEP talks NVSHMEM, which nobody has shown
    fast on EFA: never unless asked for here."""


class SglangOptions(_Options):
    """Options of SGLang."""

    engine: Literal["sglang"]
    scheduling_policy: Literal["fcfs", "lpm", "dfs-weight", "lof", "shortest-prefill-first"] = "fcfs"
    """`lpm` serves first what the cache holds most of. Priorities that requests carry are for `extra_args`
    (`--enable-priority-scheduling`): the parser takes a policy of that name, and the scheduler ends with it."""
    quantization_method: str | None = None
    """How the engine reads quantised weights (`awq_marlin`, `modelopt`, ...); told by the checkpoint where left out."""
    structured_output: Literal["auto", "xgrammar", "outlines", "llguidance", "none"] = "auto"
    """What holds answers to a grammar."""
    expert_backend: Literal["none", "deepep", "flashinfer"] = "none"
    """How tokens reach experts on other GPUs under expert parallelism; `none` is all-gather and reduce-scatter. DeepEP
    talks NVSHMEM, which nobody has shown fast on EFA: never unless asked for here."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


EngineOptions = Annotated[VllmOptions | SglangOptions, Field(discriminator="engine")]
