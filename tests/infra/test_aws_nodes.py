"""Launch templates and node groups: the rules that EC2 and EKS enforce only at deploy time."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from email import message_from_string
from functools import cache
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from infra.aws import declare
from planner.plan import ScheduledSizePlan
from tests.harness import ResourceRecord, World, deploy
from tests.infra import plans

NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
SCHEDULE = "aws:autoscaling/schedule:Schedule"
PLACEMENT = "aws:ec2/placementGroup:PlacementGroup"
EFA_IN = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EFA_OUT = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
KINDS = ("capacity_block", "capacity_reservation", "spot", "on_demand")

# Source: DescribeInstanceTypes (network cards, EFA interfaces).
INTERFACES = {
    "p4d.24xlarge": ["efa"] + ["efa-only"] * 3,
    "p5.48xlarge": ["efa"] + ["efa-only"] * 31,
    "p5en.48xlarge": ["efa"] + ["efa-only"] * 15,
    "p6-b300.48xlarge": ["interface"] + ["efa-only"] * 16,
    "g6e.48xlarge": ["efa"] + ["efa-only"] * 3,
}


@cache
def world_of(instance_type: str, *, efa: bool = True) -> World:
    """A cluster with one pool `gpu`; three rungs where EC2 sells blocks of the type."""
    blocks = plans.catalog().instances[instance_type].capacity_blocks
    pool = plans.pool("gpu", instance_type, kinds=KINDS if blocks else KINDS[1:], efa=efa)
    return deploy(lambda: declare(plans.plan(pools=(pool,))))


def templates(world: World) -> dict[str, Mapping[str, Any]]:
    """Inputs of the pool's launch templates, by the rung's kind."""
    return {
        record.name.removeprefix("pool-gpu-").removesuffix("-template"): record.inputs
        for record in world.of_type(TEMPLATE)
        if record.name.startswith("pool-gpu-")
    }


def group(world: World, kind: str) -> ResourceRecord:
    return world[NODE_GROUP, f"pool-gpu-{kind}-nodes"]


@pytest.mark.parametrize(("instance_type", "expected"), INTERFACES.items())
def test_efa_interfaces_in_every_rung(instance_type: str, expected: list[str]) -> None:
    world = world_of(instance_type)
    found = templates(world)
    assert found
    for inputs in found.values():
        interfaces = inputs["networkInterfaces"]
        assert [entry["interfaceType"] for entry in interfaces] == expected
        assert [entry["networkCardIndex"] for entry in interfaces] == list(range(len(expected)))
        assert [entry["deviceIndex"] for entry in interfaces] == [0] + [1] * (len(expected) - 1)
        groups = {tuple(entry["securityGroups"]) for entry in interfaces}
        assert len(groups) == 1, "every interface is in the same groups"
        assert len(set(groups.pop())) == 2, "the cluster's group and the pool's EFA group"
        for entry in interfaces:
            # EC2 refuses any word about public addresses on an interface that has none.
            public = None if entry["interfaceType"] == "efa-only" else "false"
            assert entry.get("associatePublicIpAddress") == public
            assert entry["deleteOnTermination"] == "true"
            assert "subnetId" not in entry
        assert "vpcSecurityGroupIds" not in inputs


def test_the_efa_group_lets_its_own_members_do_everything_and_nobody_else_anything() -> None:
    world = world_of("p5.48xlarge")
    interfaces = templates(world)["spot"]["networkInterfaces"]
    for kind, name in ((EFA_IN, "pool-gpu-efa-in"), (EFA_OUT, "pool-gpu-efa-out")):
        rule = world[kind, name].inputs
        assert rule["ipProtocol"] == "-1"
        assert rule["securityGroupId"] == rule["referencedSecurityGroupId"]
        assert rule["securityGroupId"] in interfaces[0]["securityGroups"]
        assert rule["securityGroupId"] in interfaces[-1]["securityGroups"]
        assert "cidrIpv4" not in rule
        # The group is torn down after the nodes, and complete before the first of them.
        assert world[kind, name].urn in group(world, "spot").depends_on


def test_without_efa_a_node_has_the_clusters_group_and_one_plain_interface() -> None:
    world = world_of("g6e.xlarge", efa=False)
    for inputs in templates(world).values():
        assert "networkInterfaces" not in inputs
        assert len(inputs["vpcSecurityGroupIds"]) == 1
    assert not world.of_type(PLACEMENT)
    assert not [record for record in world if record.name.startswith("pool-gpu-efa")]


@pytest.mark.parametrize("instance_type", INTERFACES)
def test_templates_hold_nothing_that_eks_refuses(instance_type: str) -> None:
    for inputs in templates(world_of(instance_type)).values():
        for field in (
            "iamInstanceProfile",
            "hibernationOptions",
            "instanceInitiatedShutdownBehavior",
            "imageId",
            "keyName",
        ):
            assert field not in inputs
        metadata = inputs["metadataOptions"]
        assert metadata == {"httpEndpoint": "enabled", "httpTokens": "required", "httpPutResponseHopLimit": 1}
        (disk,) = inputs["blockDeviceMappings"]
        assert disk["ebs"]["encrypted"] == "true"
        assert disk["ebs"]["volumeType"] == "gp3"
        assert {entry["resourceType"] for entry in inputs["tagSpecifications"]} == {
            "instance",
            "volume",
            "network-interface",
        }
        for entry in inputs["tagSpecifications"]:
            assert plans.TAGS.items() <= entry["tags"].items()


def test_spot_is_asked_for_by_the_group_and_never_by_the_template() -> None:
    world = world_of("p5.48xlarge")
    for kind, capacity in (("spot", "SPOT"), ("on-demand", "ON_DEMAND")):
        inputs = group(world, kind).inputs
        assert inputs["capacityType"] == capacity
        assert inputs["instanceTypes"] == ["p5.48xlarge"]
        template = templates(world)[kind]
        assert "instanceMarketOptions" not in template
        assert "capacityReservationSpecification" not in template
        assert "instanceType" not in template
        assert template["placement"]["groupName"].startswith(f"pool-gpu-{kind}-placement")
        assert world[PLACEMENT, f"pool-gpu-{kind}-placement"].inputs["strategy"] == "cluster"


def test_a_capacity_block_is_named_in_the_template_and_has_no_placement_group() -> None:
    world = world_of("p5.48xlarge")
    inputs = group(world, "capacity-block").inputs
    assert inputs["capacityType"] == "CAPACITY_BLOCK"
    assert "instanceTypes" not in inputs
    assert len(inputs["subnetIds"]) == 1
    template = templates(world)["capacity-block"]
    assert template["instanceType"] == "p5.48xlarge"
    assert template["instanceMarketOptions"] == {"marketType": "capacity-block"}
    target = template["capacityReservationSpecification"]["capacityReservationTarget"]
    assert target == {"capacityReservationId": "cr-0123456789abcdef0"}
    assert "placement" not in template


def test_a_reservation_is_on_demand_and_named_in_the_template() -> None:
    world = world_of("p5.48xlarge")
    inputs = group(world, "capacity-reservation").inputs
    assert inputs["capacityType"] == "ON_DEMAND"
    assert inputs["instanceTypes"] == ["p5.48xlarge"]
    template = templates(world)["capacity-reservation"]
    assert "instanceMarketOptions" not in template
    target = template["capacityReservationSpecification"]["capacityReservationTarget"]
    assert target == {"capacityReservationId": "cr-0123456789abcdef0"}
    assert "placement" not in template, "a group of ours would exclude the reservation's instances"


def test_a_reservation_in_a_placement_group_is_launched_into_that_group() -> None:
    rung = plans.rung("gpu", "capacity_reservation", efa=True, placement_group_name="near")
    pool = replace(plans.pool("gpu", "p5.48xlarge", kinds=(), efa=True), rungs=(rung,))
    world = deploy(lambda: declare(plans.plan(pools=(pool,))))
    assert templates(world)["capacity-reservation"]["placement"] == {"groupName": "near"}
    assert not world.of_type(PLACEMENT), "it exists"


def test_a_calendar_becomes_scheduled_actions_that_own_the_minimum() -> None:
    def step(name: str, least: int, wanted: int | None) -> ScheduledSizePlan:
        return ScheduledSizePlan(
            name=name, timezone="Europe/Berlin", recurrence="30 7 * * 1-5", min_nodes=least, desired_nodes=wanted
        )

    rung = plans.rung("gpu", "spot", schedule=(step("calendar-1-start", 2, 2), step("calendar-1-end", 0, None)))
    pool = replace(plans.pool("gpu", "g6e.xlarge", kinds=(), efa=False), rungs=(rung,))
    world = deploy(lambda: declare(plans.plan(pools=(pool,))))
    start, end = (world[SCHEDULE, f"pool-gpu-spot-calendar-1-{edge}"].inputs for edge in ("start", "end"))
    assert (start["minSize"], start["desiredCapacity"], start["maxSize"]) == (2, 2, -1)
    assert (end["minSize"], end["desiredCapacity"], end["maxSize"]) == (0, -1, -1), "nodes in use stay"
    assert start["autoscalingGroupName"].startswith("eks-gpu-spot-")
    # Both have one name: a new one that is made first would be deleted as the old one.
    assert world[SCHEDULE, "pool-gpu-spot-calendar-1-start"].delete_before_replace
    assert (start["timeZone"], start["recurrence"]) == ("Europe/Berlin", "30 7 * * 1-5")
    assert group(world, "spot").ignore_changes == ("scalingConfig.desiredSize", "scalingConfig.minSize")


@pytest.mark.parametrize("kind", ["capacity-block", "capacity-reservation", "spot", "on-demand"])
def test_gpu_groups(kind: str) -> None:
    world = world_of("p5.48xlarge")
    record = group(world, kind)
    inputs = record.inputs
    assert inputs["nodeGroupNamePrefix"] == f"gpu-{kind}-"
    assert "nodeGroupName" not in inputs
    assert inputs["updateConfig"] == {"maxUnavailable": 1, "updateStrategy": "MINIMAL"}
    assert inputs["nodeRepairConfig"]["enabled"] is True
    repairs = {one["nodeUnhealthyReason"]: one for one in inputs["nodeRepairConfig"]["nodeRepairConfigOverrides"]}
    assert {name: one["repairAction"] for name, one in repairs.items()} == {
        "NvidiaXID79Error": "Replace",
        "NvidiaXID64Error": "Replace",
        "NvidiaXID63Error": "NoAction",
    }
    # The API refuses any other wait, and all four keys are needed.
    assert all(one["minRepairWaitTimeMins"] in range(10, 121, 10) for one in repairs.values())
    assert {one["nodeMonitoringCondition"] for one in repairs.values()} == {"AcceleratedHardwareReady"}
    assert inputs["taints"] == [{"key": "nvidia.com/gpu", "value": "true", "effect": "NO_SCHEDULE"}]
    assert inputs["labels"] == {"inference-platform/pool": "gpu", "inference-platform/rung": f"gpu-{kind}"}
    assert inputs["launchTemplate"]["version"] == "1"
    assert inputs["subnetIds"] == [
        world["aws:ec2/routeTableAssociation:RouteTableAssociation", "network-private-us-east-1a"].inputs["subnetId"]
    ]
    # camelCase: the SDK hands a nested path to the engine as it is written.
    assert record.ignore_changes == ("scalingConfig.desiredSize",)
    assert not {"diskSize", "remoteAccess"} & set(inputs)


def test_an_empty_group_tells_the_autoscaler_what_its_nodes_would_offer() -> None:
    world = world_of("p5.48xlarge")
    tags = {
        record.inputs["tag"]["key"].removeprefix("k8s.io/cluster-autoscaler/node-template/resources/"): record.inputs
        for record in world.of_type("aws:autoscaling/tag:Tag")
        if record.name.startswith("pool-gpu-spot-")
    }
    assert {resource: inputs["tag"]["value"] for resource, inputs in tags.items()} == {
        "nvidia.com/gpu": "8",
        "vpc.amazonaws.com/efa": "32",
        "hugepages-2Mi": "10256Mi",
        "ephemeral-storage": "30400G",
    }
    for inputs in tags.values():
        assert inputs["tag"]["propagateAtLaunch"] is False
        assert inputs["autoscalingGroupName"].startswith("eks-gpu-spot-")


def test_user_data_puts_pods_and_images_on_nvme() -> None:
    message = message_from_string(base64.b64decode(templates(world_of("p4d.24xlarge"))["spot"]["userData"]).decode())
    (part,) = message.get_payload()
    assert part.get_content_type() == "application/node.eks.aws"
    config = yaml.safe_load(part.get_payload())
    assert (config["apiVersion"], config["kind"]) == ("node.eks.aws/v1alpha1", "NodeConfig")
    assert config["spec"]["instance"]["localStorage"]["strategy"] == "RAID0"
    # EKS adds the cluster's part, and refuses one that is there already.
    assert "cluster" not in config["spec"]


def test_system_nodes_span_the_zones_of_the_control_plane_and_give_way_to_the_autoscaler() -> None:
    world = world_of("g6e.xlarge", efa=False)
    record = world[NODE_GROUP, "system-nodes"]
    assert len(record.inputs["subnetIds"]) == 2, "the third zone has no control plane: it is there for GPU pools"
    assert "taints" not in record.inputs
    assert record.ignore_changes == ("scalingConfig.desiredSize",)
    template = world[TEMPLATE, "system-template"].inputs
    assert template["metadataOptions"]["httpPutResponseHopLimit"] == 1
    assert template["blockDeviceMappings"][0]["ebs"]["encrypted"] == "true"


def request_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A launch template as EC2's API takes it: upper camel case, booleans as booleans, tags as a list."""
    own = {"description", "name", "tags", "updateDefaultVersion"}  # of the template itself, not of its data
    request = _upper({key: value for key, value in inputs.items() if key not in own})
    if "VpcSecurityGroupIds" in request:
        request["SecurityGroupIds"] = request.pop("VpcSecurityGroupIds")
    for interface in request.get("NetworkInterfaces", []):
        interface["Groups"] = interface.pop("SecurityGroups")
    for specification, given in zip(request["TagSpecifications"], inputs["tagSpecifications"], strict=True):
        specification["Tags"] = [{"Key": key, "Value": value} for key, value in given["tags"].items()]
    return request


