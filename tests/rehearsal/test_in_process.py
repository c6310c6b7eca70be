"""The engine without a CLI: the same program, the same contract, and real effects in a real control plane."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal.controlplane import binaries
from rehearsal.controlplane.cluster import ControlPlane
from rehearsal.engines.contract import SECRET, UNKNOWN, Engine, EngineError, EngineInputs, ResourceRecord, RunResult
from rehearsal.engines.in_process import InProcessEngine

SAMPLE = Path(__file__).parent / "sample_program"


class Stack:
    """A program with a stack file that tests may change, in an engine."""

    def __init__(self, folder: Path, *, project: Path = SAMPLE, stack: str = "aws", **changes: Any) -> None:
        self.stack_file = folder / f"Pulumi.{stack}.yaml"
        given = project / self.stack_file.name
        self.stack_file.write_text(given.read_text() if given.exists() else "config: {}\n")
        self.told: list[str] = []
        inputs = EngineInputs(
            project_dir=project,
            stack=stack,
            stack_file=self.stack_file,
            kubeconfig=folder / "no-kubeconfig",
            endpoint="https://127.0.0.1:6443",
            ca_data="Y2E=",
            token="control-plane-token",
            workdir=folder / "work",
            region="eu-west-1",
            progress=self.told.append,
        )
        self.inputs = replace(inputs, **changes)
        self.engine = InProcessEngine(self.inputs, await_seconds=20)

    def set(self, **settings: object) -> None:
        """Changes settings in the stack file."""
        stack = yaml.safe_load(self.stack_file.read_text())
        name = yaml.safe_load((self.inputs.project_dir / "Pulumi.yaml").read_text())["name"]
        stack["config"] = {**(stack.get("config") or {}), **{f"{name}:{key}": v for key, v in settings.items()}}
        self.stack_file.write_text(yaml.safe_dump(stack))


def by_name(result: RunResult) -> dict[str, ResourceRecord]:
    return {f"{item.type.rsplit(':', 1)[-1]}/{item.name}": item for item in result.resources}


def operations(result: RunResult) -> dict[str, str]:
    return {change.urn.split("::", 3)[3]: change.operation for change in result.changes}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path)


def test_is_an_engine(stack: Stack) -> None:
    engine: Engine = stack.engine
    assert engine.name == "in-process"


def test_life_of_a_stack(stack: Stack) -> None:
    engine = stack.engine
    planned = engine.preview()
    assert planned.ok, planned.problems
    seen = by_name(planned)
    assert seen["Subnet/subnet-0"].inputs["vpcId"] == UNKNOWN
    assert seen["LaunchTemplate/gpu"].inputs["vpcSecurityGroupIds"] == [UNKNOWN]
    assert seen["Subnet/subnet-0"].depends_on == (seen["Vpc/vpc"].urn,)
    assert planned.outputs["endpoint"] == UNKNOWN

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
    assert "created aws:ec2/vpc:Vpc vpc" in stack.told

    again = engine.up()
    assert again.unchanged, again.of("create", "update", "replace", "delete")
    assert engine.preview().unchanged

    stack.set(image="ami-0fedcba9876543210")
    changed = engine.preview()
    assert [(c.urn.split("::", 3)[3], c.diff_keys) for c in changed.of("update")] == [("gpu", ("imageId",))]
    assert engine.up().outputs["template_version"] == 2

    gone = engine.destroy()
    assert gone.ok, gone.problems
    assert gone.resources == ()
    order = [change.urn.split("::", 2)[2] for change in gone.changes]
    wanted = ("aws:eks/cluster:Cluster::cluster", "aws:ec2/subnet:Subnet::subnet-0", "aws:ec2/vpc:Vpc::vpc")
    cluster, subnet, vpc = (order.index(entry) for entry in wanted)
    assert cluster < subnet < vpc
    assert "aws:s3/bucket:Bucket::models" in order


def test_a_replacement_reaches_what_depends_on_it(stack: Stack) -> None:
    stack.engine.up()
    stack.set(cidr="10.0.0.0/15")
    planned, done = stack.engine.preview(), stack.engine.up()
    for result in (planned, done):
        assert result.ok, result.problems
        assert [c.diff_keys for c in result.of("replace") if c.urn.endswith("::vpc")] == [("cidrBlock",)]
        assert operations(result)["subnet-0"] == "replace"
        assert operations(result) == operations(planned)


def test_a_target_glob_touches_nothing_else(stack: Stack) -> None:
    stack.engine.up()
    stack.set(version="1.35", image="ami-0fedcba9876543210")
    done = stack.engine.up(targets=["urn:pulumi:aws::sample::aws:ec2/launchTemplate:LaunchTemplate**"])
    assert done.ok, done.problems
    assert [c.urn.split("::", 3)[3] for c in done.of("update", "create", "replace", "delete")] == ["gpu"]
    assert [c.urn.split("::", 3)[3] for c in stack.engine.up().of("update")] == ["cluster"]


def test_a_target_without_what_it_needs_says_so(stack: Stack) -> None:
    done = stack.engine.up(targets=["urn:pulumi:aws::sample::aws:ec2/subnet:Subnet::*"])
    assert not done.ok
    assert "Vpc::vpc, which does not exist yet and is no target" in "".join(done.problems)


@pytest.mark.parametrize("run", ["preview", "up"])
def test_a_failed_run_says_why_in_a_line(stack: Stack, run: str) -> None:
    stack.set(refuse="no zone offers it")
    result = getattr(stack.engine, run)()
    assert not result.ok
    assert result.problems == ("the program refuses: no zone offers it",)
    assert not result.unchanged


def test_an_unknown_function_is_refused_by_name(stack: Stack) -> None:
    stack.set(lookup="x")
    result = stack.engine.preview()
    assert not result.ok
    assert "aws:ec2/getAmi:getAmi" in "".join(result.problems)
    assert "Traceback" not in "".join(result.problems)


def test_the_program_sees_nothing_of_the_users_accounts(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("PULUMI_ACCESS_TOKEN", "of-the-user")
    stack.set(environment=True)
    names = stack.engine.up().outputs["environment"]
    assert "AWS_EC2_METADATA_DISABLED" in names
    assert not {"AWS_PROFILE", "PULUMI_ACCESS_TOKEN"} & set(names)


def test_what_is_no_longer_declared_is_deleted_unless_protected(stack: Stack) -> None:
    stack.engine.up()
    stack.set(subnets=1)
    assert [c.urn.split("::", 3)[3] for c in stack.engine.preview().of("delete")] == ["subnet-1"]
    done = stack.engine.up()
    assert done.ok, done.problems
    assert [c.urn.split("::", 3)[3] for c in done.of("delete")] == ["subnet-1"]
    assert "Subnet/subnet-1" not in by_name(done)


def test_no_secret_reaches_the_state_file_or_the_result(stack: Stack) -> None:
    stack.set(key="hunter2-hunter2")
    done = stack.engine.up()
    state = (stack.inputs.workdir / "in-process" / "state.json").read_text()
    assert "aws:ec2/vpc:Vpc" in state
    for text in (state, repr(done), *stack.told):
        assert "hunter2" not in text


def test_an_encrypted_stack_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: demo\nruntime: python\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  demo:key:\n    secure: AAAB\n")
    with pytest.raises(EngineError, match="demo:key is encrypted"):
        Stack(tmp_path, project=tmp_path, stack="dev")


def test_close_leaves_nothing(stack: Stack) -> None:
    stack.engine.up()
    stack.engine.close()
    stack.engine.close()
    assert list(stack.inputs.workdir.glob("*")) == []


# --- with a real control plane ---------------------------------------------------------------------------------------

CLUSTER_PROGRAM = """
import json
import secrets as python_secrets

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

