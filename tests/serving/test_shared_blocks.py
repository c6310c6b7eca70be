"""KV blocks through LMCache and the store that replicas share: what pods are told, what is refused, what it gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import program
from catalog.assumptions import assumed
from components.serving import network_policy as model_policy
from components.valkey import network_policy, values
from planner import StackFileError, load_and_plan
from planner.engines.matrix import matrix
from planner.plan import ModelPlan, Plan
from tests.components.releases import pinned
from tests.harness import World, deploy
from tests.stacks import changed
from tests.upstream import chart_values

IMAGE = {"repository": "registry.example.com/vllm-kv", "tag": "v1", "carries_lmcache": True}
SHARED = {"cpu_gib": 8, "through": "lmcache", "remote": "valkey"}
STORE = {"memory_gib": 4}


def planned(directory: Path, stack: str = "dev", index: int = 0, **fields: Any) -> Plan:
    """A committed stack with a store of blocks, whose model keeps its own there."""
    entry = {"kv_offload": SHARED, "image": IMAGE, **fields}
    settings = {"kv_store": STORE, **{f"models.{index}.{key}": value for key, value in entry.items()}}
    return load_and_plan(changed(directory, stack, settings, removed=("budget",)))[1]


def environment(model: ModelPlan) -> dict[str, Any]:
    return {variable.name: variable.secret or variable.value for variable in model.container.env}


def world_of(plan: Plan) -> World:
    return deploy(lambda: program.build(plan) and None, stack=plan.stack)


def test_lmcache_is_told_its_ram_its_store_and_nothing_of_the_password(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    model, store = plan.models[0], plan.kv_store
    assert store is not None
    assert store.clients == (model.name,)
    env = environment(model)
    assert env["LMCACHE_MAX_LOCAL_CPU_SIZE"] == "8"
    assert env["KV_STORE_PASSWORD"] == (store.password.name, store.password.key)
    names = [variable.name for variable in model.container.env]
    assert names.index("KV_STORE_PASSWORD") < names.index("LMCACHE_EXTRA_CONFIG"), "the kubelet expands backwards only"
    url = json.loads(env["LMCACHE_EXTRA_CONFIG"])["remote_storage_plugin.redis.redis_url"]
    address, _, limits = url.partition("&")
    assert address == f"rediss://:$(KV_STORE_PASSWORD)@{store.host}:6379?ssl_ca_certs=/etc/kv-store-ca/ca.crt"
    assert "socket_connect_timeout=" in limits, "a store whose node is gone must not hold requests"
    assert env["LMCACHE_LOG_LEVEL"] == "WARNING", "it logs its configuration, the URL too, at INFO"
    assert env["LMCACHE_TRACK_USAGE"] == "false"
    (transfer,) = [arg for arg in model.container.args if arg.startswith("--kv-transfer-config=")]
    assert json.loads(transfer.partition("=")[2])["kv_connector"] == "LMCacheConnectorV1"
    assert not any("kv-offloading" in arg for arg in model.container.args)


def test_pods_trust_the_store_and_reach_it(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    model, store = plan.models[0], plan.kv_store
    assert store is not None
    (record,) = [one for one in world_of(plan) if one.name == f"{model.name}-workload"]
    pod = record.inputs["spec"]["template"]["spec"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "kv-store-ca"]
    assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"], "the server's key is not the engine's"
    assert any(mount["mountPath"] == "/etc/kv-store-ca" for mount in pod["containers"][0]["volumeMounts"])
    ports = [rule.get("ports", [{}])[0].get("port") for rule in model_policy.rules(model)["egress"]]
    assert store.port in ports
    assert len(network_policy(store)["ingress"][0]["from"]) == 1 + len(store.clients)


def test_the_store_of_blocks_forgets_and_the_store_of_state_does_not(tmp_path: Path) -> None:
    """One policy is of a whole server: a full cache would block the writes of Ray's state, or throw it away."""
    settings = {"valkey": {"storage_gib": 4}, "kv_store": {"memory_gib": 2}}
    plan = load_and_plan(changed(tmp_path, "staging", settings, removed=("budget",)))[1]
    assert plan.valkey is not None
    assert plan.kv_store is not None
    state, blocks = values(plan.valkey, None), values(plan.kv_store, None)
    assert "noeviction" in state["valkeyConfig"]
    assert "allkeys-lru" in blocks["valkeyConfig"]
    assert "appendonly no" in blocks["valkeyConfig"]
    assert "dataStorage" not in blocks
    assert set(blocks) <= set(chart_values("valkey", pinned("valkey").version))
    releases = {one.inputs["name"] for one in world_of(plan) if one.type == "kubernetes:helm.sh/v3:Release"}
    assert {"valkey", "kv-store"} <= releases
    assert plan.valkey.password.name != plan.kv_store.password.name
    assert any(finding.subject == "kv_store" for finding in plan.findings), "a store that nobody uses"