def _upper(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key[0].upper() + key[1:]: _upper(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_upper(entry) for entry in value]
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


@mock_aws
@pytest.mark.parametrize("instance_type", [*INTERFACES, "g6e.xlarge"])
def test_ec2_takes_every_template_and_gives_it_back(instance_type: str) -> None:
    client = boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    world = world_of(instance_type, efa=instance_type in INTERFACES)
    for record in world.of_type(TEMPLATE):
        request = request_of(record.inputs)
        client.create_launch_template(LaunchTemplateName=record.name, LaunchTemplateData=request)
        (version,) = client.describe_launch_template_versions(LaunchTemplateName=record.name)["LaunchTemplateVersions"]
        data = version["LaunchTemplateData"]
        for name, value in request.items():
            assert data[name] == value, f"{record.name}: {name}"


@mock_aws
@pytest.mark.parametrize("instance_type", INTERFACES)
def test_every_card_has_room_for_its_interfaces(instance_type: str) -> None:
    client = boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    (facts,) = client.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
    cards = {card["NetworkCardIndex"]: card for card in facts["NetworkInfo"]["NetworkCards"]}
    interfaces = templates(world_of(instance_type))["spot"]["networkInterfaces"]
    assert {entry["networkCardIndex"] for entry in interfaces} == set(cards)
    efa = [entry for entry in interfaces if entry["interfaceType"].startswith("efa")]
    assert len(efa) == facts["NetworkInfo"]["EfaInfo"]["MaximumEfaInterfaces"]
    for entry in interfaces:
        assert entry["deviceIndex"] < max(2, cards[entry["networkCardIndex"]]["MaximumNetworkInterfaces"])
