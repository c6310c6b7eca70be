"""The volume of weights and the Jobs that fill it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.scripts import save_shards, warm_up
from components.serving import saved_shards
from planner import Plan, load_and_plan
from planner.engines.matrix import matrix
from planner.plan import SecretPlan
from rehearsal.kubelet import awaited
from settings.secrets import PulumiSecret
from tests.crd_schemas import pod_template_problems
from tests.factories import STACKS, stack_plan
from tests.serving.worlds import manifest, serve
from tests.stacks import changed

JOB = "kubernetes:batch/v1:Job"
CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"


def test_the_lustre_volume_is_reserved_for_its_claim() -> None:
    world = serve(stack_plan("prod"))
    volume = manifest(world["kubernetes:core/v1:PersistentVolume", "model-cache-volume"])
    claim = manifest(world[CLAIM, "model-cache-claim"])
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
    assert volume["spec"]["claimRef"]["namespace"] == claim["metadata"]["namespace"]
    # An empty class: with none at all the default class would make another volume.
    assert claim["spec"]["storageClassName"] == "" == volume["spec"]["storageClassName"]
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert volume["spec"]["mountOptions"] == ["flock"]
    assert set(volume["spec"]["csi"]["volumeAttributes"]) == {"dnsname", "mountname"}


def test_a_file_system_that_grows_leaves_its_claim_alone() -> None:
    """The API server refuses to resize a claim that no class provisions."""
    world = serve(stack_plan("prod"))
    assert world["kubernetes:core/v1:PersistentVolume", "model-cache-volume"].ignore_changes == ("spec.capacity",)
    assert world[CLAIM, "model-cache-claim"].ignore_changes == ("spec.resources",)
    # One that a class provisions grows with the stack file.
    assert serve(stack_plan("local"))[CLAIM, "model-cache-claim"].ignore_changes == ()


def test_a_replaced_file_system_comes_beside_the_old_one() -> None:
    """Under a name of its own: else a volume that goes waits for its claim, and the claim for pods that stay."""
    world = serve(stack_plan("prod"))
    claim = world[CLAIM, "model-cache-claim"]
    volume = world["kubernetes:core/v1:PersistentVolume", "model-cache-volume"]
    handle = volume.inputs["spec"]["csi"]["volumeHandle"]
    for one in (claim, volume):
        assert one.inputs["metadata"]["name"].endswith(f"model-cache-{handle}")
        assert not one.delete_before_replace
    pods = [record for record in world if record.name.endswith(("-workload", "-job"))]
    assert len(pods) == 6
    for one in pods:
        assert claim.urn in one.depends_on
        assert f"'claimName': '{claim.inputs['metadata']['name']}'" in str(one.inputs)


def test_a_claim_of_a_cluster_is_not_awaited() -> None:
    claim = manifest(serve(stack_plan("local"))[CLAIM, "model-cache-claim"])
    assert claim["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
    assert "volumeName" not in claim["spec"]
    assert "storageClassName" not in claim["spec"]


def test_a_stack_that_streams_has_no_cache() -> None:
    world = serve(stack_plan("dev"))
    assert world.of_type(JOB) == ()
    assert world.of_type(CLAIM) == ()
    assert serve(stack_plan("dev"), preview=True).inventory() == world.inventory()
    # One whose weights are files needs no look into the bucket.
    assert "staged-weights-script" not in {record.name for record in serve(stack_plan("prod"))}


@pytest.mark.parametrize("stack", [stack for stack in STACKS if stack_plan(stack).warmups])
def test_a_job_makes_the_marker_that_pods_wait_for(stack: str) -> None:
    plan, world = stack_plan(stack), serve(stack_plan(stack))
    for warmup in plan.warmups:
        job = manifest(world[JOB, f"{warmup.name}-job"])
        assert job["metadata"]["name"].endswith(warmup.weights.revision[:8])
        assert "ttlSecondsAfterFinished" not in job["spec"]
        # Time spent waiting for a node must not fail it.
        assert "activeDeadlineSeconds" not in job["spec"]
        assert job["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"
        assert pod_template_problems(job["spec"]["template"]) == []
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert f"--marker={warmup.weights.ready_marker}" in container["args"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert "readOnly" not in mounts["models"]
        assert warmup.weights.directory.startswith(mounts["models"]["mountPath"])
        if warmup.pool is None:
            assert "nodeSelector" not in pod
            assert "tolerations" not in pod  # GPU nodes are tainted: a GPU never waits for a warm-up
        else:
            assert pod["nodeSelector"] == dict(plan.pool(warmup.pool).node_selector)
        assert "nvidia.com/gpu" not in container["resources"]["limits"]


def test_a_job_waits_for_its_claim_and_comes_before_its_pods() -> None:
    world = serve(stack_plan("prod"))
    claim = world[CLAIM, "model-cache-claim"].urn
    jobs = {record.name: record for record in world.of_type(JOB)}
    for job in jobs.values():
        assert claim in job.depends_on
    job = jobs["warm-deepseek-r1-2162-56d4cbbb-job"]
    (pods,) = [record for record in world if record.name == "deepseek-r1-workload"]
    assert job.urn in pods.depends_on


def test_wrong_bytes_fail_the_job_at_once() -> None:
    job = manifest(serve(stack_plan("prod"))[JOB, "warm-deepseek-r1-2162-56d4cbbb-job"])
    first, second = job["spec"]["podFailurePolicy"]["rules"]
    assert first["onExitCodes"]["values"] == [warm_up.EXIT_BROKEN]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert first["onExitCodes"]["containerName"] == container["name"]
    assert second["action"] == "Ignore"
    # A pod failure policy is only allowed with it.
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_script_is_shipped_whole() -> None:
    script = manifest(serve(stack_plan("prod"))["kubernetes:core/v1:ConfigMap", "model-cache-script"])
    assert script["data"]["warm_up.py"] == Path(warm_up.__file__).read_text()
    compile(script["data"]["warm_up.py"], "warm_up.py", "exec")


def test_the_hub_token_reaches_the_job_that_downloads_and_no_other() -> None:
    token = SecretPlan(
        namespace="inference", name="hub-token", key="token", source=PulumiSecret(kind="pulumi", name="hubToken")
    )
    base = stack_plan("local")
    world = serve(replace(base, warmups=tuple(replace(warmup, hub_token=token) for warmup in base.warmups)))
    secret = world["kubernetes:core/v1:Secret", "hub-token"]
    assert secret.secrets
    (job,) = world.of_type(JOB)
    assert secret.urn in job.depends_on
    env = manifest(job)["spec"]["template"]["spec"]["containers"][0]["env"]
    reference = {"secretKeyRef": {"name": "hub-token", "key": "token"}}
    assert {"name": "HF_TOKEN", "valueFrom": reference} in env
    # Buffers of hf_xet would exceed the memory limit, and an image's own HF_HOME may be on the read-only root.
    assert {"name": "HF_HUB_DISABLE_XET", "value": "1"} in env
    assert {"name": "HF_HOME", "value": "/tmp/huggingface"} in env  # noqa: S108
    assert "--source=hub" in manifest(job)["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.fixture(scope="module")
def with_adapters(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Adapters, shards, and a revision that comes next."""
    adapters = [
        {"name": name, "source": f"acme/{name}", "revision": digit * 40, "rank": 16}
        for name, digit in (("legal", "1"), ("support", "2"))
    ]
    changes = {
        "models.0.engine_options": {"engine": "sglang", "load": "sharded"},
        "models.1.next_revision": "a" * 40,
        "models.2.engine_options": {"engine": "vllm", "lora": {"adapters": adapters}},
        "models.2.routing": {"kind": "service"},
    }
    return load_and_plan(changed(tmp_path_factory.mktemp("adapters"), "prod", changes))[1]


