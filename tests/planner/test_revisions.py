"""Revisions side by side, what is read beside them, what must fit the cache, and how long a start takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner import Plan, PlanError, load_and_plan
from planner.plan import ModelPlan
from settings.errors import StackFileError
from tests.factories import stack_plan
from tests.stacks import PLATFORM, changed, document

NEXT = "a" * 40
LORA = {
    "engine": "vllm",
    "lora": {"concurrent": 2, "adapters": [
        {"name": "legal", "source": "acme/llama-legal", "revision": "1" * 40, "rank": 16},
        {"name": "support", "source": "acme/llama-support", "revision": "2" * 40, "rank": 64},
    ]},
}  # fmt: skip
ADAPTED = {"models.2.engine_options": LORA, "models.2.routing": {"kind": "service"}}
DRAFT = {
    "engine": "vllm",
    "speculation": {"kind": "eagle3", "model": "acme/eagle3", "revision": "3" * 40, "gigabytes": 3.2},
}
SHARDED = {"models.0.engine_options": {"engine": "sglang", "load": "sharded"}}


def planned(directory: Path, changes: dict[str, Any], stack: str = "prod", **more: Any) -> Plan:
    return load_and_plan(changed(directory, stack, changes, **more))[1]


def refused(directory: Path, changes: dict[str, Any], stack: str = "prod", **more: Any) -> str:
    with pytest.raises((StackFileError, PlanError)) as error:
        load_and_plan(changed(directory, stack, changes, **more))
    return str(error.value)


def number(model: ModelPlan, name: str) -> float:
    return next(float(one.value) for one in model.numbers if one.name == name)


class TestRevisions:
    def test_adapters_and_drafts_are_warmed_and_waited_for_like_the_model(self, tmp_path: Path) -> None:
        plan = planned(tmp_path, {"models.1.engine_options": DRAFT, **ADAPTED})
        drafted, adapted = plan.models[1], plan.models[2]
        assert [one.kind for one in drafted.weights.read] == ["model", "draft"]
        assert [one.hub_id for one in adapted.weights.beside] == ["acme/llama-legal", "acme/llama-support"]
        by_name = {warmup.weights.hub_id: warmup for warmup in plan.warmups}
        assert by_name["acme/eagle3"].models == ("r1-distill-70b",)
        assert by_name["acme/llama-legal"].models == ("llama-8b",)
        assert {one.weights.ready_marker for one in plan.warmups_of("llama-8b")} == {
            one.ready_marker for one in adapted.weights.read
        }
        # What the engine is told is where the Job looks.
        line = " ".join(adapted.container.args)
        assert all(f"={one.directory}" in line for one in adapted.weights.beside)

    def test_load_times_count_them(self, tmp_path: Path) -> None:
        before, after = stack_plan("prod").models[1], planned(tmp_path, {"models.1.engine_options": DRAFT}).models[1]
        assert after.weights.load.gigabytes_per_node == pytest.approx(before.weights.load.gigabytes_per_node + 3.2)
        assert after.weights.load.seconds > before.weights.load.seconds

    def test_what_comes_next_is_warmed_and_nobody_waits_for_it(self, tmp_path: Path) -> None:
        plan = planned(tmp_path, {"models.2.next_revision": NEXT})
        (upcoming,) = [warmup for warmup in plan.warmups if warmup.weights.revision == NEXT]
        assert upcoming.models == ()
        assert upcoming.name.endswith(NEXT[:8])
        assert NEXT not in " ".join(plan.models[2].container.args)

    def test_what_comes_next_must_differ(self, tmp_path: Path) -> None:
        same = stack_plan("prod").models[2].weights.revision
        words = refused(tmp_path, {"models.2.next_revision": same})
        assert "is the revision that is served" in words
        assert "Pulumi.prod.yaml:" in words

    def test_one_job_for_a_revision_that_several_models_read(self, tmp_path: Path) -> None:
        again = {
            **document("prod")["config"][PLATFORM]["models"][2],
            "name": "llama-again",
            "replicas": {"min": 0, "max": 1},
        }
        plan = planned(tmp_path, {"models.3": again, "pools.2.capacity.1.nodes.max": 9})
        shared = [warmup for warmup in plan.warmups if "llama-8b" in warmup.models]
        assert [warmup.models for warmup in shared] == [("llama-8b", "llama-again")]
        # Each has kernels of its own: what one compiled, the other cannot change.
        assert {path.split("/")[1] for path in shared[0].directories} == {"llama-8b", "llama-again"}


class TestSize:
    def test_a_cache_that_cannot_hold_what_is_kept_is_refused_with_the_nearest_size(self, tmp_path: Path) -> None:
        words = refused(tmp_path, {"cache.storage_gib": 1200}, removed=("cache.load_seconds",))
        assert "1200 GiB hold 1224 GB" in words
        assert "846 GB of revisions" in words
        assert "846 GB of 1 earlier one(s) of each" in words
        assert "`storage_gib: 2400` is the nearest" in words
        assert "keep_revisions: 0" in words
        assert "Pulumi.prod.yaml:" in words
        planned(tmp_path, {"cache.storage_gib": 2400, "models.0.traffic": None}, removed=("cache.load_seconds",))

    def test_what_is_kept_and_what_comes_next_count(self, tmp_path: Path) -> None:
        changes: dict[str, Any] = {"cache.storage_gib": 2400, "cache.keep_revisions": 0}
        small = planned(tmp_path, changes, removed=("cache.load_seconds",))
        more = planned(tmp_path, {**changes, "models.0.next_revision": NEXT}, removed=("cache.load_seconds",))
        assert more.cache.planned_gigabytes == pytest.approx(small.cache.planned_gigabytes + 688.6)
        words = refused(tmp_path, {**changes, "cache.keep_revisions": 2}, removed=("cache.load_seconds",))
        assert "`storage_gib: 4800`" in words

    def test_a_claim_is_judged_alike(self, tmp_path: Path) -> None:
        words = refused(tmp_path, {"cache.storage_gib": 100}, "local")
        assert "`storage_gib: 140` is the nearest" in words


class TestStart:
    def test_r1_has_its_weights_within_3_2_minutes_and_is_ready_within_12(self) -> None:
        model = stack_plan("prod").models[0]
        load = model.weights.load
        assert load.gigabytes_per_node == 688.6
        assert load.seconds <= 3.2 * 60
        assert sum(share.nodes for share in load.shares) == load.readers == 6
        # The arithmetic, anew: every reader is given as much, from the disks of 9.375 TiB.
        served = 2 * 688.6 + 2 * 141.1 + 2 * 16.1
        assert load.seconds == pytest.approx(max(688.6 / 11, served / 9.375), abs=0.06)
        assert model.startup_seconds <= 12 * 60

    @pytest.mark.parametrize("changes", [{"cache.storage_gib": 7200}, {"cache.throughput_mbps_per_tib": 500}])
    def test_a_smaller_cache_is_too_slow_for_it(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        words = refused(tmp_path, changes)
        assert "deepseek-r1 has its weights after" in words
        slower = planned(tmp_path, changes, removed=("cache.load_seconds",)).models[0]
        assert slower.weights.load.seconds > 3.2 * 60

    def test_each_step_is_shown_and_they_add_up(self) -> None:
        model = stack_plan("prod").models[0]
        steps = [
            number(model, name)
            for name in (
                "image",
                "check of EFA",
                "weights into the GPUs",
                "kernels compiled (DeepGEMM)",
                "process, profiling, torch.compile and CUDA graphs",
            )
        ]
        assert number(model, "ready, cold, on a node that is there") == model.startup_seconds
        assert sum(steps) == pytest.approx(model.startup_seconds, abs=1)
        assert number(model, "weights into the GPUs") == model.weights.load.seconds
        # A later start finds the kernels; nothing is planned with that.
        assert number(model, "ready again, with what an earlier start left on the cache") < model.startup_seconds

    def test_kernels_that_go_with_the_pod_are_compiled_each_time(self, tmp_path: Path) -> None:
        model = planned(tmp_path, {"cache.compiled_kernels": "pod"}).models[0]
        assert model.weights.directories == ()
        assert not [one for one in model.numbers if one.name.startswith("ready again")]
        env = {one.name: one.value for one in model.container.env}
        assert env["SGLANG_DG_CACHE_DIR"] == "/var/cache/engine/compiled/sglang/deep_gemm"

    def test_every_time_out_outlasts_a_cold_start(self) -> None:
        prod = stack_plan("prod")
        for model in (*prod.models, *stack_plan("staging").models):
            env = {one.name: one.value for one in model.container.env}
            probe = model.container.startup
            if probe is not None:
                assert probe.period_seconds * probe.failure_threshold >= 2 * model.startup_seconds
            if model.engine == "vllm":
                assert int(env["VLLM_ENGINE_READY_TIMEOUT_S"] or 0) >= 2 * model.startup_seconds
            if model.runtime == "ray_service":
                assert int(env["RAYLLM_ENGINE_START_TIMEOUT_S"] or 0) >= 2 * model.startup_seconds
            assert model.scaling.initial_delay_seconds > model.startup_seconds
            if model.layout.gpus > 1:
                assert _collective_seconds(model) >= 2 * model.startup_seconds
            if model.scaling.idle_seconds is not None:
                assert model.scaling.idle_seconds >= model.startup_seconds

    def test_slow_ranks_of_one_node_are_waited_for_too(self, tmp_path: Path) -> None:
        slow = {"cache.throughput_mbps_per_tib": 125, "cache.storage_gib": 2400, "cache.keep_revisions": 0}
        model = planned(tmp_path, slow, removed=("cache.load_seconds",)).models[1]
        assert model.layout.nodes == 1
        wait = model.start_limit_seconds
        assert wait >= 2 * model.startup_seconds > 1800
        assert f"--distributed-timeout-seconds={wait}" in model.container.args
        assert f"--cpu-distributed-timeout-seconds={wait}" in model.container.args


def _collective_seconds(model: ModelPlan) -> int:
    """What ranks wait for each other: as told, or PyTorch's 600 s."""
    options = [text for argument in model.arguments for text in argument.tokens]
    names = ("--distributed-timeout", "--dist-timeout", "distributed_timeout")
    told = [text for text in options if text.startswith(names)]
    return int(told[0].split("=")[1]) if told else 600


