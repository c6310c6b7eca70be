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
    ("the other engine's name of what a key says", "prod", {"models.0.engine_options": sglang(extra_args=["--gpu-memory-utilization=0.9"])}, "models[0].engine_options.extra_args[0]", "memory_share"),
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
    ("a rank over vLLM's", "prod", {"models.1.routing": {"kind": "service"}, "models.1.engine_options": vllm(lora=adapters(16, 600))}, "models[1].engine_options.lora.adapters[1].rank", "512, the most"),
    ("a rank over the section's", "prod", {"models.1.engine_options": vllm(lora=adapters(16, 64, max_rank=32))}, "models[1].engine_options.lora.adapters[1].rank", "set max_rank to 64"),
    ("a rank that vLLM has no room size for", "prod", {"models.1.routing": {"kind": "service"}, "models.1.engine_options": vllm(lora=adapters(16, max_rank=24))}, "models[1].engine_options.lora.max_rank", "use 32"),
    ("two adapters of a name", "prod", {"models.1.engine_options": vllm(lora={"adapters": [{"name": "a", "source": "acme/a", "revision": SHA, "rank": 8}] * 2})}, "models[1].engine_options.lora.adapters[1].name", "unique"),
    ("adapters on Ray", "staging", {"models.0.engine_options": vllm(lora=adapters(8))}, "models[0].engine_options.lora", "runtime deployment"),
    ("adapters where weights are streamed", "dev", {"models.0.engine_options": vllm(lora=adapters(8))}, "models[0].engine_options.lora", "fsx_lustre"),
    ("a draft where weights are streamed", "dev", {"models.0.engine_options": vllm(speculation=EAGLE)}, "models[0].engine_options.speculation.kind", "fsx_lustre"),
    ("predictions of a model that has none", "prod", {"models.1.engine_options": vllm(speculation={"kind": "mtp"})}, "models[1].engine_options.speculation.kind", "no prediction layers"),
    ("a tool parser of the other engine", "prod", {"models.1.engine_options": vllm(tool_parser="qwen25")}, "models[1].engine_options.tool_parser", "vllm 0.33.0 has no tool parser"),
    ("a misspelt reasoning parser", "prod", {"models.0.engine_options": sglang(reasoning_parser="deepseek_r1")}, "models[0].engine_options.reasoning_parser", "did you mean `deepseek-r1`"),
    ("a policy that ends SGLang's scheduler", "prod", {"models.0.engine_options": sglang(scheduling_policy="priority")}, "models[0].engine_options.scheduling_policy", "fcfs"),
    ("the shortest prefill of an engine that keeps none", "prod", {"models.0.engine_options": sglang(scheduling_policy="shortest-prefill-first", prefix_caching=False)}, "models[0].engine_options.scheduling_policy", "leave one"),
    ("DeepEP without experts apart", "prod", {"models.0.engine_options": sglang(expert_backend="deepep")}, "models[0].engine_options.expert_backend", "layout.expert: 16"),
    ("memory that leaves no cache", "prod", {"models.1.layout": {"tensor": 8}, "models.1.engine_options": vllm(memory_share=0.45)}, "models[1].layout", "does not fit"),
    ("a share that no layout lives with", "prod", {"models.2.context_tokens": 131072, "models.2.engine_options": vllm(memory_share=0.42)}, "models[2].pool", "memory_share: auto"),
    ("more memory than there is", "prod", {"models.1.engine_options": vllm(memory_share=1.5)}, "models[1].engine_options.memory_share", "0.3 to 0.98"),
    ("no sequence at a time", "prod", {"models.1.engine_options": vllm(max_running=0)}, "models[1].engine_options.max_running", "1 or more"),
    ("attention groups that do not divide", "prod", {"models.0.layout": {"tensor": 16, "data": 3}}, "models[0].layout.data", "divisor"),
    ("attention groups of vLLM over nodes", "prod", {"models.0.engine": "vllm", "models.0.layout": {"tensor": 16, "data": 2, "expert": 16}}, "models[0].layout.data", "server on each node"),
    ("a short name with two dashes", "prod", {"models.1.engine_options": vllm(extra_args=["--tp=8"])}, "models[1].engine_options.extra_args[0]", "layout.tensor"),
    ("the beginning of a name", "prod", {"models.0.engine_options": sglang(extra_args=["--tp-si=8"])}, "models[0].engine_options.extra_args[0]", "layout.tensor"),
    ("a key that only its name may tell", "prod", {"models.1.engine_options": vllm(extra_args=["-api-key=hidden"])}, "models[1].engine_options.extra_args[0]", "`-api-key` is no option"),
    ("a token in the clear", "prod", {"models.1.engine_options": vllm(extra_args=["--hf-token=hidden"])}, "models[1].engine_options.extra_args[0]", "is a secret"),
    ("ranks beside the layout", "prod", {"models.1.engine_options": vllm(extra_args=["--decode-context-parallel-size=2"])}, "models[1].engine_options.extra_args[0]", "say `layout`"),
    ("a server that probes cannot reach", "prod", {"models.1.engine_options": vllm(extra_args=["--uds=/tmp/s"])}, "models[1].engine_options.extra_args[0]", "probes"),
    ("metrics off", "prod", {"models.1.engine_options": vllm(extra_args=["--disable-log-stats"])}, "models[1].engine_options.extra_args[0]", "scaling"),
    ("metrics of every rank", "prod", {"models.0.engine_options": sglang(extra_args=["--enable-metrics-for-all-schedulers"])}, "models[0].engine_options.extra_args[0]", "count each request once"),
    ("memory beside the plan", "prod", {"models.0.engine_options": sglang(extra_args=["--max-total-tokens=100"])}, "models[0].engine_options.extra_args[0]", "memory_share"),
    ("another revision", "prod", {"models.1.engine_options": vllm(extra_args=["--revision=main"])}, "models[1].engine_options.extra_args[0]", "`revision` at the model"),
    ("a tokenizer from the hub", "prod", {"models.1.engine_options": vllm(extra_args=["--tokenizer=acme/t"])}, "models[1].engine_options.extra_args[0]", "folder on the cache"),
    ("speculation by another name", "prod", {"models.1.engine_options": vllm(extra_args=["--spec-method=ngram"])}, "models[1].engine_options.extra_args[0]", "engine_options.speculation"),
    ("balanced experts without experts apart", "prod", {"models.0.engine_options": sglang(extra_args=["--enable-eplb"])}, "models[0].engine_options.extra_args[0]", "layout.expert"),
    ("overrides that are no object", "prod", {"models.1.engine_options": vllm(extra_args=["--hf-overrides=null"])}, "models[1].engine_options.extra_args[0]", "JSON object"),
    ("text for JSON on Ray", "staging", {"models.0.engine_options": vllm(extra_args=["--allowed-origins=*"])}, "models[0].engine_options.extra_args[0]", "no JSON"),
    ("a number below all", "prod", {"models.1.engine_options": vllm(extra_args=["--stream-interval=-4"])}, "models[1].engine_options.extra_args[0]", "0 or more"),
    ("a level that is none", "prod", {"models.1.engine_options": vllm(extra_args=["--optimization-level=9"])}, "models[1].engine_options.extra_args[0]", "0 to 3"),
    ("a key of a JSON option by a dot", "prod", {"models.1.engine_options": vllm(extra_args=["--compilation-config.mode=3"])}, "models[1].engine_options.extra_args[0]", '{"mode": 3}'),
    ("wide weights", "prod", {"models.1.engine_options": vllm(extra_args=["--dtype=float32"])}, "models[1].engine_options.extra_args[0]", "leave it out"),
    ("more sequences than a step has tokens", "prod", {"models.2.engine_options": vllm(max_running=2560)}, "models[2].engine_options.max_running", "2048 or less"),
    ("a step of fewer tokens than sequences", "prod", {"models.1.engine_options": vllm(max_running=128, prefill_chunk_tokens=64)}, "models[1].engine_options.prefill_chunk_tokens", "128 or more"),
    ("speculation over stages on SGLang", "prod", {"models.0.layout": {"tensor": 8, "pipeline": 2}, "models.0.engine_options": sglang(speculation={"kind": "mtp"})}, "models[0].engine_options.speculation.kind", "pipeline: 1"),
    ("lookup beside attention groups on SGLang", "prod", {"models.0.layout": {"tensor": 16, "data": 2}, "models.0.engine_options": sglang(speculation={"kind": "ngram"})}, "models[0].engine_options.speculation.kind", "mtp or eagle"),
    ("DeepEP that vLLM would not use", "prod", {"models.0.engine": "vllm", "models.0.layout": {"tensor": 8, "pipeline": 2, "expert": 16}, "models.0.engine_options": vllm(expert_backend="deepep_low_latency")}, "models[0].engine_options.expert_backend", "layout.data: 8"),
    ("FlashInfer's backend without groups", "prod", {"models.0.layout": {"tensor": 16, "expert": 16}, "models.0.engine_options": sglang(expert_backend="flashinfer")}, "models[0].engine_options.expert_backend", "layout.data: 16"),
    ("FlashInfer's backend without its kernel", "prod", {"models.0.layout": {"tensor": 16, "expert": 16, "data": 16}, "models.0.engine_options": sglang(expert_backend="flashinfer")}, "models[0].engine_options.expert_backend", "--moe-runner-backend=deep_gemm"),
    ("an adapter of the model's name", "prod", {"models.1.routing": {"kind": "service"}, "models.1.engine_options": vllm(lora={"adapters": [{"name": "r1-distill-70b", "source": "acme/a", "revision": SHA, "rank": 8}]})}, "models[1].engine_options.lora.adapters[0].name", "another name"),
    ("compressed tensors for AWQ", "prod", {"models.1.model": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", "models.1.traffic": None, "models.1.engine_options": vllm(quantization_method="compressed-tensors")}, "models[1].engine_options.quantization_method", "published as awq_int4"),
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


def test_a_value_that_may_be_a_secret_is_not_in_the_message(tmp_path):
    options = vllm(extra_args=["-api-key=hidden"])
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "prod", {"models.1.engine_options": options}))
    assert all("hidden" not in f"{problem.message} {problem.help}" for problem in caught.value.problems)


def test_an_object_reaches_ray_as_one(tmp_path):
    options = vllm(extra_args=['--hf-overrides={"rope_scaling":{"factor":4.0}}'])
    _, plan = load_and_plan(changed(tmp_path, "staging", {"models.0.engine_options": options}))
    ray = plan.models[0].ray
    assert ray is not None
    (application,) = ray.serve_config["applications"]
    overrides = application["args"]["llm_configs"][0]["engine_kwargs"]["hf_overrides"]
    assert overrides == {"rope_scaling": {"factor": 4.0}}


def test_a_longer_step_takes_memory_from_the_cache(tmp_path):
    def kv_gib(**options: Any) -> float:
        changes = {"models.1.engine_options": vllm(**options)}
        return load_and_plan(changed(tmp_path, "prod", changes))[1].models[1].memory.kv_gib

    # 32768 tokens x 2 bytes x (3 x 8192 + 10240 / 8 + 3 x 28672 / 8) is 2.23 GiB, against 1.16 of the sampler before.
    assert kv_gib() - kv_gib(prefill_chunk_tokens=32768) == pytest.approx(1.07, abs=0.05)
