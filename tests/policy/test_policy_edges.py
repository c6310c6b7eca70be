"""Rules on resources that our stacks do not have: other shapes, values not known yet, exported states."""

from __future__ import annotations

import io
import json

import pytest

from policy import judge
from policy.records import UNKNOWN
from policy.rules.pods import floats
from tests.policy.cases import broken, k8s, resource

NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        ("vllm/vllm-openai:v0.33.0", True),
        ("registry.example.com:5000/a/b:1.2", True),
        ("a/b@sha256:" + "0" * 64, True),
        ("a/b:latest@sha256:" + "0" * 64, True),
        ("registry.example.com:5000/a/b", False),
        ("busybox", False),
        ("a/b:Latest", False),
        ("a/b:main", False),
    ],
)
def test_floating_images_are_told_from_pinned_ones(image, pinned):
    assert (floats(image) is None) == pinned


def test_gpu_nodes_are_known_by_their_instance_type_too():
    group = resource(NODE_GROUP, amiType="CUSTOM", instanceTypes=["p4d.24xlarge"], launchTemplate={"id": "lt"})
    assert broken("gpu-nodes-tainted", group)
    cpu = resource(NODE_GROUP, amiType="CUSTOM", instanceTypes=["m7i.large"], launchTemplate={"id": "lt"})
    assert not broken("gpu-nodes-tainted", cpu)


def test_values_not_known_yet_break_nothing():
    unknown = [
        resource(NODE_GROUP, amiType="AL2023_x86_64_NVIDIA", taints=UNKNOWN, launchTemplate=UNKNOWN),
        resource("aws:ec2/launchTemplate:LaunchTemplate", metadataOptions=UNKNOWN, blockDeviceMappings=UNKNOWN),
        resource("aws:eks/cluster:Cluster", vpcConfig=UNKNOWN, encryptionConfig=UNKNOWN),
        resource("aws:iam/policy:Policy", policy=UNKNOWN),
        resource("kubernetes:helm.sh/v3:Release", version=UNKNOWN, values=UNKNOWN),
    ]
    assert judge.judge(unknown) == []


def test_companions_of_another_bucket_do_not_count():
    bucket = resource("aws:s3/bucket:Bucket", "mine", bucket="mine")
    other = resource("aws:s3/bucket:Bucket", "other", bucket="other")
    versioning = resource(
        "aws:s3/bucketVersioning:BucketVersioning",
        bucket="other",
        versioningConfiguration={"status": "Enabled"},
        after=(bucket.urn, other.urn),
    )
    assert sum("versioned" in message for message in broken("buckets-safe", bucket, other, versioning)) == 1


def test_a_companion_is_found_by_dependency_while_names_are_not_known():
    bucket = resource("aws:s3/bucket:Bucket", "mine")
    versioning = resource(
        "aws:s3/bucketVersioning:BucketVersioning",
        bucket=UNKNOWN,
        versioningConfiguration={"status": "Enabled"},
        after=(bucket.urn,),
    )
    assert not any("versioned" in message for message in broken("buckets-safe", bucket, versioning))


def ray_service(hosts: int, efa: str | None) -> object:
    limits = {"nvidia.com/gpu": "8"} | ({"vpc.amazonaws.com/efa": efa} if efa else {})
    template = {
        "spec": {
            "nodeSelector": {"inference-platform/pool": "h100"},
            "containers": [
                {
                    "name": "engine",
                    "image": "a/b:1",
                    "resources": {"limits": limits},
                    "securityContext": {"allowPrivilegeEscalation": False},
                }
            ],
        }
    }
    groups = [{"groupName": "gpu", "numOfHosts": hosts, "template": template}]
    return k8s("RayService", spec={"rayClusterConfig": {"workerGroupSpecs": groups}})


def test_ray_groups_over_several_hosts_need_efa_where_nodes_have_it():
    nodes = resource(NODE_GROUP, labels={"inference-platform/pool": "h100"}, instanceTypes=["p5.48xlarge"])
    assert broken("groups-use-efa", nodes, ray_service(2, None))
    assert not broken("groups-use-efa", nodes, ray_service(2, "32"))
    assert not broken("groups-use-efa", nodes, ray_service(1, None))


