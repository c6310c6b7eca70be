"""The stand-in AWS provider, spoken to over its own protocol as the Pulumi engine does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import provider_pb2 as rpc
from pulumi.runtime.proto import provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from rehearsal.aws.simulated import SimulatedEnvironment
from rehearsal.aws_plugin.diff import changed_paths, diff_response
from rehearsal.aws_plugin.permit import TOKEN_VARIABLE, NotARehearsal, Permit
from rehearsal.aws_plugin.wire import from_struct, to_struct

ROOT = Path(__file__).parents[2]
CLUSTER = "urn:pulumi:prod::inference-platform::inference:index:Cluster$aws:eks/cluster:Cluster::cluster"
ENVIRONMENT = SimulatedEnvironment(
    cluster_endpoint="https://127.0.0.1:6443", cluster_ca_data="Y2E=", account="210987654321", region="eu-west-1"
)


@pytest.fixture
def permit(tmp_path: Path) -> Permit:
    backend = tmp_path / "state"
    backend.mkdir()
    return Permit(token="once", backend=backend, version="7.51.1", environment=ENVIRONMENT)


def start(permit_file: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rehearsal.aws_plugin", str(permit_file), "-v=1"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "state").mkdir()
    granted = Permit(token="once", backend=folder / "state", version="7.51.1", environment=ENVIRONMENT)
    granted.write(folder / "permit.json")
    process = start(
        folder / "permit.json", **{TOKEN_VARIABLE: "once", "PULUMI_BACKEND_URL": f"file://{folder / 'state'}"}
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield provider_pb2_grpc.ResourceProviderStub(channel)
    process.terminate()
    process.communicate(timeout=10)


def test_announces_the_version_it_stands_in_for(aws: Any) -> None:
    assert aws.GetPluginInfo(Empty()).version == "7.51.1"
    assert '"name": "aws"' in aws.GetSchema(rpc.GetSchemaRequest()).schema


def test_created_cluster_answers_with_the_local_control_plane(aws: Any) -> None:
    made = aws.Create(rpc.CreateRequest(urn=CLUSTER, properties=to_struct({"name": "prod", "vpcConfig": {}})))
    outputs = from_struct(made.properties)
    assert made.id == "prod"
    assert outputs["endpoint"] == "https://127.0.0.1:6443"
    assert outputs["certificateAuthority"]["data"] == "Y2E="
    assert ":eu-west-1:210987654321:" in outputs["arn"]


def test_preview_of_a_create_knows_inputs_and_hides_what_aws_decides(aws: Any) -> None:
    planned = aws.Create(
        rpc.CreateRequest(
            urn=CLUSTER,
            preview=True,
            properties=to_struct({"name": "prod", "vpcConfig": {"subnetIds": [UNKNOWN]}, "roleArn": UNKNOWN}),
        )
    )
    outputs = from_struct(planned.properties)
    assert planned.id == ""
    assert (outputs["name"], outputs["roleArn"]) == ("prod", UNKNOWN)
    assert outputs["endpoint"] == UNKNOWN
    assert outputs["vpcConfig"]["subnetIds"] == [UNKNOWN]
    assert outputs["vpcConfig"]["clusterSecurityGroupId"] == UNKNOWN


def test_update_counts_a_launch_template_up_and_its_preview_hides_the_count(aws: Any) -> None:
    urn = "urn:pulumi:prod::inference-platform::aws:ec2/launchTemplate:LaunchTemplate::gpu"
    inputs = {"name": "gpu", "updateDefaultVersion": True}
    made = aws.Create(rpc.CreateRequest(urn=urn, properties=to_struct(inputs)))
    changed = {**inputs, "imageId": "ami-1"}
    request = {"urn": urn, "id": made.id, "olds": made.properties, "news": to_struct(changed)}
    planned = from_struct(aws.Update(rpc.UpdateRequest(**request, preview=True)).properties)
    done = from_struct(aws.Update(rpc.UpdateRequest(**request)).properties)
    assert planned["latestVersion"] == UNKNOWN
    assert done["latestVersion"] == from_struct(made.properties)["latestVersion"] + 1
    assert planned["arn"] == done["arn"]
    assert planned["imageId"] == "ami-1"


def test_diff_tells_replacements_from_updates(aws: Any) -> None:
    old = {"name": "prod", "version": "1.34", "tags": {"app.kubernetes.io/name": "a"}}
    new = {"name": "next", "version": "1.35", "tags": {"app.kubernetes.io/name": "b"}}
    answer = aws.Diff(rpc.DiffRequest(urn=CLUSTER, id="prod", old_inputs=to_struct(old), news=to_struct(new)))
    kinds = {path: rpc.PropertyDiff.Kind.Name(diff.kind) for path, diff in answer.detailedDiff.items()}
    assert kinds == {"name": "UPDATE_REPLACE", "version": "UPDATE", 'tags["app.kubernetes.io/name"]': "UPDATE"}
    assert list(answer.replaces) == ["name"]
    assert not answer.deleteBeforeReplace


def test_fixed_name_is_deleted_before_it_is_made_again(aws: Any) -> None:
    old, new = {"name": "prod", "roleArn": "a"}, {"name": "prod", "roleArn": UNKNOWN}
    answer = aws.Diff(rpc.DiffRequest(urn=CLUSTER, id="prod", old_inputs=to_struct(old), news=to_struct(new)))
    assert list(answer.replaces) == ["roleArn"]
    assert answer.deleteBeforeReplace


def test_a_replacement_has_a_new_id_unless_the_id_is_its_name(aws: Any) -> None:
    vpc = "urn:pulumi:prod::inference-platform::aws:ec2/vpc:Vpc::vpc"
    old, new = to_struct({"cidrBlock": "10.0.0.0/16"}), to_struct({"cidrBlock": "10.0.0.0/15"})
    first = aws.Create(rpc.CreateRequest(urn=vpc, properties=old)).id
    aws.Diff(rpc.DiffRequest(urn=vpc, id=first, old_inputs=old, news=new))
    second = aws.Create(rpc.CreateRequest(urn=vpc, properties=new))
    assert second.id.startswith("vpc-0")
    assert second.id != first
    assert from_struct(second.properties)["arn"].endswith(second.id)
    old, new = to_struct({"name": "prod", "roleArn": "a"}), to_struct({"name": "prod", "roleArn": "b"})
    aws.Diff(rpc.DiffRequest(urn=CLUSTER, id="prod", old_inputs=old, news=new))
    assert aws.Create(rpc.CreateRequest(urn=CLUSTER, properties=new)).id == "prod"


def test_a_replaced_node_group_has_another_scaling_group(aws: Any) -> None:
    urn = "urn:pulumi:prod::inference-platform::aws:eks/nodeGroup:NodeGroup::nodes"
    groups: list[Any] = []
    made = ""
    before: Any = None
    for instance_type in ("g6e.xlarge", "g6e.2xlarge", "g6e.4xlarge"):
        inputs = {"clusterName": "prod", "nodeGroupNamePrefix": "nodes-", "instanceTypes": [instance_type]}
        if before is not None:
            aws.Diff(rpc.DiffRequest(urn=urn, id=made, old_inputs=before, news=to_struct(inputs)))
        answer = aws.Create(rpc.CreateRequest(urn=urn, properties=to_struct(inputs)))
        made, before = answer.id, to_struct(inputs)
        groups.append(from_struct(answer.properties)["resources"][0]["autoscalingGroups"][0]["name"])
    assert groups[0] != groups[1] != groups[2]


def test_equal_inputs_are_no_change(aws: Any) -> None:
    same = to_struct({"name": "prod", "vpcConfig": {"subnetIds": ["a", "b"]}})
    answer = aws.Diff(rpc.DiffRequest(urn=CLUSTER, id="prod", old_inputs=same, news=same))
    assert answer.changes == rpc.DiffResponse.DIFF_NONE


def test_functions_answer_or_are_refused_by_name(aws: Any) -> None:
    answer = aws.Invoke(rpc.InvokeRequest(tok="aws:index/getCallerIdentity:getCallerIdentity"))
    assert from_struct(getattr(answer, "return"))["accountId"] == "210987654321"
    with pytest.raises(grpc.RpcError) as refused:
        aws.Invoke(rpc.InvokeRequest(tok="aws:ec2/getAmi:getAmi"))
    assert "aws:ec2/getAmi:getAmi" in refused.value.details()  # type: ignore[attr-defined]


def test_reads_an_existing_resource_under_its_own_id(aws: Any) -> None:
    urn = "urn:pulumi:prod::inference-platform::aws:ec2/vpc:Vpc::existing"
    answer = aws.Read(rpc.ReadRequest(urn=urn, id="vpc-0123"))
    assert answer.id == "vpc-0123"
    assert from_struct(answer.properties)["arn"].endswith("vpc/vpc-0123")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PULUMI_BACKEND_URL": "file://{backend}"}, TOKEN_VARIABLE),
        ({TOKEN_VARIABLE: "guessed", "PULUMI_BACKEND_URL": "file://{backend}"}, TOKEN_VARIABLE),
        ({TOKEN_VARIABLE: "once"}, "backend"),
        ({TOKEN_VARIABLE: "once", "PULUMI_BACKEND_URL": "https://api.pulumi.com"}, "backend"),
        ({TOKEN_VARIABLE: "once", "PULUMI_BACKEND_URL": "file:///"}, "backend"),
    ],
)
def test_refuses_to_run_outside_its_rehearsal(permit: Permit, variables: dict[str, str], reason: str) -> None:
    given = {name: value.format(backend=permit.backend) for name, value in variables.items()}
    with pytest.raises(NotARehearsal, match=reason):
        permit.check(given)


def test_process_exits_and_says_why_when_started_by_something_else(permit: Permit, tmp_path: Path) -> None:
    permit.write(tmp_path / "permit.json")
    assert (tmp_path / "permit.json").stat().st_mode & 0o077 == 0
    _, stderr = (process := start(tmp_path / "permit.json")).communicate(timeout=20)
    assert process.returncode == 3
    assert "stand-in of a rehearsal" in stderr
    assert "Traceback" not in stderr


def test_process_exits_once_the_rehearsal_has_ended(tmp_path: Path) -> None:
    _, stderr = (process := start(tmp_path / "gone.json")).communicate(timeout=20)
    assert process.returncode == 3
    assert "has ended" in stderr


def test_leaves_with_the_process_that_started_it(permit: Permit, tmp_path: Path) -> None:
    permit.write(tmp_path / "permit.json")
    variables = {TOKEN_VARIABLE: "once", "PULUMI_BACKEND_URL": f"file://{permit.backend}"}
    plugin = f"'{sys.executable}' -m rehearsal.aws_plugin '{tmp_path / 'permit.json'}'"
    parent = subprocess.Popen(
        ["/bin/sh", "-c", f"{plugin} & echo $!; wait"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert int(parent.stdout.readline()) > 0  # the plugin serves
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.2)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(status.strip()) and not status.strip().startswith("Z")


def test_changed_paths_follow_additions_removals_and_nesting() -> None:
    old = {"a": [{"b": 1, "gone": 1}], "same": {"x": 1}}
    new = {"a": [{"b": 2}, {"c": 3}], "same": {"x": 1}, "top": UNKNOWN}
    assert changed_paths(old, new) == {"a[0].b": "update", "a[0].gone": "delete", "a[1]": "add", "top": "add"}


def test_a_dotted_replacement_key_covers_its_block_only() -> None:
    old = {"vpcConfig": {"subnetIds": ["a"], "publicAccessCidrs": ["x"]}}
    new = {"vpcConfig": {"subnetIds": ["b"], "publicAccessCidrs": ["y"]}}
    answer = diff_response(old, new, replacing={"vpcConfig.subnetIds"})
    replaced = {path for path, diff in answer.detailedDiff.items() if diff.kind == rpc.PropertyDiff.UPDATE_REPLACE}
    assert replaced == {"vpcConfig.subnetIds[0]"}
    assert list(answer.replaces) == ["vpcConfig"]


def test_whole_numbers_survive_the_wire_as_integers() -> None:
    values = {"port": 443, "share": 0.5, "nested": [{"n": 3}], "none": None, "flag": True}
    assert from_struct(to_struct(values)) == values
    assert isinstance(from_struct(to_struct(values))["port"], int)