config = pulumi.Config()
cluster = aws.eks.Cluster(
    "main", name="main", role_arn="arn:aws:iam::123456789012:role/eks",
    vpc_config=aws.eks.ClusterVpcConfigArgs(subnet_ids=["subnet-1"]),
)
kubeconfig = pulumi.Output.json_dumps({
    "apiVersion": "v1", "kind": "Config", "current-context": "eks",
    "clusters": [{"name": "eks", "cluster": {"server": cluster.endpoint}}],
    "contexts": [{"name": "eks", "context": {"cluster": "eks", "user": "eks"}}],
    "users": [{"name": "eks", "user": {"exec": {"command": "aws", "args": ["eks", "get-token"]}}}],
})
provider = k8s.Provider("eks", kubeconfig=kubeconfig, cluster_identifier=cluster.endpoint,
                        enable_config_map_mutable=True, enable_secret_mutable=True)
inside = pulumi.ResourceOptions(provider=provider)
space = k8s.core.v1.Namespace("space", metadata={"name": config.require("namespace")}, opts=inside)
at = lambda name, **more: {"name": name, "namespace": space.metadata.name, **more}

definition = k8s.apiextensions.v1.CustomResourceDefinition(
    "widgets", metadata={"name": "widgets.example.com"},
    spec={
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {
                "size": {"type": "integer"}}}}}}}],
    }, opts=inside)