def test_groups_on_nodes_without_efa_need_none():
    nodes = resource(NODE_GROUP, labels={"inference-platform/pool": "h100"}, instanceTypes=["g6e.xlarge"])
    assert not broken("groups-use-efa", nodes, ray_service(2, None))


def test_a_secret_in_values_is_not_repeated_in_the_message():
    release = resource("kubernetes:helm.sh/v3:Release", version="1.0.0", values={"a": [{"password": "hunter2"}]})
    messages = broken("no-secret-text", release)
    assert len(messages) == 1
    assert "values.a[0].password" in messages[0]
    assert "hunter2" not in messages[0]


def test_keys_that_name_a_secret_pass():
    values = {"existingSecret": "grafana-admin", "passwordKey": "k", "secretName": "s", "tokenSecretRef": "t"}
    assert not broken("no-secret-text", resource("kubernetes:helm.sh/v3:Release", version="1.0.0", values=values))


def exported() -> dict[str, object]:
    bucket = "urn:pulumi:t::t::aws:s3/bucket:Bucket::weights"
    return {
        "version": 3,
        "deployment": {
            "resources": [
                {"urn": "urn:pulumi:t::t::pulumi:pulumi:Stack::t-t", "type": "pulumi:pulumi:Stack"},
                {"urn": bucket, "type": "aws:s3/bucket:Bucket", "id": "w-1", "inputs": {"forceDestroy": False}},
                {
                    "urn": "urn:pulumi:t::t::aws:s3/bucketVersioning:BucketVersioning::v",
                    "type": "aws:s3/bucketVersioning:BucketVersioning",
                    "id": "w-1",
                    "inputs": {"bucket": "w-1", "versioningConfiguration": {"status": "Enabled"}},
                    "dependencies": [bucket],
                },
                {
                    "urn": "urn:pulumi:t::t::kubernetes:core/v1:ConfigMap::c",
                    "type": "kubernetes:core/v1:ConfigMap",
                    "inputs": {
                        "kind": "ConfigMap",
                        "data": {
                            "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
                            "ciphertext": "AKIAAAAAAAAAAAAAAAAA",
                        },
                    },
                },
            ]
        },
    }


def test_an_exported_state_is_judged(tmp_path, capsys):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(exported()), encoding="utf-8")
    assert judge.main([str(path)]) == 1
    told = capsys.readouterr().out
    assert "not encrypted" in told
    assert "not private" in told
    assert "not versioned" not in told
    assert "no-secret-text" not in told
    assert "4 resources, 2 violations" in told


def test_a_clean_state_ends_with_zero(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"deployment": {"resources": []}})))
    assert judge.main(["-"]) == 0
    assert "0 violations" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"deployment": {"resources": [{}]}}'])
def test_what_is_no_state_is_a_usage_error(tmp_path, capsys, content):
    path = tmp_path / "state.json"
    path.write_text(content, encoding="utf-8")
    assert judge.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_without_a_file_the_usage_is_told(capsys):
    assert judge.main([]) == 2
    assert "pulumi stack export" in capsys.readouterr().err


def gated_pod(path: str, *, seen_by_the_engine: bool) -> list[str]:
    mount = [{"name": "state", "mountPath": "/state"}]
    safe = {"securityContext": {"allowPrivilegeEscalation": False}}
    gate = {"name": "efa-gate", "image": "a/b:1", "volumeMounts": mount, **safe}
    engine = {"name": "engine", "image": "a/b:1", "volumeMounts": mount if seen_by_the_engine else [], **safe}
    volumes = [{"name": "state", "hostPath": {"path": path}}]
    return broken(
        "pods-confined", k8s("Pod", spec={"initContainers": [gate], "containers": [engine], "volumes": volumes})
    )


def test_the_efa_gate_alone_sees_one_directory_of_the_host():
    own = "/var/lib/inference-platform/efa-gate"
    assert not gated_pod(own, seen_by_the_engine=False)
    assert "hostPath" in gated_pod(own, seen_by_the_engine=True)[0]
    assert "hostPath" in gated_pod("/var/lib", seen_by_the_engine=False)[0]
