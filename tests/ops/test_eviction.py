"""What goes from the cache and what never does; the Job of the cluster runs the real script on a real directory."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from typer.testing import CliRunner

from components.scripts import cache_keeper
from ops import eviction
from ops.__main__ import app
from ops.cluster import Cluster
from ops.errors import FindingsError, UsageError
from ops.eviction import CacheEntry, FsxReleases, evict, judge, survey
from planner import Plan
from tests.factories import model_of, stack_plan
from tests.ops.api_server import ApiServer, write_kubeconfig

PROD = stack_plan("prod")
LLAMA = model_of(PROD, "llama-8b").weights
HUB = LLAMA.hub_id
PODS = "/api/v1/namespaces/inference/pods"
CLAIMS = "/api/v1/namespaces/inference/persistentvolumeclaims"


def old(digit: str) -> str:
    return f"models/{HUB}/{digit * 40}"


def entry(path: str, ready_at: float | None, size: int = 100, held: int | None = None) -> dict[str, Any]:
    return {"path": path, "bytes": size, "bytes_on_disk": size if held is None else held, "ready_at": ready_at}


def verdicts(found: list[dict[str, Any]], *, plan: Plan = PROD, **more: Any) -> dict[str, str]:
    given = {"named": frozenset[str](), "waiting": frozenset[str](), **more}
    return {one.path: one.verdict for one in judge(found, plan, **given)}


class TestJudge:
    def test_what_serves_and_the_newest_earlier_one_stay(self) -> None:
        found = [entry(LLAMA.object_prefix, 1.0), entry(old("1"), 5.0), entry(old("2"), 9.0), entry(old("3"), 2.0)]
        assert verdicts(found) == {
            LLAMA.object_prefix: "in use", old("1"): "evict", old("2"): "kept", old("3"): "evict"
        }  # fmt: skip
        assert verdicts(found, keep=2)[old("1")] == "kept"
        assert verdicts(found, keep=0)[old("2")] == "evict"

    def test_a_pod_that_still_runs_keeps_its_revision_and_takes_no_place_of_another(self) -> None:
        found = [entry(old("1"), 5.0), entry(old("2"), 9.0)]
        assert verdicts(found, named=frozenset({old("2")})) == {old("1"): "kept", old("2"): "in use"}

    def test_until_the_new_revision_serves_the_old_ones_are_the_way_back(self) -> None:
        assert verdicts([entry(old("1"), 5.0)], keep=0, waiting=frozenset({HUB})) == {old("1"): "held"}

    def test_what_the_file_system_has_released_frees_nothing(self) -> None:
        assert verdicts([entry(old("1"), None, size=10**9, held=512)]) == {old("1"): "released"}
        # On a claim there is no bucket behind it.
        local = stack_plan("local")
        assert verdicts([entry(old("1"), None, size=10**9, held=512)], plan=local) == {old("1"): "evict"}

    def test_drafts_adapters_and_what_comes_next_stay(self) -> None:
        upcoming = replace(LLAMA, revision="7" * 40, object_prefix=old("7"))
        weights = replace(LLAMA, upcoming=upcoming, beside=(replace(LLAMA, kind="adapter", object_prefix=old("8")),))
        plan = replace(PROD, models=(replace(model_of(PROD, "llama-8b"), weights=weights),))
        found = [entry(old("7"), None), entry(old("8"), 1.0)]
        assert verdicts(found, plan=plan, keep=0) == {old("7"): "in use", old("8"): "in use"}

    def test_repositories_and_kernels_that_nothing_names_go(self) -> None:
        (directory,) = (one.sub_path for one in LLAMA.directories)
        stale = f"compiled/llama-8b/{'0' * 12}"
        other = f"models/acme/gone/{'1' * 40}"
        found = [entry(directory, 1.0), entry(stale, 2.0), entry(other, 3.0)]
        assert verdicts(found) == {directory: "in use", stale: "evict", other: "evict"}
        assert verdicts(found, repository=HUB) == {directory: "in use", stale: "kept", other: "kept"}


class World:
    """A cluster whose Jobs run on a directory of this machine."""

    def __init__(self, api: ApiServer, root: Path) -> None:
        self.api, self.root, self.arguments = api, root, list[str]()
        api.on_create = self.created
        self.claim("model-cache-fs-0old", "2026-01-01T00:00:00Z")
        self.claim("model-cache-fs-0new", "2026-02-01T00:00:00Z")
        self.claim("something-else", "2026-03-01T00:00:00Z")

    def claim(self, name: str, created: str) -> None:
        metadata = {"name": name, "creationTimestamp": created}
        self.api.put(f"{CLAIMS}/{name}", {"metadata": metadata, "spec": {"volumeName": f"inference-{name}"}})

    def revision(self, path: str, *, ready: bool = True) -> Path:
        directory = self.root / path
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_bytes(os.urandom(1 << 16))
        if ready:
            (directory / ".ready").write_text("{}")
        return directory

    def pod(self, name: str, revision: str, *, ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        engine = {"name": "engine", "args": [f"--model-path=/cache/{revision}"]}
        self.api.put(f"{PODS}/{name}", {"spec": {"containers": [engine]}, "status": {"conditions": [condition]}})

    def serves(self) -> None:
        """Every planned model has a ready pod."""
        for model in PROD.models:
            self.pod(model.name, model.weights.object_prefix, ready=True)

    def created(self, path: str, item: dict[str, Any]) -> None:
        if item["kind"] != "Job":
            return
        (container,) = item["spec"]["template"]["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in item["spec"]["template"]["spec"]["volumes"]}
        # Where a file system was replaced, the newer one's.
        assert volumes["models"]["persistentVolumeClaim"]["claimName"] == "model-cache-fs-0new"
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        self.arguments = [text.replace("--root=/cache", f"--root={self.root}") for text in container["args"]]
        lines: list[str] = []
        stdout, cache_keeper.sys.stdout = cache_keeper.sys.stdout, _Lines(lines)  # type: ignore[assignment]
        try:
            code = cache_keeper.main(self.arguments)
        finally:
            cache_keeper.sys.stdout = stdout
        name = item["metadata"]["name"]
        at = f"{PODS}/{name}-x"
        self.api.put(at, {"metadata": {"labels": {"batch.kubernetes.io/job-name": name}}, "spec": {}})
        self.api.texts[f"{at}/log"] = "".join(lines)
        kind = "Failed" if code else "Complete"
        self.api.objects[path]["status"] = {"conditions": [{"type": kind, "status": "True"}]}


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


@pytest.fixture
def world(api: ApiServer, tmp_path: Path) -> World:
    return World(api, tmp_path / "cache")


class FakeReleases:
    def __init__(self) -> None:
        self.paths: list[str] = []

    def release(self, paths: Any) -> None:
        self.paths += paths


class TestInTheCluster:
    def test_on_lustre_markers_go_first_and_files_stay_for_the_release(self, world: World, cluster: Cluster) -> None:
        world.serves()
        world.revision(LLAMA.object_prefix)
        kept, gone = world.revision(old("1")), world.revision(old("2"))
        os.utime(gone / ".ready", (1, 1))
        stale = world.revision(f"compiled/llama-8b/{'0' * 12}", ready=False)
        entries = survey(cluster, PROD)
        assert {one.path for one in entries if one.verdict == "evict"} == {old("2"), f"compiled/llama-8b/{'0' * 12}"}
        releases = FakeReleases()
        done = evict(cluster, PROD, entries, releases)
        assert set(done) == {old("2"), f"compiled/llama-8b/{'0' * 12}"}
        assert releases.paths == [old("2")]
        assert not (gone / ".ready").exists()
        assert (gone / "model.safetensors").exists()  # deleting it would only hide what the bucket still has
        assert not stale.exists()
        assert (kept / ".ready").exists()
        # Nothing of the Jobs is left.
        assert not [path for path in world.api.objects if "cache-keeper" in path and "/pods/" not in path]

    def test_on_a_claim_the_files_go(self, world: World, cluster: Cluster) -> None:
        plan = stack_plan("local")
        (model,) = plan.models
        world.pod("a", model.weights.object_prefix, ready=True)
        one = f"models/{model.weights.hub_id}/{'1' * 40}"
        gone = world.revision(one)
        entries = survey(cluster, plan, keep=0)
        assert evict(cluster, plan, entries, None) == [one]
        assert not gone.exists()

    def test_a_revision_that_a_pod_took_up_meanwhile_stays(self, world: World, cluster: Cluster) -> None:
        world.serves()
        directory = world.revision(old("1"))
        entries = survey(cluster, PROD, keep=0)
        assert [one.verdict for one in entries] == ["evict"]
        world.pod("rolled-back", old("1"), ready=False)
        assert evict(cluster, PROD, entries, FakeReleases()) == []
        assert (directory / ".ready").exists()

    def test_a_sleeping_model_that_has_left_the_stack_file_alone_keeps_its_revision(
        self, world: World, cluster: Cluster
    ) -> None:
        world.serves()
        other = f"models/acme/asleep/{'1' * 40}"
        world.revision(other)
        collection = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/inference/leaderworkersets"
        world.api.put(f"{collection}/asleep", {"spec": {"args": [f"--model-path=/cache/{other}"]}})
        assert [one.verdict for one in survey(cluster, PROD)] == ["in use"]
        del world.api.objects[f"{collection}/asleep"]
        assert [one.verdict for one in survey(cluster, PROD)] == ["evict"]

    def test_an_update_that_is_under_way_holds_the_old_revision(self, world: World, cluster: Cluster) -> None:
        world.revision(old("1"))
        world.pod("new", LLAMA.object_prefix, ready=False)
        assert [one.verdict for one in survey(cluster, PROD, keep=0)] == ["held"]
        world.pod("new", LLAMA.object_prefix, ready=True)
        assert [one.verdict for one in survey(cluster, PROD, keep=0)] == ["evict"]

    def test_the_script_refuses_what_it_was_told_to_keep(self, world: World, cluster: Cluster) -> None:
        directory = world.revision(old("1"))
        argument = CacheEntry(path=old("1"), bytes=1, bytes_on_disk=1, ready=True, verdict="evict", why="")
        kept = replace(argument, verdict="in use")
        with pytest.raises(FindingsError, match="the Job on the cache failed"):
            evict(cluster, PROD, [argument, kept], FakeReleases())
        assert (directory / ".ready").exists()

    def test_the_verb_only_tells_unless_it_is_meant(
        self, world: World, api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.serves()
        directory = world.revision(old("1"))
        releases = FakeReleases()
        monkeypatch.setattr(eviction, "_releases", lambda *_: releases)
        config = write_kubeconfig(tmp_path / "config", api.url)
        arguments = ["models", "evict", "--stack", "prod", "--keep", "0", "--kubeconfig", str(config)]
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert (told["dry_run"], told["evicted"]) == (True, [])
        assert told["bytes_freed"] >= 1 << 16
        assert (directory / ".ready").exists()
        done = CliRunner().invoke(app, [*arguments, "--really"])
        assert isinstance(done.exception, UsageError)  # nobody is there to ask
        assert (directory / ".ready").exists()
        done = CliRunner().invoke(app, [*arguments, "--really", "--yes", "--json"])
        assert json.loads(done.stdout)["evicted"] == releases.paths == [old("1")]


class TestScript:
    @pytest.mark.parametrize("path", ["models/../etc", "models/acme", ".", f"other/x/{'1' * 40}"])
    def test_it_removes_revisions_and_nothing_else(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "models" / "acme").mkdir(parents=True)
        (tmp_path / "etc").mkdir()
        (tmp_path / "other" / "x" / ("1" * 40)).mkdir(parents=True)
        with pytest.raises(cache_keeper.RefusedError):
            cache_keeper.evict(tmp_path, [path], [], "models", release=False)
        assert (tmp_path / "etc").exists()

    def test_a_link_is_no_revision(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        link = tmp_path / "cache" / "models" / "acme" / "x" / ("1" * 40)
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "outside")
        assert cache_keeper.look(tmp_path / "cache", "models") == []

    def test_killed_in_the_middle_it_goes_on(self, tmp_path: Path) -> None:
        one = tmp_path / "models" / "acme" / "x" / ("1" * 40)
        one.mkdir(parents=True)
        gone = f"models/acme/x/{'2' * 40}"
        done = cache_keeper.evict(tmp_path, [gone, one.relative_to(tmp_path).as_posix()], [], "models", release=False)
        assert [entry["path"] for entry in done] == [f"models/acme/x/{'1' * 40}"]
        assert not one.exists()


class FakeFsx:
    def __init__(self, *lifecycles: str) -> None:
        self.lifecycles, self.asked = list(lifecycles), dict[str, Any]()

    def create_data_repository_task(self, **arguments: Any) -> Any:
        self.asked = arguments
        return {"DataRepositoryTask": {"TaskId": "task-1", "Lifecycle": self.lifecycles.pop(0)}}

    def describe_data_repository_tasks(self, TaskIds: list[str]) -> Any:  # noqa: N803 - boto3's
        assert TaskIds == ["task-1"]
        return {"DataRepositoryTasks": [{"TaskId": "task-1", "Lifecycle": self.lifecycles.pop(0)}]}


class TestRelease:
    def test_the_file_system_is_asked_to_release_and_waited_for(self) -> None:
        fsx = FakeFsx("PENDING", "EXECUTING", "SUCCEEDED")
        FsxReleases(fsx, "fs-1", pause=lambda _: None).release([old("1")])
        assert fsx.asked["Type"] == "RELEASE_DATA_FROM_FILESYSTEM"
        assert fsx.asked["Paths"] == [old("1")]
        assert fsx.asked["ReleaseConfiguration"]["DurationSinceLastAccess"] == {"Unit": "DAYS", "Value": 0}

    def test_what_it_is_asked_is_what_the_api_takes(self) -> None:
        client = boto3.client("fsx", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        fsx = FakeFsx("SUCCEEDED")
        FsxReleases(fsx, "fs-0123456789abcdef0").release([old("1")])
        shape = client.meta.service_model.operation_model("CreateDataRepositoryTask").input_shape
        given = {**fsx.asked, "ClientRequestToken": "x"}
        assert not ParamValidator().validate(given, shape).has_errors()

    def test_a_task_that_fails_says_why(self) -> None:
        with pytest.raises(FindingsError, match="ended as FAILED"):
            FsxReleases(FakeFsx("FAILED"), "fs-1").release([old("1")])

    def test_a_refusal_is_told_in_words(self) -> None:
        class Denied:
            def create_data_repository_task(self, **_: Any) -> Any:
                raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "create")

        with pytest.raises(Exception, match="not allowed"):
            FsxReleases(Denied(), "fs-1").release([old("1")])