class TestKernels:
    def test_a_directory_is_of_one_model_image_revision_layout_and_gpu(self, tmp_path: Path) -> None:
        def directory(changes: dict[str, Any]) -> str:
            return planned(tmp_path, changes).models[2].weights.directories[0].sub_path

        own = directory({})
        assert own.startswith("compiled/llama-8b/")
        assert directory({"models.0.replicas.max": 2}) == own
        others = {
            directory({"models.2.name": "other"}),
            directory({"models.2.revision": NEXT}),
            directory({"models.2.image": {"repository": "example.com/vllm", "tag": "v9"}}),
            directory({"models.2.quantization": "fp8"}),
        }
        assert own not in others
        assert len(others) == 4

    def test_the_job_of_the_revision_makes_it_before_pods_start(self) -> None:
        plan = stack_plan("prod")
        for model in plan.models:
            made = {path for warmup in plan.warmups_of(model.name) for path in warmup.directories}
            assert {one.sub_path for one in model.weights.directories} <= made

    def test_streams_keep_nothing(self) -> None:
        (model,) = stack_plan("dev").models
        assert model.weights.directories == ()


class TestShards:
    def test_each_node_reads_its_part_from_the_second_start_on(self, tmp_path: Path) -> None:
        model = planned(tmp_path, SHARDED).models[0]
        shards = model.weights.shards
        assert shards is not None
        assert shards.gigabytes_per_node == pytest.approx(344.3)
        assert shards.seconds < model.weights.load.seconds
        assert "--load-format=presharded" in model.container.args
        # The first start reads all and writes: that is what probes allow for.
        assert model.startup_seconds == pytest.approx(
            stack_plan("prod").models[0].startup_seconds + shards.write_seconds, abs=1
        )
        assert {one.name for one in model.weights.directories} == {"compiled", "shards"}

    def test_they_count_as_a_second_copy(self, tmp_path: Path) -> None:
        extra = planned(tmp_path, SHARDED).cache.planned_gigabytes - stack_plan("prod").cache.planned_gigabytes
        assert extra == pytest.approx(688.6)

    def test_the_plan_says_what_they_would_save(self) -> None:
        why = stack_plan("prod").models[0].why["way of loading"]
        assert "`engine_options.load: sharded` would read 344.3 GB a node in place of 688.6" in why
        assert "sharded" not in stack_plan("prod").models[1].why["way of loading"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({**SHARDED, "models.0.replicas": {"min": 2, "max": 3}}, "2 replicas may start together"),
            ({**SHARDED, "models.0.autoscaling": {"floors": [
                {"start": "0 8 * * *", "end": "0 9 * * *", "replicas": 2}
            ]}}, "2 replicas may start together"),
            ({"models.2.engine": "sglang", "models.2.engine_options": {"engine": "sglang", "load": "sharded"}},
             "a replica on one node reads its checkpoint once"),
            ({**SHARDED, "cache": {"kind": "s3"}}, "there is none"),
        ],
    )  # fmt: skip
    def test_where_they_would_fail_or_gain_nothing_they_are_refused(
        self, tmp_path: Path, changes: dict[str, Any], words: str
    ) -> None:
        told = refused(tmp_path, changes)
        assert words in told
        assert "leave it at `checkpoint`" in told
        assert "Pulumi.prod.yaml:" in told
