"""GPUs cut for several models: what a slice has, what is refused with what would do, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catalog import load
from catalog.mig import mig_gpus
from planner import StackFileError, load_and_plan
from planner.plan import Plan, SharingPlan
from planner.sharing import MIG_CONFIG_LABEL, MIG_STATE_LABEL, PLUGIN_CONFIG_LABEL, nearest_profile, slice_of
from tests.factories import example_plan
from tests.stacks import changed

EXAMPLE = example_plan("shared-gpus")
TURNS, PARTS = EXAMPLE.pool("l40s-turns"), EXAMPLE.pool("h100-parts")
MIB = 1024**2

SMALL = {
    "name": "small",
    "model": "meta-llama/Llama-3.2-3B-Instruct",
    "revision": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
    "pool": "cards",
    "context_tokens": 4096,
    "replicas": {"min": 1, "max": 1},
}


def stack(directory: Path, *, model: dict[str, Any] | None = None, **fields: Any) -> Path:
    """Dev with one pool of cut GPUs and one small model on it."""
    pool = {
        "name": "cards",
        "instance_type": "g6e.4xlarge",
        "availability_zone": "us-east-1b",
        "capacity": [{"kind": "on_demand", "nodes": {"max": 2}}],
        **fields,
    }
    settings = {"pools": [pool], "models": [{**SMALL, **(model or {})}]}
    return changed(directory, "dev", settings, removed=("budget",))


def planned(directory: Path, **fields: Any) -> Plan:
    return load_and_plan(stack(directory, **fields))[1]


def turns(replicas: int) -> dict[str, Any]:
    return {"sharing": {"kind": "time_slicing", "replicas": replicas}}


def mig(profile: str, instance: str = "p5.4xlarge") -> dict[str, Any]:
    return {"instance_type": instance, "sharing": {"kind": "mig", "profile": profile}}


def flag(plan: Plan, model: str, name: str) -> str:
    container = next(item for item in plan.models if item.name == model).container
    return next(arg.partition("=")[2] for arg in container.args if arg.startswith(f"--{name}="))


@pytest.mark.parametrize("name", list(mig_gpus()))
def test_profiles_fit_the_gpu_they_cut(name: str) -> None:
    gpu, known = load().gpus[name], mig_gpus()[name]
    for profile in known.profiles.values():
        assert profile.instances * profile.memory_gib <= gpu.memory_gib
        assert profile.instances * profile.sms <= known.sms
        assert profile.instances * profile.memory_eighths <= 8
        assert profile.memory_gib <= gpu.memory_gib * profile.memory_eighths / 8
    assert nearest_profile("9g.999gb", known) in known.profiles


def test_every_model_asks_for_one_slice_and_the_nodes_offer_as_many_as_there_are() -> None:
    assert {model.container.gpus for model in EXAMPLE.models} == {1}
    assert (TURNS.hardware.gpus, TURNS.gpus_per_node) == (3, 1)
    assert (PARTS.hardware.gpus, PARTS.gpus_per_node) == (3, 1)


def test_engines_on_one_card_take_no_more_than_it_has() -> None:
    card = load().gpus["L40S"].memory_gib
    on_card = [model for model in EXAMPLE.models if model.pool == TURNS.name]
    assert len(on_card) == 3
    assert sum(float(flag(EXAMPLE, model.name, "gpu-memory-utilization")) for model in on_card) <= 0.92
    taken = sum(
        int(flag(EXAMPLE, model.name, "kv-cache-memory-bytes")) / 1024 / MIB
        + model.memory.weights_gib
        + model.memory.overhead_gib
        for model in on_card
    )
    assert taken <= card * 0.9 + 0.01


def test_a_partition_is_a_card_of_its_own_to_its_engine() -> None:
    qwen = next(model for model in EXAMPLE.models if model.name == "qwen-8b")
    assert qwen.memory.gpu_gib == pytest.approx(19.62, abs=0.01)
    assert flag(EXAMPLE, "qwen-8b", "gpu-memory-utilization") == "0.90"
    assert not any(arg.startswith("--kv-cache-memory-bytes") for arg in qwen.container.args)


def test_pods_wait_until_the_gpus_are_cut() -> None:
    assert PARTS.node_selector[MIG_STATE_LABEL] == "success"
    assert PARTS.later_labels == {MIG_STATE_LABEL: "success"}
    assert {rung.labels[MIG_CONFIG_LABEL] for rung in PARTS.rungs} == {"all-2g.20gb"}
    assert MIG_STATE_LABEL not in PARTS.rungs[0].labels, "a node that carried it from the start would not be cut yet"
    assert {rung.labels[PLUGIN_CONFIG_LABEL] for rung in TURNS.rungs} == {"time-slicing-3"}
    assert MIG_STATE_LABEL not in TURNS.node_selector


def test_three_replicas_share_the_price_of_a_node(tmp_path: Path) -> None:
    three = planned(tmp_path, **turns(3), model={"replicas": {"min": 3, "max": 3}})
    one = planned(tmp_path, **turns(3))
    bills = [
        [line.planned_usd_per_hour for line in plan.cost.lines if line.item == "Pool cards"] for plan in (three, one)
    ]
    assert len(bills[0]) == 1
    assert bills[0] == bills[1]
    assert "1/3 of a node" in three.models[0].why["sharing"]


def test_slices_are_slower_than_cards() -> None:
    whole = load().gpus["H100"]
    assert PARTS.sharing is not None
    part = slice_of(whole, PARTS.sharing)
    assert part.hbm_gb_per_s == whole.hbm_gb_per_s * 2 / 8
    assert part.bf16_tflops == pytest.approx(whole.bf16_tflops * 32 / 132)
    turn = SharingPlan(
        kind="time_slicing", slices_per_gpu=4, gpus=1, profile=None, config="t", node_labels={}, later_labels={}
    )
    assert slice_of(whole, turn).memory_gib == pytest.approx(whole.memory_gib / 4)


def test_karpenters_nodes_are_counted_by_slices(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"provisioner": "karpenter", "instance_types": ["g6e.4xlarge", "g6e.8xlarge"]}
    plan = load_and_plan(
        changed(
            tmp_path,
            "dev",
            {
                "pools": [
                    {
                        "name": "cards",
                        "availability_zone": "us-east-1b",
                        "capacity": [{"kind": "on_demand", "nodes": {"max": 2}}],
                        **fields,
                        **turns(4),
                    }
                ],
                "models": [SMALL],
            },
            removed=("budget",),
        )
    )[1]
    pool = plan.pool("cards")
    assert pool.karpenter is not None
    assert [item.max_gpus for item in pool.karpenter.node_pools] == [8]
    assert plan.karpenter is not None
    assert plan.karpenter.overlays


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = [
    ("a GPU without MIG", {**mig("1g.10gb", "g6e.4xlarge")}, {}, "pools[0].sharing.kind", ("no MIG", "time_slicing")),
    ("a profile of another GPU", mig("1g.18gb"), {}, "pools[0].sharing.profile", ("did you mean `1g.20gb`", "3g.40gb")),
    ("no profile at all", mig("big"), {}, "pools[0].sharing.profile", ("must match",)),
    (
        "more slices than CPUs",
        {"instance_type": "g6e.xlarge", **turns(4)},
        {},
        "pools[0].sharing.replicas",
        ("carries",),
    ),
    ("one slice", turns(1), {}, "pools[0].sharing.replicas", ("2",)),
    ("tensor parallel", turns(2), {"layout": {"tensor": 2}}, "models[0].layout", ("no path to one another",)),
    ("SGLang in turns", turns(2), {"engine": "sglang"}, "models[0].engine", ("who starts first", "vllm")),
    (
        "weights above a slice",
        mig("1g.10gb"),
        {"model": "Qwen/Qwen3-8B"},
        "models[0].pool",
        ("does not fit a slice", "profile `3g.40gb` would do (2 a GPU)"),
    ),
    ("weights above a turn", turns(4), {"model": "Qwen/Qwen3-8B"}, "models[0].pool", ("`replicas: 2` would do",)),
    (
        "weights above the card",
        turns(2),
        {"model": "meta-llama/Llama-3.1-70B-Instruct"},
        "models[0].pool",
        ("not even a whole L40S",),
    ),
]


@pytest.mark.parametrize(("name", "pool", "model", "path", "words"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_cut_or_does_not_fit_is_refused_with_what_would_do(
    name: str, pool: dict[str, Any], model: dict[str, Any], path: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(StackFileError) as raised:
        planned(tmp_path, **pool, model=model)
    text = str(raised.value)
    assert path in text, name
    for word in words:
        assert word in text, text


def test_mig_on_karpenter_is_refused_with_the_reason(tmp_path: Path) -> None:
    pool = {
        "name": "cards",
        "provisioner": "karpenter",
        "instance_types": ["p5.4xlarge"],
        "availability_zone": "us-east-1b",
        "capacity": [{"kind": "on_demand", "nodes": {"max": 1}}],
        "sharing": {"kind": "mig", "profile": "2g.20gb"},
    }
    with pytest.raises(StackFileError, match="before MIG manager has cut it"):
        load_and_plan(changed(tmp_path, "dev", {"pools": [pool], "models": [SMALL]}, removed=("budget",)))


def test_an_existing_cluster_is_told_which_labels_its_nodes_need(tmp_path: Path) -> None:
    plan = load_and_plan(
        changed(
            tmp_path,
            "local",
            {
                "pools": [
                    {
                        "name": "cards",
                        "provisioner": "existing",
                        "gpu": "A100-80",
                        "gpus_per_node": 2,
                        "nodes": 1,
                        "vcpus": 64,
                        "memory_gib": 512,
                        "node_selector": {"gpu": "a100"},
                        "sharing": {"kind": "mig", "profile": "1g.20gb"},
                    }
                ],
                "models": [{**SMALL, "model": "microsoft/Phi-3.5-mini-instruct"}],
            },
        )
    )[1]
    pool = plan.pool("cards")
    assert pool.hardware.gpus == 8
    assert pool.node_selector == {"gpu": "a100", MIG_STATE_LABEL: "success"}
    assert any(f"{MIG_CONFIG_LABEL}=all-1g.20gb" in finding.message for finding in plan.findings)
