"""Stack files that nobody wrote: each plans and builds, or says what is wrong and where."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import program
from catalog.load import load
from planner import StackFileError, load_and_plan
from tests.harness import deploy
from tests.stacks import PLATFORM

CATALOG = load()
GPU_TYPES = sorted(name for name, entry in CATALOG.instances.items() if entry.gpus)
MODELS = sorted(CATALOG.models)

name = st.from_regex(r"[a-z][a-z0-9-]{0,18}[a-z0-9]", fullmatch=True)
rung = st.one_of(
    st.fixed_dictionaries({"kind": st.just("spot"), "nodes": st.fixed_dictionaries({"max": st.integers(1, 8)})}),
    st.fixed_dictionaries(
        {
            "kind": st.just("on_demand"),
            "nodes": st.fixed_dictionaries({"min": st.integers(0, 1), "max": st.integers(1, 8)}),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("capacity_block"),
            "reservation": st.from_regex(r"cr-[0-9a-f]{17}", fullmatch=True),
            "nodes": st.integers(1, 4),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("capacity_reservation"),
            "reservation": st.from_regex(r"cr-[0-9a-f]{17}", fullmatch=True),
            "nodes": st.integers(1, 4),
        }
    ),
)


def rungs(*, blocks: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = rung if blocks else rung.filter(lambda r: r["kind"] != "capacity_block")
    return st.lists(one, min_size=1, max_size=3, unique_by=lambda r: r["kind"])


def by_karpenter(pool: dict[str, Any]) -> dict[str, Any]:
    """The same pool with Karpenter's nodes, none of which is kept without pods."""
    capacity = [
        {**one, "nodes": {"max": one["nodes"]["max"]}} if one["kind"] in {"spot", "on_demand"} else one
        for one in pool["capacity"]
    ]
    kept = {key: value for key, value in pool.items() if key != "instance_type"}
    return {**kept, "provisioner": "karpenter", "instance_types": [pool["instance_type"]], "capacity": capacity}


def apart(model: dict[str, Any], prefill_pool: str) -> dict[str, Any]:
    """The same model with prefill and decode in groups of their own."""
    whole = {key: value for key, value in model.items() if key != "replicas"}
    groups = {"prefill": {"pool": prefill_pool}, "decode": {"replicas": model["replicas"]}}
    image = {**model["image"], "carries_efa": True, "carries_nixl": True}
    return {**whole, "disaggregated": groups, "image": image, "runtime": "auto"}


ROOMY = ["g6e.12xlarge", "g6e.48xlarge", "p4de.24xlarge", "p5.48xlarge", "p5en.48xlarge"]
SMALL_MODELS = [
    m for m in MODELS if CATALOG.models[m].params_billion < 80 and CATALOG.models[m].checkpoint.format == "bf16"
]


