"""What ranks hold, kept on the cache: who writes it, what a start then takes, and where it cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.assumptions import assumed
from catalog.load import load
from planner import Plan, load_and_plan
from planner.engines.checks import refused
from planner.engines.matrix import matrix, stack_of
from planner.engines.request import saved_shards, sharded_state
from planner.plan import ModelPlan
from planner.planning import plan
from planner.shards import WORTH_SECONDS
from tests.factories import stack_plan
from tests.planner.test_revisions import refused as told
from tests.stacks import changed

SHARDED = {"engine": "vllm", "load": "sharded"}
ASKED = {"models.1.engine_options": SHARDED}


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return load_and_plan(changed(tmp_path_factory.mktemp("one"), "prod", ASKED))[1]


@pytest.fixture(scope="module")
def over_two() -> ModelPlan:
    """405 billion parameters in 16 bit: two nodes of H100."""
    (found,) = [row.plan for row in matrix() if row.case.name == "shards of two nodes on vLLM"]
    assert found is not None
    return found


def steps(model: ModelPlan) -> dict[str, float]:
    return {one.name: float(one.value) for one in model.numbers if one.section == "start"}


class TestVllm:
    def test_the_engine_reads_what_an_init_container_has_written(self, over_two: ModelPlan) -> None:
        assert over_two.container.args[0] == sharded_state(over_two.weights)
        assert "--load-format=sharded_state" in over_two.container.args
        assert over_two.worker is not None
        assert over_two.worker.args[0] == sharded_state(over_two.weights)
        shards = next(one for one in over_two.weights.directories if one.name == "shards")
        assert (shards.mount_path, shards.read_only) == (saved_shards(over_two.weights), True)

    def test_the_path_tells_models_and_revisions_apart_as_a_checkpoint_s_does(self) -> None:
        """LMCache finds blocks in a store that models share by the path that vLLM is given, and by the tokens."""
        saved = {row.case.name: row.plan for row in matrix() if row.plan and row.plan.container.saving_args}
        assert len(saved) > 1
        for one in saved.values():
            assert f"/{one.weights.hub_id}/{one.weights.revision}/" in one.container.args[0]

    def test_it_is_written_as_the_engine_holds_it(self, over_two: ModelPlan) -> None:
        written = over_two.container.saving_args
        engines = set(over_two.container.args)
        own = {"--safetensors-load-strategy=prefetch", "--enforce-eager", "--max-num-batched-tokens=2048"}
        assert set(written) - engines == own
        alike = (
            "tensor-parallel-size",
            "pipeline-parallel-size",
            "max-model-len",
            "nnodes",
            "node-rank",
            "master-port",
        )
        for name in alike:
            assert any(token.startswith(f"--{name}=") for token in written), name
        assert not any(token.startswith(("--load-format", "--port", "--kv-transfer-config")) for token in written)
        # The first pod's line, and what the script makes of it for the others.
        for more in ((), ("--headless",)):
            assert refused([over_two.weights.directory, *written, *more], "vllm") == []

    def test_each_node_of_two_reads_half_from_the_second_start_on(self, over_two: ModelPlan) -> None:
        shards, load = over_two.weights.shards, over_two.weights.load
        assert shards is not None
        assert shards.gigabytes_per_node == pytest.approx(811.7 / 2, abs=0.1)
        # The init container reads and checks; then the engine copies out of the node's memory.
        assert shards.read_seconds == pytest.approx(load.seconds / 2, abs=0.1)
        copied = shards.gigabytes_per_node * 1000 / assumed("shards_into_gpus_mb_per_s_8_ranks")
        assert shards.seconds == pytest.approx(shards.read_seconds + copied, abs=0.1)
        assert shards.seconds < load.seconds - WORTH_SECONDS
        why = over_two.why["way of loading"]
        assert "405.9 GB a node and have it after 119 s in place of 173 s" in why
        assert "init container on the same GPUs" in why
        assert "prefetch" not in why

    def test_a_first_start_loads_twice_and_writes_and_a_later_one_only_reads(self, over_two: ModelPlan) -> None:
        shards, found = over_two.weights.shards, steps(over_two)
        assert shards is not None
        # Process and load; then what all nodes write, and the first reads of the other's for its checksums.
        assert shards.before_seconds == pytest.approx(60 + over_two.weights.load.seconds, abs=0.1)
        assert found["checkpoint into the GPUs, to be written as shards"] == shards.before_seconds
        assert found["shards written"] == shards.write_seconds
        assert found["shards into the GPUs"] == shards.seconds
        again = found["ready again, with what an earlier start left on the cache"]
        assert again <= over_two.startup_seconds - shards.init_seconds + 1

    def test_the_startup_probe_begins_after_the_init_container(self, on_one_node: Plan) -> None:
        model, plain = on_one_node.models[1], stack_plan("prod").models[1]
        assert model.weights.shards is not None
        assert model.startup_seconds > plain.startup_seconds + 60
        assert model.container.startup == plain.container.startup
        assert model.weights.shards.limit_seconds > 2 * model.weights.shards.init_seconds

    def test_on_one_node_it_can_be_had_and_the_plan_says_that_it_gains_nothing(self, on_one_node: Plan) -> None:
        model = on_one_node.models[1]
        assert model.weights.shards is not None
        assert model.weights.shards.seconds > model.weights.load.seconds
        assert "It pays where a replica spans nodes" in model.why["way of loading"]
        (remark,) = [
            one.message for one in on_one_node.findings if one.subject == "models[1]" and "sharded" in one.message
        ]
        assert re.search(r"makes a start \d+ s slower, for 141 GB more on the cache", remark)

    def test_it_is_a_second_copy_on_the_cache(self, on_one_node: Plan) -> None:
        extra = on_one_node.cache.planned_gigabytes - stack_plan("prod").cache.planned_gigabytes
        assert extra == pytest.approx(141.1)

    def test_a_plan_over_nodes_says_what_it_would_save(self, over_two: ModelPlan) -> None:
        (row,) = [row for row in matrix() if row.case.name == "shards of two nodes on vLLM"]
        settings, region = stack_of(replace(row.case, entry={}), load())
        (plain,) = plan(settings, stack="matrix", region=region, catalog=load()).models
        assert plain.weights.shards is None
        why = plain.why["way of loading"]
        assert "`engine_options.load: sharded` would read 405.9 GB a node in place of 811.7" in why
        (longer,) = re.findall(r"812 GB more on the cache and (\d+) s more at the first start", why)
        assert int(longer) == pytest.approx(over_two.startup_seconds - plain.startup_seconds, abs=1)

    def test_replicas_that_start_together_are_no_problem(self, tmp_path: Path) -> None:
        changes = {**ASKED, "models.1.replicas": {"min": 2, "max": 3}}
        assert load_and_plan(changed(tmp_path, "prod", changes))[1].models[1].weights.shards is not None

    def test_other_options_of_the_engine_find_other_shards(self, tmp_path: Path, on_one_node: Plan) -> None:
        options = {**SHARDED, "extra_args": ["--dtype=float16"]}
        model = load_and_plan(changed(tmp_path, "prod", {"models.1.engine_options": options}))[1].models[1]
        here = {one.name: one.sub_path for one in model.weights.directories}
        there = {one.name: one.sub_path for one in on_one_node.models[1].weights.directories}
        assert here["shards"] != there["shards"]
        assert "--dtype=float16" in model.container.saving_args

    @pytest.mark.parametrize(
        ("changes", "words", "nearest"),
        [
            ({"models.2.engine_options": SHARDED}, "one GPU holds the whole checkpoint", "spread it over GPUs"),
            ({**ASKED, "cache": {"kind": "s3"}}, "there is none in the pool's zone", "kind: fsx_lustre"),
            ({**ASKED, "models.1.runtime": "ray_service"}, "Ray Serve starts an engine's ranks itself",
             "runtime deployment"),
            ({**ASKED, "models.1.quantization": "fp8_weight_only"}, "saves fp8_weight_only weights as its kernels",
             "engine sglang"),
            ({**ASKED, "models.1.model": "Qwen/Qwen3-30B-A3B"}, "rearrange the weights of experts", "engine sglang"),
            ({**ASKED, "models.1.model": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"}, "saves awq_int4",
             "engine sglang"),
            ({"models.1.engine_options": {**SHARDED, "lora": {"concurrent": 1, "adapters": [
                {"name": "legal", "source": "acme/legal", "revision": "1" * 40, "rank": 16}
            ]}}}, "no shards of a model with adapters", "merge the adapter"),
            ({"models.1.engine_options": {**SHARDED, "speculation": {
                "kind": "eagle3", "model": "acme/eagle3", "revision": "3" * 40, "gigabytes": 3.2
            }}}, "saves the model alone", "kind: ngram"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_save_is_refused_with_what_works(
        self, tmp_path: Path, changes: dict[str, Any], words: str, nearest: str
    ) -> None:
        said = told(tmp_path, changes)
        assert words in said
        assert nearest in said
        assert "leave it at `checkpoint`" in said
        assert "Pulumi.prod.yaml:" in said

    def test_on_nodes_that_exist_no_file_system_of_aws_is_proposed(self, tmp_path: Path) -> None:
        said = told(tmp_path, {"models.0.engine_options": SHARDED}, "local")
        assert "not every claim has one" in said
        assert "leave it at `checkpoint`" in said
        assert "fsx_lustre" not in said