k8s.apiextensions.CustomResource(
    "widget", api_version="example.com/v1", kind="Widget", metadata=at("widget"),
    spec={"size": 3, **({"colour": "red"} if config.get_bool("typo") else {})},
    opts=pulumi.ResourceOptions(provider=provider, depends_on=[definition]))

key = k8s.core.v1.Secret(
    "key", metadata=at("key"), string_data={"key": pulumi.Output.secret(python_secrets.token_urlsafe())},
    opts=pulumi.ResourceOptions(provider=provider, ignore_changes=["stringData"]))
pulumi.export("checksum", key.data.apply(lambda data: data["key"][:4]))
settings = k8s.core.v1.ConfigMap(
    "settings", metadata=at("settings"), data={"level": config.get("level") or "info"}, opts=inside)

labels = {"app": "web"}
k8s.apps.v1.Deployment(
    "web", metadata=at("web", annotations={"pulumi.com/skipAwait": config.get("skip") or "false"}),
    spec={
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            **({"nodeSelector": {"no-such": "node"}} if config.get_bool("unschedulable") else {}),
            "containers": [{"name": "web", "image": config.get("image") or "web:1"}]}},
    }, opts=pulumi.ResourceOptions(provider=provider, ignore_changes=["spec.replicas"]))
k8s.core.v1.Service("web", metadata=at("web"), spec={"selector": labels, "ports": [{"port": 80}]}, opts=inside)
k8s.batch.v1.Job(
    "job", metadata=at("job"),
    spec={"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}, opts=inside)
k8s.core.v1.ServiceAccountPatch(
    "default", metadata=at("default", annotations={"example.com/owner": "test"}), opts=inside)
for i in range(config.get_int("many") or 0):
    k8s.core.v1.ConfigMap(f"many-{i}", metadata=at(f"many-{i}"), data={"i": str(i)}, opts=inside)
if config.get_bool("default_provider"):
    k8s.core.v1.ConfigMap("astray", metadata={"name": "astray"})
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    workdir = tmp_path_factory.mktemp("plane")
    programs = binaries.ensure("1.35", print)
    with ControlPlane.start(workdir, programs, token=secrets.token_urlsafe(), progress=print) as started:
        capacity = {"cpu": "8", "memory": "32Gi", "pods": "110"}
        for name in ("system-0", "system-1", "system-2"):
            started.api.create(
                "/api/v1/nodes",
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}},
                    "status": {"capacity": capacity, "allocatable": capacity},
                },
            )
        yield started