def test_pods_wait_for_every_job_of_what_they_read_and_for_no_other(with_adapters: Plan) -> None:
    world = serve(with_adapters)
    jobs = {record.name: record for record in world.of_type(JOB)}
    made = {text for job in jobs.values() for text in _container(manifest(job)["spec"]["template"])["args"]}
    for name, count in (("deepseek-r1", 1), ("r1-distill-70b", 1), ("llama-8b", 3)):
        (workload,) = [record for record in world if record.name == f"{name}-workload"]
        waited = {job.name for job in jobs.values() if job.urn in workload.depends_on}
        assert waited == {f"{warmup.name}-job" for warmup in with_adapters.warmups_of(name)}
        assert len(waited) == count
    markers = _wait(manifest(next(record for record in world if record.name == "llama-8b-workload")))
    assert len(markers) == 3
    assert {f"--marker={marker}" for marker in markers} <= made
    pod = manifest(next(record for record in world if record.name == "llama-8b-workload"))["spec"]["template"]["spec"]
    paths = awaited(pod)
    assert len(paths) == 4  # and the directory for kernels
    assert set(paths.values()) <= made
    # What comes next is warmed, too.
    assert any(job.endswith("aaaaaaaa-job") for job in jobs)


def test_the_first_preview_lists_them_all(with_adapters: Plan) -> None:
    assert serve(with_adapters, preview=True).inventory() == serve(with_adapters).inventory()


