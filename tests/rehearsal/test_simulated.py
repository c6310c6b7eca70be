"""The simulated AWS account: its table against the provider's SDK, and its answers."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import pytest

from rehearsal.aws import simulated

ENVIRONMENT = simulated.SimulatedEnvironment(region="eu-west-1")


@cache
def sdk_class(token: str) -> Any:
    _, module, name = token.split(":")
    return getattr(importlib.import_module(f"pulumi_aws.{module.split('/')[0]}"), name)


def properties(token: str) -> set[str]:
    """Input and output properties of the SDK's class, camelCase, and its constructor's parameters."""
    cls = sdk_class(token)
    members: dict[str, Any] = dict(cls.__dict__)
    names = {str(getattr(v.fget, "_pulumi_name", k)) for k, v in members.items() if isinstance(v, property)}
    names |= {*members, *inspect.signature(cls._internal_init).parameters}
    return {re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in names}


def tokens() -> Iterator[str]:
    yield from simulated.resource_types()


@pytest.mark.parametrize("token", list(tokens()))
def test_every_property_in_the_table_exists_in_the_provider(token: str) -> None:
    kind = simulated.resource_types()[token]
    named = {*kind.outputs, *kind.replaces, *([kind.name] if kind.name else [])}
    # Every regional type has `region` in version 7 of the provider; the table adds it to all.
    assert {path.split(".")[0] for path in named} - properties(token) - {"region"} == set()


@pytest.mark.parametrize("token", list(tokens()))
def test_ids_and_outputs_are_filled_stable_and_distinct(token: str) -> None:
    inputs = {"tag": {"key": "k"}}
    first = simulated.create(token, "one", inputs, environment=ENVIRONMENT)
    assert first == simulated.create(token, "one", inputs, environment=ENVIRONMENT)
    assert first[0]
    assert all("{" not in text for text in (first[0], *texts(first[1])))


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in cast(dict[str, Any], value).values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from texts(item)


def test_two_resources_have_two_ids() -> None:
    ids = {simulated.create("aws:ec2/vpc:Vpc", name, {}, environment=ENVIRONMENT)[0] for name in ("a", "b")}
    assert len(ids) == 2
    assert all(re.fullmatch(r"vpc-0[0-9a-f]{16}", one) for one in ids)


def test_inputs_win_and_blocks_are_merged() -> None:
    given = {"name": "main", "vpcConfig": {"subnetIds": ["subnet-1"]}, "tags": {"a": "b"}}
    _, outputs = simulated.create("aws:eks/cluster:Cluster", "x", given, environment=ENVIRONMENT)
    assert outputs["name"] == "main"
    assert outputs["vpcConfig"]["subnetIds"] == ["subnet-1"]
    assert outputs["vpcConfig"]["clusterSecurityGroupId"].startswith("sg-0")
    assert outputs["arn"] == "arn:aws:eks:eu-west-1:123456789012:cluster/main"
    assert outputs["tagsAll"] == {"a": "b"}


def test_a_preview_knows_inputs_and_names_only() -> None:
    unknown = object()
    given = {"vpcConfig": {"subnetIds": ["subnet-1"]}}
    outputs = simulated.preview("aws:eks/cluster:Cluster", "x", given, unknown=unknown, environment=ENVIRONMENT)
    assert outputs["endpoint"] is unknown
    assert outputs["vpcConfig"]["clusterSecurityGroupId"] is unknown
    assert outputs["vpcConfig"]["subnetIds"] == ["subnet-1"]
    _, made = simulated.create("aws:eks/cluster:Cluster", "x", given, environment=ENVIRONMENT)
    assert outputs["name"] == made["name"]


def test_a_launch_template_counts_its_versions() -> None:
    kind = "aws:ec2/launchTemplate:LaunchTemplate"
    _, first = simulated.create(kind, "gpu", {}, environment=ENVIRONMENT)
    given = {"imageId": "ami-1", "updateDefaultVersion": True}
    second = simulated.update(kind, "gpu", given, previous_outputs=first, environment=ENVIRONMENT)
    assert (second["latestVersion"], second["defaultVersion"], second["name"]) == (2, 2, first["name"])


@pytest.mark.parametrize(
    ("token", "old", "new", "replacing"),
    [
        ("aws:ec2/vpc:Vpc", {"cidrBlock": "10.0.0.0/16"}, {"cidrBlock": "10.1.0.0/16"}, {"cidrBlock"}),
        ("aws:eks/cluster:Cluster", {"version": "1.34"}, {"version": "1.35"}, set[str]()),
        (
            "aws:eks/nodeGroup:NodeGroup",
            {"launchTemplate": {"id": "lt-1", "version": "1"}},
            {"launchTemplate": {"id": "lt-1", "version": "2"}},
            set[str](),
        ),
        (
            "aws:eks/nodeGroup:NodeGroup",
            {"launchTemplate": {"id": "lt-1", "version": "1"}},
            {"launchTemplate": {"id": "lt-2", "version": "1"}},
            {"launchTemplate.id"},
        ),
        ("aws:fsx/lustreFileSystem:LustreFileSystem", {"storageCapacity": 4800}, {"storageCapacity": 9600}, set[str]()),
        (
            "aws:fsx/lustreFileSystem:LustreFileSystem",
            {"storageCapacity": 9600},
            {"storageCapacity": 4800},
            {"storageCapacity"},
        ),
        ("aws:s3/bucketV2:BucketV2", {"bucket": "a"}, {"bucket": "b"}, {"bucket"}),
    ],
)
def test_what_replaces(token: str, old: dict[str, Any], new: dict[str, Any], replacing: set[str]) -> None:
    assert simulated.replacing_changes(token, old, new) == replacing


def test_an_unknown_type_is_answered_and_noted() -> None:
    resource_id, _ = simulated.create("aws:sagemaker/model:Model", "m", {}, environment=ENVIRONMENT)
    assert resource_id.startswith("m-")
    assert "aws:sagemaker/model:Model" in simulated.unknown_types


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(simulated.UnknownFunction, match="getAmi"):
        simulated.invoke("aws:ec2/getAmi:getAmi", {}, environment=ENVIRONMENT)


def test_zones_belong_to_the_region_asked_for() -> None:
    answer = simulated.invoke(
        "aws:index/getAvailabilityZones:getAvailabilityZones", {"region": "us-west-2"}, environment=ENVIRONMENT
    )
    assert answer["names"] == ["us-west-2a", "us-west-2b", "us-west-2c", "us-west-2d"]
    assert answer["zoneIds"][0] == "usw2-az1"


def test_a_policy_document_is_rendered_as_the_provider_does() -> None:
    statement = {
        "sid": "Read",
        "actions": ["s3:GetObject", "s3:ListBucket"],
        "resources": ["arn:aws:s3:::models"],
        "principals": [{"type": "Service", "identifiers": ["fsx.amazonaws.com"]}],
        "conditions": [{"test": "StringEquals", "variable": "aws:SourceAccount", "values": ["123456789012"]}],
    }
    answer = simulated.invoke(
        "aws:iam/getPolicyDocument:getPolicyDocument", {"statements": [statement]}, environment=ENVIRONMENT
    )
    assert json.loads(answer["json"]) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Read",
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": "arn:aws:s3:::models",
                "Principal": {"Service": "fsx.amazonaws.com"},
                "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
            }
        ],
    }