@pytest.fixture
def live(plane: ControlPlane, tmp_path: Path) -> Iterator[Stack]:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: demo\nruntime: python\n")
    (project / "__main__.py").write_text(CLUSTER_PROGRAM)
    stack = _on(plane, tmp_path, project, "dev")
    stack.set(namespace=f"t-{secrets.token_hex(3)}")
    yield stack
    gone = stack.engine.destroy()
    assert gone.ok, gone.problems
    assert gone.resources == ()


def _on(plane: ControlPlane, folder: Path, project: Path, name: str) -> Stack:
    return Stack(
        folder,
        project=project,
        stack=name,
        kubeconfig=plane.kubeconfig,
        endpoint=plane.endpoint,
        ca_data=plane.ca_data,
        token=plane.token,
        helm=plane.binaries.helm,
    )


def namespace_of(stack: Stack) -> str:
    return yaml.safe_load(stack.stack_file.read_text())["config"]["demo:namespace"]


@pytest.mark.control_plane
class TestLive:
    def test_everything_is_made_and_a_second_run_changes_nothing(self, plane: ControlPlane, live: Stack) -> None:
        planned = live.engine.preview()
        assert planned.ok, planned.problems
        done = live.engine.up()
        assert done.ok, done.problems
        assert {change.urn for change in done.changes} == {change.urn for change in planned.changes}
        space = f"/api/v1/namespaces/{namespace_of(live)}"
        secret = (plane.api.get(f"{space}/secrets/key") or {})["data"]["key"]
        assert done.outputs["checksum"] == SECRET
        widget = plane.api.get(f"/apis/example.com/v1/namespaces/{namespace_of(live)}/widgets/widget") or {}
        assert widget["spec"] == {"size": 3}
        assert isinstance(widget["spec"]["size"], int)
        account = plane.api.get(f"{space}/serviceaccounts/default") or {}
        assert account["metadata"]["annotations"] == {"example.com/owner": "test"}

        again = live.engine.up()
        assert again.unchanged, again.of("create", "update", "replace", "delete")
        assert (plane.api.get(f"{space}/secrets/key") or {})["data"]["key"] == secret
        for text in (repr(done), repr(again), (live.inputs.workdir / "in-process" / "state.json").read_text()):
            assert secret not in text
            assert base64.b64decode(secret).decode() not in text

    def test_what_someone_scaled_stays_scaled_through_an_update(self, plane: ControlPlane, live: Stack) -> None:
        assert live.engine.up().ok
        path = f"/apis/apps/v1/namespaces/{namespace_of(live)}/deployments/web"
        plane.api.merge(f"{path}/scale", {"spec": {"replicas": 3}})
        assert live.engine.up().unchanged
        live.set(image="web:2")
        done = live.engine.up()
        assert done.ok, done.problems
        assert [c.diff_keys for c in done.of("update")] == [("spec.template.spec.containers[0].image",)]
        deployment = plane.api.get(path) or {}
        assert deployment["spec"]["replicas"] == 3
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "web:2"

    def test_a_changed_config_map_is_updated_in_place(self, plane: ControlPlane, live: Stack) -> None:
        live.engine.up()
        live.set(level="debug")
        done = live.engine.up()
        assert [(c.urn.split("::", 3)[3], c.diff_keys) for c in done.of("update")] == [("settings", ("data.level",))]

    def test_a_changed_job_is_replaced(self, live: Stack) -> None:
        program = live.inputs.project_dir / "__main__.py"
        assert live.engine.up().ok
        program.write_text(program.read_text().replace('"image": "x"', '"image": "y"'))
        done = live.engine.up()
        assert done.ok, done.problems
        assert [c.urn.split("::", 3)[3] for c in done.of("replace")] == ["job"]

    def test_an_unknown_field_is_refused(self, live: Stack) -> None:
        live.set(typo=True)
        done = live.engine.up()
        assert not done.ok
        assert ".spec.colour: field not declared in schema" in "".join(done.problems)

    def test_an_awaited_deployment_that_cannot_start_fails_and_says_why(self, live: Stack) -> None:
        live.engine = InProcessEngine(live.inputs, await_seconds=3)
        live.set(unschedulable=True)
        done = live.engine.up()
        assert not done.ok
        assert "0 of 1 replicas available; Unschedulable: 0/3 nodes are available" in "".join(done.problems)

    def test_a_deployment_that_skips_the_await_does_not_wait(self, live: Stack) -> None:
        live.set(unschedulable=True, skip="true")
        done = live.engine.up()
        assert done.ok, done.problems

    def test_ctrl_c_ends_the_waits(self, live: Stack) -> None:
        live.engine = InProcessEngine(live.inputs, await_seconds=120)
        live.set(unschedulable=True)
        began = time.monotonic()
        timer = threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            live.engine.up()
        assert time.monotonic() - began < 100, "it waited to the end"
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("resource", "program"))]

    def test_the_default_provider_is_refused(self, live: Stack) -> None:
        live.set(default_provider=True)
        done = live.engine.up()
        assert not done.ok
        assert "uses the default Kubernetes provider" in "".join(done.problems)

    def test_hundreds_of_objects_come_up_together_and_stay(self, live: Stack) -> None:
        live.set(many=200)
        done = live.engine.up()
        assert done.ok, done.problems
        assert live.engine.up().unchanged

    def test_destroy_deletes_dependents_first_and_leaves_nothing(self, plane: ControlPlane, live: Stack) -> None:
        live.engine.up()
        gone = live.engine.destroy()
        assert gone.ok, gone.problems
        assert gone.resources == ()
        order = [change.urn.split("::", 3)[3] for change in gone.changes]
        assert order.index("widget") < order.index("widgets")
        assert order.index("web") < order.index("space") < order.index("main")
        assert plane.api.get(f"/api/v1/namespaces/{namespace_of(live)}") is None
        assert plane.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com") is None

    def test_an_aggregated_api_that_nobody_serves_does_not_hang_the_destroy(
        self, plane: ControlPlane, live: Stack
    ) -> None:
        live.engine.up()
        dead = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.dead.example.com"},
            "spec": {
                "group": "dead.example.com",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": "nobody", "namespace": "default"},
            },
        }
        plane.api.create("/apis/apiregistration.k8s.io/v1/apiservices", dead)
        gone = live.engine.destroy()
        assert gone.ok, gone.problems
        assert any("v1beta1.dead.example.com" in line for line in live.told)


