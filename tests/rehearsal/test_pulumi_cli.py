"""The real engine: `pulumi` runs the sample program against the stand-in AWS provider.

Skipped with a reason where there is no CLI; the tests marked `control_plane` also need a Kubernetes API server.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal.controlplane import binaries
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.controlplane.errors import ControlPlaneError
from rehearsal.engines.contract import SECRET, UNKNOWN, EngineInputs, EngineUnavailable, ResourceRecord, RunResult
from rehearsal.engines.in_process import InProcessEngine
from rehearsal.engines.pulumi_cli import PulumiCliEngine
from rehearsal.engines.pulumi_command import find_pulumi

STACK_URN = "urn:pulumi:{stack}::sample::pulumi:pulumi:Stack::sample-{stack}"
SAMPLE = Path(__file__).parent / "sample_program"


class Rehearsed:
    """The sample program in an engine, with a stack file of its own that tests may change."""

    def __init__(self, folder: Path, stack: str = "aws", plane: ControlPlane | None = None, **settings: object) -> None:
        self.stack_file = folder / f"Pulumi.{stack}.yaml"
        self.stack_file.write_text((SAMPLE / self.stack_file.name).read_text())
        self.told: list[str] = []
        self.inputs = EngineInputs(
            project_dir=SAMPLE,
            stack=stack,
            stack_file=self.stack_file,
            kubeconfig=plane.kubeconfig if plane else folder / "no-kubeconfig",
            endpoint=plane.endpoint if plane else "https://127.0.0.1:6443",
            ca_data=plane.ca_data if plane else "Y2E=",
            token=plane.token if plane else "control-plane-token",
            workdir=folder / "work",
            region="eu-west-1",
            progress=self.told.append,
        )
        self.set(**settings)

    def set(self, **settings: object) -> None:
        """Change settings of the sample in the stack file."""
        stack = yaml.safe_load(self.stack_file.read_text())
        stack["config"].update({f"sample:{key}": value for key, value in settings.items()})
        self.stack_file.write_text(yaml.safe_dump(stack))

    def start(self, **changes: Any) -> PulumiCliEngine:
        """Start the engine, or skip the test where there is no CLI."""
        try:
            return PulumiCliEngine(replace(self.inputs, **changes))
        except EngineUnavailable as reason:
            pytest.skip(str(reason))


@pytest.fixture
def rehearse(tmp_path: Path) -> Iterator[Callable[..., tuple[Rehearsed, PulumiCliEngine]]]:
    engines: list[PulumiCliEngine] = []

    def begin(
        stack: str = "aws", plane: ControlPlane | None = None, **settings: object
    ) -> tuple[Rehearsed, PulumiCliEngine]:
        sample = Rehearsed(tmp_path, stack, plane, **settings)
        engines.append(sample.start())
        return sample, engines[-1]

    yield begin
    for engine in engines:
        engine.close()
    assert list((tmp_path / "work").glob("*")) == []


def by_name(result: RunResult) -> dict[str, ResourceRecord]:
    return {f"{item.type.rsplit(':', 1)[-1]}/{item.name}": item for item in result.resources}


def operations(result: RunResult) -> dict[str, str]:
    return {change.urn.split("::", 3)[3]: change.operation for change in result.changes}


def test_life_of_a_stack(rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]]) -> None:
    sample, engine = rehearse()

    planned = engine.preview()
    assert planned.ok, planned.problems
    assert planned.problems == ()
    seen = by_name(planned)
    assert seen["Subnet/subnet-0"].inputs["vpcId"] == UNKNOWN
    assert seen["LaunchTemplate/gpu"].inputs["vpcSecurityGroupIds"] == [UNKNOWN]
    assert seen["Subnet/subnet-0"].depends_on == (seen["Vpc/vpc"].urn,)

    done = engine.up()
    assert done.ok, done.problems
    assert {change.urn for change in done.changes} == {change.urn for change in planned.changes}
    assert {change.operation for change in done.changes} == {"create"}
    made = by_name(done)
    assert made["Cluster/cluster"].outputs["endpoint"] == "https://127.0.0.1:6443"
    assert made["Cluster/cluster"].protect
    assert made["Subnet/subnet-0"].inputs["vpcId"] == made["Vpc/vpc"].id
    assert done.outputs["account"] == "123456789012"
    assert done.outputs["key"] == SECRET
    assert "created aws:ec2/vpc:Vpc vpc" in sample.told

    again = engine.up()
    assert again.unchanged, again.of("create", "update", "replace", "delete")
    assert engine.preview().unchanged

    sample.set(image="ami-0fedcba9876543210")
    changed = engine.preview()
    assert [(change.urn.split("::", 3)[3], change.diff_keys) for change in changed.of("update")] == [
        ("gpu", ("imageId",))
    ]
    assert engine.up().outputs["template_version"] == 2

    gone = engine.destroy()
    assert gone.ok, gone.problems
    assert gone.resources == ()
    order = [change.urn.split("::", 2)[2] for change in gone.changes]
    cluster, subnet, vpc = (
        order.index(entry)
        for entry in (
            "aws:eks/cluster:Cluster::cluster",
            "aws:ec2/subnet:Subnet::subnet-0",
            "aws:ec2/vpc:Vpc::vpc",
        )
    )
    assert cluster < subnet < vpc
    assert {change.operation for change in gone.changes} == {"delete"}
    assert "aws:s3/bucket:Bucket::models" in order  # protected and retained, yet gone with the temporary state


def test_replacement_reaches_what_depends_on_it(rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]]) -> None:
    sample, engine = rehearse()
    engine.up()
    sample.set(cidr="10.0.0.0/15")
    planned, done = engine.preview(), engine.up()
    for result in (planned, done):
        assert result.ok, result.problems
        assert [change.diff_keys for change in result.of("replace") if change.urn.endswith("::vpc")] == [("cidrBlock",)]
        assert operations(result) == operations(planned)
        assert operations(result)["subnet-0"] == "replace"


def test_target_glob_touches_nothing_else(rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]]) -> None:
    sample, engine = rehearse()
    engine.up()
    sample.set(version="1.35", image="ami-0fedcba9876543210")
    done = engine.up(targets=["urn:pulumi:aws::sample::aws:ec2/launchTemplate:LaunchTemplate**"])
    assert done.ok, done.problems
    assert [change.urn.split("::", 3)[3] for change in done.of("update", "create", "replace", "delete")] == ["gpu"]


@pytest.mark.parametrize("run", ["preview", "up"])
def test_failed_run_says_why_in_a_line(rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]], run: str) -> None:
    _, engine = rehearse(refuse="no zone offers it")
    result = getattr(engine, run)()
    assert not result.ok
    assert any("the program refuses: no zone offers it" in problem for problem in result.problems)
    assert not result.unchanged


def test_unknown_function_is_refused_by_name(rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]]) -> None:
    _, engine = rehearse(lookup="x")
    result = engine.preview()
    assert not result.ok
    assert "aws:ec2/getAmi:getAmi" in "".join(result.problems)
    assert "Traceback" not in "".join(result.problems)


def test_program_sees_nothing_of_the_users_accounts(
    rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("PULUMI_ACCESS_TOKEN", "of-the-user")
    _, engine = rehearse(environment=True)
    names = engine.up().outputs["environment"]
    assert "AWS_EC2_METADATA_DISABLED" in names
    assert not {"AWS_PROFILE", "PULUMI_ACCESS_TOKEN"} & set(names)


def test_users_plugin_on_path_is_not_used(
    rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "of-the-user"
    folder.mkdir()
    plugin = folder / "pulumi-resource-aws"
    plugin.write_text(f"#!/bin/sh\ntouch {tmp_path}/used\nexit 1\n")
    plugin.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    _, engine = rehearse()
    result = engine.preview()
    assert result.ok, result.problems
    assert not (tmp_path / "used").exists()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    try:
        find_pulumi()
        made = binaries.ensure("1.35", print)
    except (ControlPlaneError, EngineUnavailable) as reason:
        pytest.skip(str(reason))
    with ControlPlane.start(
        tmp_path_factory.mktemp("plane"), made, token=secrets.token_urlsafe(), progress=print
    ) as started:
        yield started


def touched(result: RunResult) -> set[tuple[str, str]]:
    """What a run changed, without what stayed the same."""
    changes = result.of("create", "update", "replace", "delete")
    return {(change.operation, change.urn.split("::", 2)[2].rsplit("$", 1)[-1]) for change in changes}


@pytest.mark.control_plane
def test_life_of_a_whole_platform(
    rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]], plane: ControlPlane
) -> None:
    sample, engine = rehearse("whole", plane)

    # Everything below the cluster is declared through a provider whose endpoint and token are not known yet.
    planned = engine.preview()
    assert planned.ok, planned.problems
    assert by_name(planned)["kubernetes/eks"].inputs["kubeconfig"] == UNKNOWN
    done = engine.up()
    assert done.ok, done.problems
    assert {change.urn for change in done.changes} == {change.urn for change in planned.changes}
    settings = plane.api.get("/api/v1/namespaces/models/configmaps/operator-settings") or {}
    assert settings["data"] == {"greeting": "hello"}
    certificates = plane.api.get("/api/v1/namespaces/models/configmaps/cert-manager-settings") or {}
    assert certificates["data"] == {"installCRDs": "true"}

    again = engine.up()
    assert again.unchanged, touched(again)
    assert engine.preview().unchanged

    # One changed setting reaches its model alone, in place: no ConfigMap is replaced under its fixed name.
    sample.set(temperature="0.9", version="1.36")
    glob = "urn:pulumi:whole::sample::inference:index:ModelServer**"
    assert touched(engine.up(targets=[glob])) == {
        ("update", "kubernetes:core/v1:ConfigMap::chat-settings"),
        ("update", "kubernetes:apps/v1:Deployment::chat"),
    }
    settings = plane.api.get("/api/v1/namespaces/models/configmaps/chat-settings") or {}
    assert settings["data"] == {"temperature": "0.9"}
    assert touched(engine.preview()) == {("update", "aws:eks/cluster:Cluster::cluster")}

    sample.set(version="1.35", skip="embed")
    assert touched(engine.up()) == {
        ("delete", "inference:index:ModelServer::embed"),
        ("delete", "kubernetes:core/v1:ConfigMap::embed-settings"),
        ("delete", "kubernetes:apps/v1:Deployment::embed"),
    }

    gone = engine.destroy()
    assert gone.ok, gone.problems
    assert gone.resources == ()
    order = [change.urn.split("::", 2)[2].rsplit("$", 1)[-1] for change in gone.changes]
    wanted = [
        "kubernetes:apps/v1:Deployment::chat",
        "kubernetes:helm.sh/v3:Release::operator",
        "kubernetes:core/v1:Namespace::models",
        "pulumi:providers:kubernetes::eks",
        "aws:eks/cluster:Cluster::cluster",
        "aws:ec2/subnet:Subnet::subnet-0",
        "aws:ec2/vpc:Vpc::vpc",
    ]
    assert [entry for entry in order if entry in wanted] == wanted
    assert plane.api.get("/api/v1/namespaces/models") is None


@pytest.mark.control_plane
def test_refused_object_fails_the_run_and_the_rest_can_be_destroyed(
    rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]], plane: ControlPlane
) -> None:
    _, engine = rehearse("whole", plane, label="not a label!")
    done = engine.up()
    assert not done.ok
    assert any("embed" in problem and "not a label!" in problem for problem in done.problems), done.problems
    gone = engine.destroy()
    assert gone.ok, gone.problems
    assert plane.api.get("/api/v1/namespaces/models") is None


# --- the contract: the in-process engine sees and does the same -----------------------------------------------------
def inventory(result: RunResult) -> dict[str, tuple[object, ...]]:
    """What both engines must agree on."""
    return {
        item.urn: (item.type, item.name, item.parent, item.protect, item.custom, item.depends_on)
        for item in result.resources
    }


def deleted_dependents_first(before: RunResult, gone: RunResult) -> bool:
    """Whether everything went before what it depends on and before its parent."""
    position = {change.urn: index for index, change in enumerate(gone.changes)}
    return all(
        position[item.urn] < position[needed]
        for item in before.resources
        for needed in (*item.depends_on, *([item.parent] if item.parent else []))
        if item.urn in position and needed in position
    )


@pytest.mark.parametrize("stack", ["aws", pytest.param("whole", marks=pytest.mark.control_plane)])
def test_both_engines_have_one_inventory_and_one_order(
    rehearse: Callable[..., tuple[Rehearsed, PulumiCliEngine]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    stack: str,
) -> None:
    plane: ControlPlane | None = request.getfixturevalue("plane") if stack == "whole" else None
    sample, real = rehearse(stack, plane)
    helm = plane.binaries.helm if plane else None
    inside = InProcessEngine(replace(sample.inputs, helm=helm, workdir=tmp_path / "inside"))
    request.addfinalizer(inside.close)
    seen: list[dict[str, tuple[object, ...]]] = []
    for engine in (real, inside):
        done = engine.up()
        assert done.ok, done.problems
        gone = engine.destroy()
        assert gone.ok, gone.problems
        assert {change.urn for change in gone.changes} >= set(inventory(done)) - {STACK_URN.format(stack=stack)}
        assert deleted_dependents_first(done, gone)
        seen.append(inventory(done))
    assert seen[0] == seen[1]
