"""What engine options become: options with reasons, memory, and the same choice on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog.load import load
from ops.explain import arguments_of
from planner import load_and_plan
from planner.engines.held import adapters_gb
from planner.engines.matrix import SERVERS, matrix
from planner.plan import ModelPlan, Plan
from settings.engines import Lora
from tests.factories import STACKS, stack_plan
from tests.stacks import changed

SHA = "a" * 40


def planned(directory: Path, stack: str, changes: dict[str, Any]) -> Plan:
    return load_and_plan(changed(directory, stack, changes))[1]


def model(directory: Path, stack: str, changes: dict[str, Any], index: int = 0) -> ModelPlan:
    return planned(directory, stack, changes).models[index]


def option(found: ModelPlan, name: str) -> str | None:
    values = [t.partition("=")[2] for a in found.arguments for t in a.tokens if t.partition("=")[0] == name]
    return values[0] if values else None


@pytest.mark.parametrize("stack", STACKS)
def test_every_option_has_a_reason_and_stands_on_the_command_line(stack: str) -> None:
    for found in stack_plan(stack).models:
        assert found.arguments
        assert all(argument.why.strip() for argument in found.arguments)
        if found.ray is None:
            assert tuple(t for argument in found.arguments for t in argument.tokens) == found.container.args


def test_prediction_layers_take_their_memory(tmp_path: Path) -> None:
    plain = stack_plan("prod").models[0]
    speculating = model(
        tmp_path, "prod", {"models.0.engine_options": {"engine": "sglang", "speculation": {"kind": "mtp", "tokens": 3}}}
    )
    assert speculating.memory.weights_gib > plain.memory.weights_gib
    assert speculating.memory.kv_tokens < plain.memory.kv_tokens
    assert option(speculating, "--speculative-algorithm") == "NEXTN"
    assert option(speculating, "--speculative-num-draft-tokens") == "4"


def test_a_draft_model_takes_its_memory_and_lies_beside_the_model(tmp_path: Path) -> None:
    draft = {"kind": "eagle3", "model": "acme/eagle3", "revision": SHA, "gigabytes": 16}
    found = model(tmp_path, "prod", {"models.1.engine_options": {"engine": "vllm", "speculation": draft}}, 1)
    plain = stack_plan("prod").models[1]
    gained = (found.memory.weights_gib - plain.memory.weights_gib) * found.layout.tensor * 2**30 / 1e9
    assert gained == pytest.approx(16, rel=0.05)
    config = option(found, "--speculative-config")
    assert config is not None
    assert f"/acme/eagle3/{SHA}" in config
    assert found.weights.directory.removesuffix(f"{found.model}/{found.weights.revision}") in config


def test_adapters_take_memory_for_the_largest_of_a_batch() -> None:
    card = load().models["meta-llama/Llama-3.1-8B-Instruct"]
    entry = {"name": "a", "source": "acme/a", "revision": SHA, "rank": 16}
    one = adapters_gb(card, Lora.model_validate({"adapters": [entry]}))
    # 42 M parameters at rank 16, the published size of such adapters over all linear layers.
    assert one == pytest.approx(0.084, rel=0.02)
    two = adapters_gb(
        card, Lora.model_validate({"adapters": [entry, {**entry, "name": "b", "rank": 32}], "concurrent": 3})
    )
    assert two == pytest.approx(6 * one)
    assert adapters_gb(card, None) == 0


def test_the_share_of_memory_is_planned_with(tmp_path: Path) -> None:
    lower = model(tmp_path, "prod", {"models.2.engine_options": {"engine": "vllm", "memory_share": 0.7}}, 2)
    plain = stack_plan("prod").models[2]
    assert option(lower, "--gpu-memory-utilization") == "0.70"
    lost = plain.memory.kv_gib - lower.memory.kv_gib
    assert lost == pytest.approx(plain.memory.gpu_gib * (plain.memory.utilization - 0.7))


def test_a_choice_reaches_every_runtime(tmp_path: Path) -> None:
    options = {
        "engine": "vllm", "max_running": 40, "prefill_chunk_tokens": 4096, "prefix_caching": False,
        "speculation": {"kind": "ngram", "tokens": 5}, "tool_parser": "hermes", "log_requests": True,
        "extra_args": ["--stream-interval=4"],
    }  # fmt: skip
    served = model(tmp_path, "prod", {"models.1.engine_options": options}, 1)
    on_ray = model(tmp_path, "staging", {"models.0.engine_options": options})
    assert on_ray.ray is not None
    (application,) = on_ray.ray.serve_config["applications"]
    kwargs = application["args"]["llm_configs"][0]["engine_kwargs"]
    assert kwargs["max_num_seqs"] == 40
    assert option(served, "--max-num-seqs") == "40"
    assert kwargs["max_num_batched_tokens"] == 4096
    assert option(served, "--max-num-batched-tokens") == "4096"
    assert kwargs["enable_prefix_caching"] is False
    assert "--disable-prefix-caching" in served.container.args
    assert kwargs["speculative_config"]["num_speculative_tokens"] == 5
    assert kwargs["tool_call_parser"] == "hermes"
    assert kwargs["enable_log_requests"] is True
    assert kwargs["stream_interval"] == 4
    assert option(served, "--stream-interval") == "4"


def test_a_parser_can_be_left_out(tmp_path: Path) -> None:
    options = {"engine": "sglang", "reasoning_parser": None}
    found = model(tmp_path, "prod", {"models.0.engine_options": options})
    assert option(stack_plan("prod").models[0], "--reasoning-parser") == "deepseek-r1"
    assert option(found, "--reasoning-parser") is None


def test_experts_of_a_pipeline_spread_over_a_stage(tmp_path: Path) -> None:
    """SGLang refuses more expert ranks than tensor ranks."""
    found = model(tmp_path, "prod", {"models.0.layout": {"tensor": 8, "pipeline": 2, "expert": 16}})
    assert option(found, "--ep-size") == "8"
    assert option(found, "--pp-size") == "2"


def test_tensor_parallel_vllm_over_nodes_is_remarked_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, "prod", {"models.0.engine": "vllm", "models.0.layout": {"tensor": 16}})
    assert any("pipeline 2" in remark.message for remark in plan.findings)
    assert not any("crosses nodes" in remark.message for remark in stack_plan("prod").findings)


def test_deepep_is_never_taken_unless_asked_for() -> None:
    for stack in STACKS:
        for found in stack_plan(stack).models:
            assert not any("deepep" in token for token in found.container.args)


def test_explain_tells_each_option_with_its_reason() -> None:
    told = {entry["option"]: entry["why"] for entry in arguments_of(stack_plan("prod").models[0])}
    assert told["--tp-size=16"].startswith("tensor 16 x pipeline 1")
    assert "models[].context_tokens" in told["--context-length=32768"]


@pytest.mark.parametrize(("engine", "runtime"), SERVERS)
def test_code_of_a_repository_is_trusted_where_the_model_needs_it_and_nowhere_else(engine: str, runtime: str) -> None:
    def asked(model: str) -> str:
        rows = [
            row for row in matrix() if (row.case.model, row.case.engine, row.case.runtime) == (model, engine, runtime)
        ]
        (plan, *_) = [row.plan for row in rows if row.plan is not None]
        return str(plan.ray.serve_config if plan.ray else plan.container.args).replace("_", "-")

    assert "trust-remote-code" in asked("moonshotai/Kimi-K2-Instruct")
    assert "trust-remote-code" not in asked("deepseek-ai/DeepSeek-R1-0528")