def test_the_store_is_best_in_the_zone_of_those_who_fetch(tmp_path: Path) -> None:
    """Traffic between zones costs; without a node there it runs elsewhere all the same."""
    plan = planned(tmp_path)
    assert plan.kv_store is not None
    (preferred,) = values(plan.kv_store, None)["affinity"]["nodeAffinity"].values()
    zones = preferred[0]["preference"]["matchExpressions"][0]["values"]
    assert tuple(zones) == plan.pool(plan.models[0].pool).zones


def test_only_models_with_blocks_in_the_store_wait_for_it(tmp_path: Path) -> None:
    world = world_of(planned(tmp_path, "prod", index=2))
    (store,) = [one for one in world if one.name == "kv-store-store"]
    waits = {one.name: store.urn in one.depends_on for one in world if one.name.endswith("-workload")}
    assert waits == {"deepseek-r1-workload": False, "r1-distill-70b-workload": False, "llama-8b-workload": True}


def test_ranks_of_latent_attention_keep_one_copy() -> None:
    (row,) = [row for row in matrix() if row.case.name.startswith("latent attention's blocks")]
    assert row.plan is not None
    assert row.plan.kv_tiers is not None
    env = environment(row.plan)
    first = json.loads(env["LMCACHE_EXTRA_CONFIG"])["first_rank_max_local_cpu_size"]
    each = float(env["LMCACHE_MAX_LOCAL_CPU_SIZE"])
    assert first + each * (row.plan.layout.gpus - 1) == row.plan.kv_tiers.cpu_gib
    assert row.plan.kv_tiers.tokens == int(first * 2**30 / row.plan.memory.kv_bytes_per_token)