@st.composite
def stack_files(draw: st.DrawFn, *, sensible: bool = False) -> dict[str, Any]:
    """Real types in zones that offer them, models of the catalog, any runtime and cache; `sensible` ones mostly fit."""
    region = draw(st.sampled_from(["us-east-1", "us-east-2", "us-west-2"]))
    pools: list[dict[str, Any]] = []
    for pool_name in draw(st.lists(name, min_size=1, max_size=3, unique=True)):
        instance = draw(st.sampled_from(ROOMY if sensible else GPU_TYPES))
        zones = CATALOG.regions[region].offerings.get(instance) or (f"{region}a",)
        pool = {
            "name": pool_name,
            "instance_type": instance,
            "availability_zone": draw(st.sampled_from(sorted(zones))),
            "capacity": draw(rungs(blocks=not sensible or instance.startswith("p"))),
        }
        reserved = any("reservation" in rung for rung in pool["capacity"])
        if len(zones) > 1 and not reserved and draw(st.integers(0, 3)) == 0:
            del pool["availability_zone"]
            pool["availability_zones"] = sorted(zones)[:2]
        if draw(st.integers(0, 3)) == 0:
            pool["warm_nodes"] = 1
        pools.append(by_karpenter(pool) if draw(st.integers(0, 3)) == 0 else pool)
    models: list[dict[str, Any]] = []
    for model_name in draw(st.lists(name, min_size=1, max_size=3, unique=True)):
        low = draw(st.integers(1, 2))
        models.append(
            {
                "name": model_name,
                "model": draw(st.sampled_from(SMALL_MODELS if sensible else MODELS)),
                "revision": "0" * 40,
                "engine": draw(st.sampled_from(["vllm", "sglang"])),
                "runtime": draw(st.sampled_from(["auto", "auto", "deployment", "leader_worker_set", "ray_service"])),
                "pool": draw(st.sampled_from([p["name"] for p in pools])),
                "quantization": draw(st.sampled_from(["checkpoint", "fp8_weight_only" if sensible else "fp8"])),
                "context_tokens": draw(st.sampled_from([2048, 8192, 32768])),
                "replicas": {"min": low, "max": low + draw(st.integers(0, 3))},
                "warm_replicas": draw(st.sampled_from([0, 0, 0, 1, 2])),
                "objectives": {"tpot_p99_ms": 200},
                "image": {"repository": "example.com/engine", "tag": "v1", "carries_efa": draw(st.booleans())},
            }
        )
        if draw(st.integers(0, 3)) == 0:
            models[-1]["kv_offload"] = draw(kv_offloads)
            models[-1]["image"]["carries_lmcache"] = draw(st.booleans())
        if draw(st.integers(0, 3)) == 0:
            models[-1] = apart(models[-1], draw(st.sampled_from([p["name"] for p in pools])))
    cache = draw(
        st.sampled_from(
            [
                {"kind": "s3"},
                {"kind": "fsx_lustre", "storage_gib": 2400, "throughput_mbps_per_tib": 250},
                {"kind": "fsx_lustre", "storage_gib": 9600, "throughput_mbps_per_tib": 1000},
            ]
        )
    )
    platform = {
        "environment": draw(name),
        "target": {
            "kind": "eks",
            "kubernetes_version": draw(st.sampled_from(["1.34", "1.35", "1.36"])),
            "admins": ["arn:aws:iam::111122223333:role/platform"],
            "endpoint": {"access": "public_and_private", "admin_cidrs": ["203.0.113.0/24"]},
        },
        "network": {"kind": "create", "egress": draw(st.sampled_from(["nat_gateway", "nat_gateway_per_zone"]))},
        "pools": pools,
        "cache": cache,
        "models": models,
        "protection": draw(st.sampled_from(["none", "data", "all"])),
        "kv_store": draw(st.sampled_from([None, {"memory_gib": 4}])),
    }
    return {"config": {"aws:region": region, PLATFORM: platform}}


kv_offloads = st.one_of(
    st.fixed_dictionaries({"cpu_gib": st.integers(1, 64)}),
    st.fixed_dictionaries(
        {
            "cpu_gib": st.integers(1, 64),
            "through": st.just("lmcache"),
            "remote": st.sampled_from(["none", "valkey"]),
        }
    ),
)


def written(directory: Path, data: dict[str, Any]) -> Path:
    path = directory / "Pulumi.any.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=stack_files())
def test_every_file_plans_or_says_where_it_is_wrong(tmp_path, data):
    try:
        plan = load_and_plan(written(tmp_path, data))[1]
    except StackFileError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.position is not None, str(error)
            assert problem.message
        return
    for model in plan.models:
        pool = plan.pool(model.pool)
        assert model.container.gpus <= pool.hardware.gpus
        assert model.container.cpu < pool.hardware.vcpus
        assert model.container.memory_gib < pool.hardware.memory_gib
        assert model.container.shared_memory_gib < model.container.memory_gib
        assert model.memory.max_sequences >= 1
        talks = model.layout.nodes > 1 or model.disaggregation is not None
        assert talks == (model.container.efa_devices > 0)
    assert plan.cost.idle_usd_per_hour <= plan.cost.peak_usd_per_hour


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=stack_files(sensible=True))
def test_what_plans_also_builds_and_previews_alike(tmp_path, data):
    try:
        plan = load_and_plan(written(tmp_path, data))[1]
    except StackFileError:
        return
    up = deploy(lambda: program.build(plan) and None, stack="any")
    preview = deploy(lambda: program.build(plan) and None, stack="any", preview=True)
    assert up.inventory() == preview.inventory()


mutation = st.one_of(
    st.none(), st.integers(-5, 5), st.text(max_size=8), st.lists(st.integers(), max_size=2), st.just({}), st.booleans()
)


def paths_of(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += paths_of(value, (*prefix, key))
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=stack_files(), value=mutation, pick=st.randoms(use_true_random=False))
@example(data={"config": {PLATFORM: {"pools": None}}}, value=None, pick=None)
def test_whatever_is_put_anywhere_is_told_without_a_traceback(tmp_path, data, value, pick):
    broken = copy.deepcopy(data)
    if pick is not None:
        platform = broken["config"][PLATFORM]
        path = pick.choice(paths_of(platform))
        node = platform
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    try:
        load_and_plan(written(tmp_path, broken))
    except StackFileError as error:
        assert error.problems
        assert "Traceback" not in str(error)
