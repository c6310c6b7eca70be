"""Prefill and decode apart where they cannot be: the place in the stack file, the reason and what works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import StackFileError, load_and_plan
from tests.stacks import PLATFORM, ROOT

EXAMPLE = ROOT / "examples" / "disaggregated" / "Pulumi.disaggregated.yaml"
TWO = {"prefill": {"layout": {"tensor": 4}}, "decode": {"layout": {"tensor": 4}}}
PLAIN = {"carries_efa": True, "repository": "r.example.com/a", "tag": "v1"}


def groups(**changes: Any) -> dict[str, Any]:
    return {**TWO, **changes}


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("replicas of neither group", {"replicas": {"min": 1, "max": 2}}, "replicas", "disaggregated.prefill.replicas"),
    ("a layout of neither group", {"layout": {"tensor": 4}}, "layout", "disaggregated.decode.layout"),
    ("on Ray Serve", {"runtime": "ray_service"}, "runtime", "deployment or leader_worker_set"),
    ("another KV connector", {"kv_offload": {"cpu_gib": 10}}, "kv_offload", "leave one of the two out"),
    ("prompts to replay", {"warm_prompts": ["You are a helpful assistant."]}, "warm_prompts", "leave one"),
    (
        "adapters",
        {"engine_options": {"engine": "vllm", "lora": {"adapters": [{"name": "a", "source": "acme/a", "revision": "a" * 40, "rank": 8}]}}},
        "engine_options.lora",
        "leave one",
    ),
    ("a plain Service", {"routing": {"kind": "service"}}, "routing.kind", "always there"),
    ("hours for both", {"autoscaling": {"floors": [{"start": "0 8 * * *", "end": "0 9 * * *", "replicas": 2}]}}, "autoscaling.floors", "disaggregated.prefill.replicas"),
    ("hours to sleep", {"autoscaling": {"idle_minutes": 30}}, "autoscaling.idle_minutes", "disaggregated.prefill.replicas"),
    ("a name without room for the group's", {"name": "a" * 33}, "name", "shorten it by 1"),
    ("a concurrency for both", {"autoscaling": {"target_concurrency": 8}}, "autoscaling.target_concurrency", "auto"),
    ("a standby", {"standby": {"model": "llama-70b"}}, "standby", "leave one"),
    ("no replica of a group", {"disaggregated": groups(decode={"layout": {"tensor": 4}, "replicas": {"min": 0, "max": 1}})}, "disaggregated.decode.replicas.min", "1 or more"),
    ("stages", {"disaggregated": groups(prefill={"layout": {"tensor": 4, "pipeline": 2}})}, "disaggregated.prefill.layout", "without stages"),
    ("vLLM over nodes", {"disaggregated": groups(prefill={"layout": {"tensor": 16}})}, "disaggregated.prefill.layout", "tensor 8 at most"),
    ("a degree that breaks the model", {"disaggregated": groups(prefill={"layout": {"tensor": 3}})}, "disaggregated.prefill.layout.tensor", "degrees that divide"),
    ("too little for one group", {"disaggregated": groups(decode={"layout": {"tensor": 1}})}, "disaggregated.decode.layout", "tensor"),
    ("no room for both at once", {"disaggregated": groups(prefill={"layout": {"tensor": 8}, "replicas": {"min": 4, "max": 4}})}, "disaggregated", "pool of its own"),
    ("an image without NIXL", {"image": PLAIN}, "image", "carries_nixl: true"),
    ("an image without EFA", {"image": {**PLAIN, "carries_efa": False, "carries_nixl": True}}, "image", "carries_efa: true"),
    ("a promise below the transfer", {"objectives": {"ttft_p99_ms": 1000, "tpot_p99_ms": 25}}, "objectives.ttft_p99_ms", "over EFA"),
    ("traffic beyond one group", {"disaggregated": groups(decode={"layout": {"tensor": 4}, "replicas": {"min": 1, "max": 3}})}, "traffic.requests_per_second", "disaggregated.prefill.replicas.max"),
    ("a transport nobody has", {"disaggregated": groups(transport="tcp")}, "disaggregated.transport", "ucx"),
    ("a pool that is not there", {"disaggregated": groups(prefill={"pool": "h101", "layout": {"tensor": 4}})}, "disaggregated.prefill.pool", "h100"),
]  # fmt: skip


def refused(directory: Path, changes: dict[str, Any], pools: dict[str, Any] | None = None) -> Sequence[Any]:
    data = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    platform = data["config"][PLATFORM]
    platform["models"][0].update(changes)
    platform["pools"][0].update(pools or {})
    file = directory / EXAMPLE.name
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    with pytest.raises(StackFileError) as caught:
        load_and_plan(file)
    return caught.value.problems


@pytest.mark.parametrize(("name", "changes", "path", "words"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_apart(tmp_path: Path, name: str, changes: dict[str, Any], path: str, words: str) -> None:
    problems = refused(tmp_path, changes)
    found = [one for one in problems if one.dotted() == f"models[0].{path}" and words in f"{one.message} {one.help}"]
    assert len(found) == 1, [f"{one.dotted()}: {one.message} = {one.help}" for one in problems]
    assert found[0].position is not None
    assert [one.dotted() for one in problems].count(f"models[0].{path}") == 1  # and no second advice against the first


@pytest.mark.parametrize(
    ("instance", "words"),
    [("g6e.12xlarge", "no GPUDirect RDMA"), ("g6e.2xlarge", "no EFA devices")],
)
def test_nodes_whose_network_would_stall_every_first_token(tmp_path: Path, instance: str, words: str) -> None:
    smaller = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "context_tokens": 8192,
        "disaggregated": {},
        "traffic": {"requests_per_second": 0.1, "input_tokens": {"mean": 500}, "output_tokens": {"mean": 100}},
    }
    pool = {"instance_type": instance, "capacity": [{"kind": "on_demand", "nodes": {"min": 0, "max": 8}}]}
    problems = refused(tmp_path, smaller, pool)
    told = [one for one in problems if one.dotted() == "models[0].pool" and words in one.message]
    assert len(told) == 1, [f"{one.dotted()}: {one.message}" for one in problems]
    assert "p5.48xlarge" in str(told[0].help)


def test_different_degrees_of_sliding_attention_on_sglang(tmp_path: Path) -> None:
    changes = {
        "model": "openai/gpt-oss-120b",
        "engine": "sglang",
        "disaggregated": {"prefill": {"layout": {"tensor": 2}}, "decode": {"layout": {"tensor": 4}}},
    }
    problems = refused(tmp_path, changes)
    assert any(one.dotted() == "models[0].disaggregated.decode.layout" and "tensor 2" in one.help for one in problems)