def test_what_a_fetch_takes_is_told_and_remarked_on_where_computing_is_faster(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    model = plan.models[0]
    assert "4 GiB of `kv-store` keep" in model.why["kv_store"]
    assert "slower than" in model.why["kv_store"]
    assert any("saves GPU work" in finding.message for finding in plan.findings)
    tokens = int(4 * 2**30 / 131_072)
    assert f"{tokens:,} tokens" in model.why["kv_store"]
    # Half a context of 128 KiB a token, at the least of what the store sends and both nodes' networks.
    rate = min(assumed("valkey_mb_per_s"), plan.pool(model.pool).hardware.card0_gbps * 125)
    least = model.context_tokens / 2 * 131_072 / 1000 / rate
    assert int(model.why["kv_store"].partition("fetched in ")[2].split()[0]) >= int(least)


def test_vllm_maps_its_own_blocks_into_shared_memory(tmp_path: Path) -> None:
    """Its start fails where /dev/shm is smaller; a file system in memory counts to the pod's memory."""
    plain = planned(tmp_path, kv_offload={"cpu_gib": 1}, image=None).models[0]
    more = planned(tmp_path, kv_offload={"cpu_gib": 8}, image=None).models[0]
    assert more.container.shared_memory_gib - plain.container.shared_memory_gib == 7
    assert more.container.memory_gib == plain.container.memory_gib
    through = planned(tmp_path).models[0]
    assert through.container.shared_memory_gib == plain.container.shared_memory_gib - 1


def test_the_file_of_an_engine_over_two_nodes_is_whole_on_each(tmp_path: Path) -> None:
    layout = {"tensor": 8, "pipeline": 2}
    fields = {"kv_offload": {"cpu_gib": 100}, "engine": "vllm", "layout": layout}
    settings = {f"models.0.{key}": value for key, value in fields.items()}
    model = load_and_plan(changed(tmp_path, "prod", settings, removed=("budget",)))[1].models[0]
    assert model.kv_tiers is not None
    assert model.kv_tiers.region_gib == 200
    assert "--kv-offloading-size=200" in model.container.args


BAD: list[tuple[str, str, int, dict[str, Any], str, str]] = [
    ("no store", "dev", 0, {"kv_store": None}, "kv_offload.remote", "kv_store: {memory_gib:"),
    ("no LMCache in the image", "dev", 0, {"image": None}, "kv_offload.through", "vllm-efa-kv"),
    ("on SGLang", "dev", 0, {"engine": "sglang"}, "kv_offload.through", "HiCache"),
    ("on Ray", "staging", 0, {"runtime": "ray_service"}, "kv_offload.through", "older vLLM"),
    (
        "without a cache of prefixes",
        "dev",
        0,
        {"engine_options": {"engine": "vllm", "prefix_caching": False}},
        "kv_offload.cpu_gib",
        "leave one of the two out",
    ),
    (
        "with adapters",
        "prod",
        1,
        {
            "engine_options": {
                "engine": "vllm",
                "lora": {"adapters": [{"name": "a", "source": "acme/a", "revision": "a" * 40, "rank": 16}]},
            }
        },
        "kv_offload.through",
        "blocks of another",
    ),
    ("over nodes", "prod", 0, {"engine": "vllm", "layout": {"tensor": 8, "pipeline": 2}}, "through", "one node"),
    (
        "with windows",
        "dev",
        0,
        {"model": "openai/gpt-oss-20b", "quantization": "checkpoint"},
        "kv_offload.through",
        "the engine's own offloading",
    ),
    ("beyond the RAM", "dev", 0, {"kv_offload": {**SHARED, "cpu_gib": 4000}}, "kv_offload.cpu_gib", "do not fit"),
    (
        "a store for the engine's own blocks",
        "dev",
        0,
        {"kv_offload": {"cpu_gib": 8, "remote": "valkey"}},
        "kv_offload.remote",
        "through: lmcache",
    ),
    ("a store larger than a node", "dev", 0, {"kv_store": {"memory_gib": 500}}, "kv_store.memory_gib", "half of a"),
    ("a model of its name", "dev", 0, {"name": "kv-store"}, "models[0].name", "call it otherwise"),
]


@pytest.mark.parametrize(("name", "stack", "index", "fields", "where", "words"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_shared_is_refused(
    name: str, stack: str, index: int, fields: dict[str, Any], where: str, words: str, tmp_path: Path
) -> None:
    entry = {"kv_offload": SHARED, "image": IMAGE, **{key: value for key, value in fields.items() if key != "kv_store"}}
    settings = {
        "kv_store": fields.get("kv_store", STORE),
        **{f"models.{index}.{key}": value for key, value in entry.items()},
    }
    with pytest.raises(StackFileError) as raised:
        load_and_plan(changed(tmp_path, stack, settings, removed=("budget",)))
    text = str(raised.value)
    assert where in text, name
    assert words in text, name
    assert f"Pulumi.{stack}.yaml:" in text, "the line is named"


def test_weights_that_are_quantised_otherwise_do_not_share_blocks(tmp_path: Path) -> None:
    first = {"kv_offload": SHARED, "image": IMAGE}
    settings: dict[str, Any] = {"kv_store": STORE, **{f"models.0.{key}": value for key, value in first.items()}}
    file = changed(tmp_path, "dev", settings, removed=("budget",))
    model = load_and_plan(file)[0].models[0].model_dump(mode="json", exclude_unset=True)
    settings["models.1"] = {**model, "name": "other", "quantization": "fp8"}
    with pytest.raises(StackFileError, match="quantised otherwise"):
        load_and_plan(changed(tmp_path, "dev", settings, removed=("budget",)))
