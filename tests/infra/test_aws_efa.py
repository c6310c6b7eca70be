"""EFA, type by type: what the program registers against what EC2 says of each network card, and through moto's EC2."""

from __future__ import annotations

from collections import Counter
from typing import Any

import boto3
import pytest
from moto import mock_aws

from catalog.efa import references
from planner.efa import efa_interfaces, max_pods, reference_floor
from tests.infra import plans
from tests.infra.test_aws_nodes import group, request_of, templates, world_of
from tests.upstream import chart_values, needs_chart_values

# EFA devices of a node. Sources: EC2 user guide, EFA-capable types; aws-efa-k8s-device-plugin.
DEVICES = {
    "p4d.24xlarge": 4,
    "p4de.24xlarge": 4,
    "p5.4xlarge": 1,
    "p5.48xlarge": 32,
    "p5e.48xlarge": 32,
    "p5en.48xlarge": 16,
    "p6-b200.48xlarge": 8,
    "p6-b300.48xlarge": 16,
    "g7e.24xlarge": 2,
    "g7e.48xlarge": 4,
    "g6e.24xlarge": 2,
    "g6e.48xlarge": 4,
    "g6.48xlarge": 1,
    "g5.48xlarge": 1,
}


def client() -> Any:
    return boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """DescribeInstanceTypes of the types above, as recorded from EC2."""
    with mock_aws():
        answer = client().describe_instance_types(InstanceTypes=list(DEVICES))
    return {entry["InstanceType"]: entry for entry in answer["InstanceTypes"]}


@pytest.mark.parametrize("instance_type", DEVICES)
def test_each_card_takes_what_the_template_puts_on_it(instance_type: str, facts: dict[str, Any]) -> None:
    cards = {card["NetworkCardIndex"]: card for card in facts[instance_type]["NetworkInfo"]["NetworkCards"]}
    found = templates(world_of(instance_type))
    assert len(found) >= 2, "every rung has a template of its own"
    for inputs in found.values():
        interfaces = inputs["networkInterfaces"]
        # The names of a place on an instance: EC2 refuses two interfaces on one.
        places = Counter((entry["networkCardIndex"], entry["deviceIndex"]) for entry in interfaces)
        assert max(places.values()) == 1
        on_card = Counter(entry["networkCardIndex"] for entry in interfaces)
        assert set(on_card) == set(cards), "no card is left idle"
        for index, count in on_card.items():
            assert count <= cards[index]["MaximumNetworkInterfaces"]
        for entry in interfaces:
            kinds = cards[entry["networkCardIndex"]]["InterfaceTypes"]
            wanted = "efa" if entry["interfaceType"] == "efa-only" else entry["interfaceType"]
            assert wanted in kinds, f"card {entry['networkCardIndex']} takes {kinds}"
        # The primary interface carries the node's address, so it cannot be efa-only; the others need none.
        assert [entry["interfaceType"] for entry in interfaces if entry["networkCardIndex"] == 0] == [
            interfaces[0]["interfaceType"]
        ]
        assert interfaces[0]["interfaceType"] in {"efa", "interface"}
        assert all(entry["interfaceType"] == "efa-only" for entry in interfaces[1:])
        efa = sum(entry["interfaceType"].startswith("efa") for entry in interfaces)
        assert efa == DEVICES[instance_type] == facts[instance_type]["NetworkInfo"]["EfaInfo"]["MaximumEfaInterfaces"]


@mock_aws
@pytest.mark.parametrize("instance_type", DEVICES)
def test_ec2_takes_the_template_and_gives_it_back(instance_type: str) -> None:
    ec2 = client()
    for kind, inputs in templates(world_of(instance_type)).items():
        request = request_of(inputs)
        ec2.create_launch_template(LaunchTemplateName=kind, LaunchTemplateData=request)
        (version,) = ec2.describe_launch_template_versions(LaunchTemplateName=kind)["LaunchTemplateVersions"]
        assert version["LaunchTemplateData"]["NetworkInterfaces"] == request["NetworkInterfaces"]
        for name, value in request.items():
            assert version["LaunchTemplateData"][name] == value, f"{kind}: {name}"


@pytest.mark.parametrize("instance_type", DEVICES)
def test_a_placement_group_for_what_is_launched_and_none_for_what_is_placed_already(instance_type: str) -> None:
    for kind, inputs in templates(world_of(instance_type)).items():
        if kind.startswith("capacity-"):
            assert "placement" not in inputs
        else:
            assert inputs["placement"]["groupName"]
    assert len(group(world_of(instance_type), "spot").inputs["subnetIds"]) == 1, "a placement group has one zone"


@pytest.mark.parametrize("instance_type", DEVICES)
def test_pods_fit_the_addresses_of_card_0_and_ekss_cap(instance_type: str, facts: dict[str, Any]) -> None:
    instance = plans.catalog().instances[instance_type]
    network = facts[instance_type]["NetworkInfo"]
    card0 = next(card for card in network["NetworkCards"] if card["NetworkCardIndex"] == 0)
    served = card0["MaximumNetworkInterfaces"] * (network["Ipv4AddressesPerInterface"] - 1) + 2
    assert instance.max_pods == served
    cap = 110 if facts[instance_type]["VCpuInfo"]["DefaultVCpus"] < 30 else 250
    assert max_pods(instance) == min(served, cap)


def test_efa_only_burns_no_address_and_leaves_card_0_room_for_pods() -> None:
    """32 `efa` interfaces would take 32 addresses of the subnet; and the split layout would fill card 0 of a p5."""
    instance = plans.catalog().instances["p5.48xlarge"]
    interfaces = efa_interfaces(instance)
    assert sum(interface.interface_type != "efa-only" for interface in interfaces) == 1
    assert sum(interface.card_index == 0 for interface in interfaces) < instance.card0_enis


def test_the_pinned_cni_knows_efa_only_interfaces() -> None:
    """VPC CNI 1.18.5 is the first. Source: EC2 user guide, EFA interfaces."""
    version = plans.catalog().versions.addons["vpc-cni"].version
    assert version is not None
    assert tuple(int(part) for part in version.removeprefix("v").partition("-")[0].split(".")) >= (1, 18, 5)


def test_every_type_that_groups_may_run_on_has_a_reference_speed() -> None:
    gdr = {instance.name for instance in plans.catalog().instances.values() if instance.gdr}
    assert set(references()) == gdr
    for name, entry in references().items():
        line_rate = plans.catalog().instances[name].network_gbps / 8
        # Two nodes: NCCL's trees send half of what its rings do, so NVLink types may pass the line rate, up to twice.
        assert 0 < entry.all_reduce_gb_per_s <= 2 * line_rate, name
        assert entry.source


def test_tcp_cannot_pass_for_efa_where_gpus_are_joined_by_nvlink() -> None:
    """The whole line rate of card 0, which TCP never reaches, is below the floor."""
    for instance in plans.catalog().instances.values():
        floor, _ = reference_floor(instance.name)
        if instance.nvlink:
            assert floor is not None
            assert floor > instance.card0_gbps / 8, instance.name


@needs_chart_values
def test_the_device_plugin_runs_on_every_type_that_has_efa() -> None:
    chart = plans.catalog().versions.charts["aws-efa-k8s-device-plugin"]
    known = chart_values(chart.name, chart.version)["supportedInstanceLabels"]["values"]
    with_efa = {instance.name for instance in plans.catalog().instances.values() if instance.efa_interfaces}
    assert with_efa <= set(known)