def test_shards_are_a_mount_of_their_own_that_the_job_has_made(with_adapters: Plan) -> None:
    world = serve(with_adapters)
    groups = manifest(next(record for record in world if record.name == "deepseek-r1-workload"))["spec"]
    for template in groups["leaderWorkerTemplate"]["leaderTemplate"], groups["leaderWorkerTemplate"]["workerTemplate"]:
        mounts = {mount["mountPath"]: mount for mount in _container(template)["volumeMounts"]}
        assert mounts["/var/cache/shards"]["subPath"].startswith("shards/deepseek-r1/")
        assert "readOnly" not in mounts["/var/cache/shards"]
        assert mounts["/cache"]["readOnly"] is True
    job = manifest(world[JOB, "warm-deepseek-r1-2162-56d4cbbb-job"])
    made = {text for text in _container(job["spec"]["template"])["args"] if text.startswith("--shared-directory")}
    assert made == {
        f"--shared-directory=/cache/{mounts[path]['subPath']}" for path in ("/var/cache/shards", "/var/cache/kept")
    }


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """vLLM's shards of eight GPUs."""
    changes = {"models.1.engine_options": {"engine": "vllm", "load": "sharded"}}
    return load_and_plan(changed(tmp_path_factory.mktemp("sharded"), "prod", changes))[1]


@pytest.fixture(scope="module")
def template(sharded: Plan) -> Any:
    found = manifest(next(record for record in serve(sharded) if record.name == "r1-distill-70b-workload"))
    return found["spec"]["template"]


class TestShardsOfVllm:
    """Written by an init container on the engine's GPUs."""

    def test_it_runs_last_before_the_engine_with_what_the_engine_has(self, template: Any) -> None:
        assert pod_template_problems(template) == []
        engine, writer = _container(template), template["spec"]["initContainers"][-1]
        assert [one["name"] for one in template["spec"]["initContainers"]] == ["wait-for-weights", "save-shards"]
        for same in ("image", "resources", "securityContext"):
            assert writer[same] == engine[same], same
        assert writer["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert writer["securityContext"]["readOnlyRootFilesystem"] is True
        # It answers nobody and calls nobody: no secret reaches it.
        assert "secretKeyRef" not in str(writer)
        assert "secretKeyRef" in str(engine)

    def test_it_alone_may_write_the_shards(self, template: Any) -> None:
        engine, writer = _container(template), template["spec"]["initContainers"][-1]
        mounts = [{one["mountPath"]: one for one in container["volumeMounts"]} for container in (engine, writer)]
        (shards,) = [path for path in mounts[0] if path.startswith("/var/cache/shards/")]
        assert mounts[0][shards]["readOnly"] is True
        assert "readOnly" not in mounts[1][shards]
        assert mounts[1]["/cache"]["readOnly"] is True
        assert mounts[0][shards]["subPath"] == mounts[1][shards]["subPath"]

    def test_the_script_takes_its_line_and_is_shipped_whole(self, sharded: Plan, template: Any) -> None:
        world, writer = serve(sharded), template["spec"]["initContainers"][-1]
        script = world["kubernetes:core/v1:ConfigMap", "save-shards-script"]
        (volume,) = [one for one in template["spec"]["volumes"] if one["name"] == "save-shards"]
        packed = {item["path"]: manifest(script)["data"][item["key"]] for item in volume["configMap"]["items"]}
        assert packed == {
            f"components/scripts/{module}.py": Path(f"components/scripts/{module}.py").read_text(encoding="utf-8")
            for module in ("save_shards", "warm_up")
        }
        workload = next(record for record in world if record.name == "r1-distill-70b-workload")
        assert script.urn in workload.depends_on
        line: list[str] = writer["args"]
        options = dict(text.split("=", 1) for text in line[: line.index("--")])
        assert options["--shards"] in {mount["mountPath"] for mount in writer["volumeMounts"]}
        assert options["--checkpoint"].startswith("/cache/models/")
        assert (options["--ranks"], "--nodes" in options) == ("8", False)
        assert _container(template)["args"][0] == f"{options['--shards']}/{save_shards.STATE}"
        assert "--enforce-eager" in line[line.index("--") :]

    def test_the_first_preview_lists_it(self, sharded: Plan) -> None:
        assert serve(sharded, preview=True).inventory() == serve(sharded).inventory()
        assert "save-shards-script" not in {record.name for record in serve(stack_plan("prod"))}

    def test_pods_of_a_group_know_which_they_are(self) -> None:
        (model,) = [row.plan for row in matrix() if row.case.name == "shards of two nodes on vLLM"]
        assert model is not None
        assert model.worker is not None
        assert model.worker.saving_args == model.container.saving_args
        engine: dict[str, Any] = {"env": [], "resources": {}, "securityContext": {}, "volumeMounts": []}
        args = saved_shards.container(model, model.worker, engine)["args"]
        assert {"--ranks=16", "--nodes=$(LWS_GROUP_SIZE)", "--node=$(LWS_WORKER_INDEX)"} <= set(args)


def _container(template: Any) -> Any:
    (container,) = template["spec"]["containers"]
    return container


def _wait(workload: Any) -> list[str]:
    (waiting,) = [
        one for one in workload["spec"]["template"]["spec"]["initContainers"] if one["name"] == "wait-for-weights"
    ]
    return {item["name"]: item["value"] for item in waiting["env"]}["READY_MARKERS"].split()