@pytest.mark.control_plane
def test_the_whole_sample_with_charts(plane: ControlPlane, tmp_path: Path) -> None:
    stack = _on(plane, tmp_path, SAMPLE, "whole")
    planned = stack.engine.preview()
    assert planned.ok, planned.problems
    done = stack.engine.up()
    assert done.ok, done.problems
    assert {change.urn for change in done.changes} == {change.urn for change in planned.changes}
    made = by_name(done)
    assert made["Release/operator"].outputs["status"]["status"] == "deployed"
    assert made["Release/cert-manager-helm"].parent == made["CertManager/cert-manager"].urn
    assert stack.engine.up().unchanged

    stack.set(temperature="0.2")
    done = stack.engine.up()
    assert sorted(c.urn.split("::", 3)[3] for c in done.of("update")) == ["chat", "chat-settings"]

    stack.set(temperature="0.9", version="1.36")
    done = stack.engine.up(targets=["urn:pulumi:whole::sample::inference:index:ModelServer**"])
    assert done.ok, done.problems
    assert sorted(c.urn.split("::", 3)[3] for c in done.of("update", "create", "replace")) == ["chat", "chat-settings"]

    stack.set(skip="embed", version="1.35")
    assert sorted(c.urn.split("::", 3)[3] for c in stack.engine.up().of("delete")) == [
        "embed",
        "embed",
        "embed-settings",
    ]
    gone = stack.engine.destroy()
    assert gone.ok, gone.problems
    assert plane.api.get("/api/v1/namespaces/models") is None
    assert json.loads((stack.inputs.workdir / "in-process" / "state.json").read_text()) == {"resources": []}
