"""Options that parse one by one and that the pinned engine refuses, or ignores, together.

Found by configuring the pinned engines for real on a CPU (`python -m catalog.tools.engine_start`): vLLM 0.33's
`create_engine_config` and SGLang 0.5.23's `ServerArgs.resolve_once`.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.engines.extra import Told
from planner.plan import LayoutPlan
from settings.engines import SglangOptions, VllmOptions
from settings.serving import Model

_RUNNERS = "--moe-runner-backend"


def combination_problems(model: Model, options: VllmOptions | SglangOptions) -> Iterator[Told]:
    """What does not go together in any layout: (path below `engine_options`, message, help)."""
    for index, adapter in enumerate(options.lora.adapters if options.lora else ()):
        if adapter.name == model.name:
            yield (
                ("lora", "adapters", index, "name"),
                f"`{adapter.name}` is the model's own name: clients could not ask for one of the two",
                "give the adapter another name",
            )
    if isinstance(options, VllmOptions):
        return
    if options.speculation is not None and options.speculation.kind == "draft_model" and options.lora is not None:
        yield (
            ("speculation", "kind"),
            "SGLang serves no adapters with a draft model",
            "use ngram, eagle or mtp, or leave out `lora`",
        )
    if options.scheduling_policy == "shortest-prefill-first" and not options.prefix_caching:
        yield (
            ("scheduling_policy",),
            "SGLang knows which prefill is shortest by what its cache holds, and `prefix_caching` is off",
            "leave one of the two out",
        )


def layout_problems(
    options: VllmOptions | SglangOptions, layout: LayoutPlan, *, running: int, step_tokens: int
) -> Iterator[Told]:
    """What does not go with the layout: (path below `engine_options`, message, help).

    Args:
        options: of the model's engine.
        layout: of one replica.
        running: sequences at once over the whole replica.
        step_tokens: tokens of one step at most.
    """
    if isinstance(options, VllmOptions):
        yield from _vllm(options, layout, running, step_tokens)
    else:
        yield from _sglang(options, layout)


def _vllm(options: VllmOptions, layout: LayoutPlan, running: int, step_tokens: int) -> Iterator[Told]:
    each = max(1, running // layout.data)
    if each > step_tokens:
        # SchedulerConfig: max_num_batched_tokens must be greater than or equal to max_num_seqs.
        given = options.prefill_chunk_tokens != "auto"
        most = step_tokens * layout.data
        more, fewer = f"`prefill_chunk_tokens` to {each} or more", f"`max_running` to {most} or less"
        yield (
            ("prefill_chunk_tokens" if given else "max_running",),
            f"a step of {step_tokens} tokens cannot serve {each} sequences, one token each at least",
            f"set {more}, or {fewer}" if given else f"set {fewer}, or {more}",
        )
    if options.expert_backend != "allgather_reducescatter" and layout.expert > 1 and layout.data == 1:
        # FusedMoEParallelConfig.use_all2all_kernels: only with data parallel groups; else it is ignored in silence.
        yield (
            ("expert_backend",),
            "without attention groups vLLM sums experts' outputs and takes no such backend",
            f"set `layout.data: {layout.tensor}`, or leave it out",
        )


def _sglang(options: SglangOptions, layout: LayoutPlan) -> Iterator[Told]:
    speculation = options.speculation
    at = ("speculation", "kind")
    if speculation is not None and layout.pipeline > 1:
        # handle_pipeline_parallelism: "PP + speculative decoding is only supported on prefill nodes".
        yield at, "SGLang does not speculate over pipeline stages", "leave it out, or use `layout.pipeline: 1`"
    if speculation is not None and speculation.kind in {"ngram", "draft_model"} and layout.data > 1:
        yield (
            at,
            f"SGLang's {speculation.kind} speculation does not go with attention groups",
            "use mtp or eagle, or `layout.data: 1`",
        )
    if options.expert_backend == "flashinfer" and layout.expert > 1:
        if layout.data != layout.tensor:
            yield (
                ("expert_backend",),
                "SGLang's flashinfer backend wants each GPU to be an attention group of its own",
                f"set `layout.data: {layout.tensor}`, or leave it out",
            )
        elif not any(text.startswith(_RUNNERS) for text in options.extra_args):
            yield (
                ("expert_backend",),
                "SGLang's flashinfer backend wants a kernel of its own for experts",
                f"add `{_RUNNERS}=deep_gemm` to `extra_args`, or leave it out",
            )
