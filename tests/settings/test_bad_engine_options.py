"""What cannot be said to an engine: refused while planning, with the line, the reason and the nearest thing that works."""

from __future__ import annotations

from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from tests.stacks import changed

SHA = "a" * 40
FP8_70B = {"models.1.model": "nvidia/Llama-3.3-70B-Instruct-FP8", "models.1.pool": "h100", "models.1.revision": SHA}
EAGLE = {"kind": "eagle3", "model": "acme/eagle3", "revision": SHA, "gigabytes": 2}


def vllm(**options: Any) -> dict[str, Any]:
    return {"engine": "vllm", **options}


def sglang(**options: Any) -> dict[str, Any]:
    return {"engine": "sglang", **options}


def adapters(*ranks: int, **lora: Any) -> dict[str, Any]:
    named = [{"name": f"a{i}", "source": "acme/a", "revision": SHA, "rank": rank} for i, rank in enumerate(ranks)]
    return {"adapters": named, **lora}


# (name, stack, changes, expected path below the model's engine_options, words in message or help); model 0 of prod is
# SGLang's, 1 and 2 are vLLM's; model 0 of staging is vLLM on Ray.
BAD: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("a removed flag", "prod", {"models.1.engine_options": vllm(extra_args=["--swap-space=8"])}, "models[1].engine_options.extra_args[0]", "kv_offload"),
    ("a flag of another version", "prod", {"models.0.engine_options": sglang(extra_args=["--enable-ep-moe"])}, "models[0].engine_options.extra_args[0]", "layout.expert"),
    ("a flag of a later vLLM on Ray", "staging", {"models.0.engine_options": vllm(extra_args=["--disable-chunked-prefill"])}, "models[0].engine_options.extra_args[0]", "vllm 0.29.0 has no"),
    ("a misspelt flag", "prod", {"models.1.engine_options": vllm(extra_args=["--stream-intervall=4"])}, "models[1].engine_options.extra_args[0]", "did you mean `--stream-interval`"),
    ("a flag of the other engine", "prod", {"models.1.engine_options": vllm(extra_args=["--enable-cache-report"])}, "models[1].engine_options.extra_args[0]", "vllm 0.33.0 has no"),
    ("a flag that the planner sets", "prod", {"models.1.engine_options": vllm(extra_args=["--max-num-seqs=4"])}, "models[1].engine_options.extra_args[0]", "engine_options.max_running"),
    ("the same by its short name", "prod", {"models.1.engine_options": vllm(extra_args=["--tensor_parallel_size=4"])}, "models[1].engine_options.extra_args[0]", "layout.tensor"),
    ("a key in the clear", "prod", {"models.1.engine_options": vllm(extra_args=["--api-key=x"])}, "models[1].engine_options.extra_args[0]", "api_key"),
    ("a value of the wrong kind", "prod", {"models.1.engine_options": vllm(extra_args=["--stream-interval=often"])}, "models[1].engine_options.extra_args[0]", "whole number"),
    ("a value for a switch", "prod", {"models.1.engine_options": vllm(extra_args=["--enforce-eager=yes"])}, "models[1].engine_options.extra_args[0]", "takes no value"),
    ("a flag twice", "prod", {"models.1.engine_options": vllm(extra_args=["--stream-interval=4", "--stream-interval=8"])}, "models[1].engine_options.extra_args[1]", "twice"),
    ("a word that is no flag", "prod", {"models.1.engine_options": vllm(extra_args=["stream-interval=4"])}, "models[1].engine_options.extra_args[0]", "--name=value"),
    ("options of the other engine", "prod", {"models.1.engine_options": sglang()}, "models[1].engine_options.engine", "model's engine is vllm"),
    ("options of no engine", "prod", {"models.1.engine_options": {"engine": "tgi"}}, "models[1].engine_options", "sglang, vllm"),
    ("AWQ for an FP8 checkpoint", "prod", {**FP8_70B, "models.1.engine_options": vllm(quantization_method="awq_marlin")}, "models[1].engine_options.quantization_method", "published as fp8"),
    ("AWQ for FP8 blocks", "prod", {"models.0.engine_options": sglang(quantization_method="awq")}, "models[0].engine_options.quantization_method", "published as fp8_block128"),
    ("a method for plain bf16", "prod", {"models.1.engine_options": vllm(quantization_method="gptq")}, "models[1].engine_options.quantization_method", "quantization: fp8"),
    ("a rank over vLLM's", "prod", {"models.1.engine_options": vllm(lora=adapters(16, 600))}, "models[1].engine_options.lora.adapters[1].rank", "512, the most"),
    ("a rank over the section's", "prod", {"models.1.engine_options": vllm(lora=adapters(16, 64, max_rank=32))}, "models[1].engine_options.lora.adapters[1].rank", "set max_rank to 64"),
    ("a rank that vLLM has no room size for", "prod", {"models.1.engine_options": vllm(lora=adapters(16, max_rank=24))}, "models[1].engine_options.lora.max_rank", "use 32"),
    ("two adapters of a name", "prod", {"models.1.engine_options": vllm(lora={"adapters": [{"name": "a", "source": "acme/a", "revision": SHA, "rank": 8}] * 2})}, "models[1].engine_options.lora.adapters[1].name", "unique"),
    ("adapters on Ray", "staging", {"models.0.engine_options": vllm(lora=adapters(8))}, "models[0].engine_options.lora", "runtime deployment"),
    ("adapters where weights are streamed", "dev", {"models.0.engine_options": vllm(lora=adapters(8))}, "models[0].engine_options.lora", "fsx_lustre"),
    ("a draft where weights are streamed", "dev", {"models.0.engine_options": vllm(speculation=EAGLE)}, "models[0].engine_options.speculation.kind", "fsx_lustre"),
    ("predictions of a model that has none", "prod", {"models.1.engine_options": vllm(speculation={"kind": "mtp"})}, "models[1].engine_options.speculation.kind", "no prediction layers"),
    ("a tool parser of the other engine", "prod", {"models.1.engine_options": vllm(tool_parser="qwen25")}, "models[1].engine_options.tool_parser", "vllm 0.33.0 has no tool parser"),
    ("a misspelt reasoning parser", "prod", {"models.0.engine_options": sglang(reasoning_parser="deepseek_r1")}, "models[0].engine_options.reasoning_parser", "did you mean `deepseek-r1`"),
    ("DeepEP without experts apart", "prod", {"models.0.engine_options": sglang(expert_backend="deepep")}, "models[0].engine_options.expert_backend", "layout.expert: 16"),
    ("memory that leaves no cache", "prod", {"models.1.layout": {"tensor": 8}, "models.1.engine_options": vllm(memory_share=0.45)}, "models[1].layout", "does not fit"),
    ("more memory than there is", "prod", {"models.1.engine_options": vllm(memory_share=1.5)}, "models[1].engine_options.memory_share", "0.3 to 0.98"),
    ("no sequence at a time", "prod", {"models.1.engine_options": vllm(max_running=0)}, "models[1].engine_options.max_running", "1 or more"),
    ("attention groups that do not divide", "prod", {"models.0.layout": {"tensor": 16, "data": 3}}, "models[0].layout.data", "divisor"),
    ("attention groups of vLLM over nodes", "prod", {"models.0.engine": "vllm", "models.0.layout": {"tensor": 16, "data": 2, "expert": 16}}, "models[0].layout.data", "server on each node"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stack", "changes", "path", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_each_is_told_with_its_place(tmp_path, stack, changes, path, words):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, stack, changes))
    problems = {problem.dotted(): problem for problem in caught.value.problems}
    assert path in problems, str(caught.value)
    problem = problems[path]
    assert words in f"{problem.message} {problem.help or ''}"
    assert problem.position is not None
    assert len(problems) == 1, str(caught.value)
