"""Mistakes that have nothing to do with each other are told in one run, and nothing that only follows from them is."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from tests.stacks import changed


def lora(rank: int) -> dict[str, Any]:
    return {"adapters": [{"name": "tuned", "source": "acme/tuned", "revision": "a" * 40, "rank": rank}]}


# Of the 70B model on A100s, served by vLLM: (path below the model, value, where it is told).
MISTAKES: list[tuple[str, Any, str]] = [
    ("context_tokens", 200_000, "context_tokens"),
    ("layout", {"tensor": 6}, "layout.tensor"),
    ("quantization", "fp8", "quantization"),
    ("kv_cache", "fp8", "kv_cache"),
    ("revision", "main", "revision"),
    ("standby", {"model": "nobody"}, "standby.model"),
    ("ray", {"gcs_fault_tolerance": True}, "ray.gcs_fault_tolerance"),
    ("kv_offload", {"cpu_gib": 100, "remote": "valkey"}, "kv_offload.remote"),
    ("warm_prompts", ["word " * 12_000] * 20, "warm_prompts"),
    ("engine_options.tool_parser", "lama3_json", "engine_options.tool_parser"),
    ("engine_options.extra_args", ["--max-modl-len=5"], "engine_options.extra_args[0]"),
    ("engine_options.speculation", {"kind": "mtp"}, "engine_options.speculation.kind"),
]


def told(directory: Path, mistakes: list[tuple[str, Any, str]], **others: Any) -> list[str]:
    changes: dict[str, Any] = {f"models.1.{path}": value for path, value, _ in mistakes if "." not in path}
    options = {path.partition(".")[2]: value for path, value, _ in mistakes if "." in path}
    if options:
        changes["models.1.engine_options"] = {"engine": "vllm", **options}
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(directory, "prod", {**changes, **others}))
    assert all(problem.position is not None for problem in caught.value.problems)
    return sorted(problem.dotted() for problem in caught.value.problems)


def test_all_mistakes_of_one_model_are_told_at_once(tmp_path: Path) -> None:
    assert told(tmp_path, MISTAKES) == sorted(f"models[1].{path}" for *_, path in MISTAKES)


def test_two_mistakes_are_both_told_and_nothing_that_follows_from_them(tmp_path: Path) -> None:
    for pair in combinations(MISTAKES, 2):
        assert told(tmp_path, list(pair)) == sorted(f"models[1].{path}" for *_, path in pair)


@pytest.mark.parametrize(
    ("mistake", "path"),
    [
        (("model", "deepseek-ai/DeepSeek-R1-Distil-Llama-70B"), "model"),
        (("pool", "a10"), "pool"),
        (("runtime", "ray_service"), "runtime"),
    ],
)
def test_what_needs_no_model_and_no_pool_is_told_without_them(
    tmp_path: Path, mistake: tuple[str, Any], path: str
) -> None:
    """Options are judged by the engine alone, and a way to replicas by the stack file alone."""
    others = [one for one in MISTAKES if one[2] in {"standby.model", "engine_options.tool_parser", "revision"}]
    also = {"models.1.engine": "sglang"} if path == "runtime" else {}
    if also:  # options would be those of the other engine
        others = [one for one in others if "." not in one[0]]
    found = told(tmp_path, [(*mistake, path), *others], **also)
    assert set(found) >= {f"models[1].{one}" for one in (path, *(told for *_, told in others))}


def test_a_layout_is_judged_beside_a_context_that_is_too_long(tmp_path: Path) -> None:
    """70B fits one L40S with no context at all; it fits eight A100s with a shorter one, so nothing is said of them."""
    too_long = ("context_tokens", 200_000, "context_tokens")
    assert told(tmp_path, [too_long], **{"models.1.layout": {"tensor": 8}}) == ["models[1].context_tokens"]
    assert told(tmp_path, [too_long, ("pool", "l40s", "pool")]) == ["models[1].context_tokens", "models[1].pool"]


def test_a_model_with_mistakes_is_still_one_that_others_name(tmp_path: Path) -> None:
    standby = {"models.0.standby": {"model": "r1-distill-70b"}, "models.1.context_tokens": 32_768}
    assert told(tmp_path, [("kv_cache", "fp8", "")], **standby) == ["models[1].kv_cache"]
    assert "models[0].standby.model" not in told(tmp_path, [("layout", {"tensor": 6}, "")], **standby)


def test_a_cache_that_the_cluster_cannot_have_hides_nothing(tmp_path: Path) -> None:
    with pytest.raises(StackFileError) as caught:
        load_and_plan(
            changed(
                tmp_path,
                "local",
                {
                    "cache": {"kind": "s3"},
                    "models.0.ray": {"gcs_fault_tolerance": True},
                    "models.0.objectives": {"ttft_p99_ms": 800, "tpot_p99_ms": 1},
                },
            )
        )
    assert [problem.dotted() for problem in caught.value.problems] == [
        "cache.kind",
        "models[0].ray.gcs_fault_tolerance",
        "models[0].objectives.tpot_p99_ms",
    ]


def test_a_type_that_nobody_knows_hides_no_zone_and_no_name(tmp_path: Path) -> None:
    """Neither on a node group nor under Karpenter."""
    name = "a" * 35
    found = told(
        tmp_path,
        [],
        **{
            "pools.1.name": name,
            "pools.1.instance_type": "p4d.24xlrge",
            "pools.1.availability_zone": "us-east-1z",
            "models.1.pool": name,
        },
    )
    assert {"pools[1].instance_type", "pools[1].availability_zone", "pools[1].name"} <= set(found)


@pytest.mark.parametrize(
    ("capacity", "path"),
    [
        ([{"kind": "sport", "nodes": {"max": 1}}], "pools[1].capacity[0]"),
        ([{"kind": "spot", "nodes": {"min": 3, "max": 1}}], "pools[1].capacity[0].nodes.max"),
        ([], "pools[1].capacity"),
    ],
)
def test_a_wrong_rung_hides_no_model_of_its_pool(tmp_path: Path, capacity: list[Any], path: str) -> None:
    """They are judged with nodes enough; what depends on how many there are, is not."""
    found = told(tmp_path, [("context_tokens", 200_000, "")], **{"pools.1.capacity": capacity, "budget.monthly_usd": 1})
    assert found == ["models[1].context_tokens", path]


def test_all_types_of_a_pool_that_are_not_alike_are_told(tmp_path: Path) -> None:
    pool = {
        "name": "a100",
        "provisioner": "karpenter",
        "availability_zone": "us-east-1a",
        "instance_types": ["p4d.24xlarge", "g6e.xlarge", "p5.48xlarge", "p4de.24xlrge"],
        "capacity": [{"kind": "on_demand", "nodes": {"max": 4}}],
    }
    found = told(tmp_path, [], **{"pools.1": pool})
    assert [path for path in found if path.startswith("pools[1].instance_types")] == [
        "pools[1].instance_types[3]",
    ]
    pool["instance_types"] = ["p4d.24xlarge", "g6e.xlarge", "p5.48xlarge"]
    found = told(tmp_path, [], **{"pools.1": pool})
    assert {"pools[1].instance_types[1]", "pools[1].instance_types[2]"} <= set(found)


def test_a_gated_model_is_told_beside_its_mistakes(tmp_path: Path) -> None:
    gated = {"models.0.model": "meta-llama/Llama-3.1-8B-Instruct", "models.0.context_tokens": 200_000}
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "local", gated))
    assert {"secrets.hub_token", "models[0].context_tokens"} <= {one.dotted() for one in caught.value.problems}
