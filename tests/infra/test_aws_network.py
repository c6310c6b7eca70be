"""The VPC: who reaches what, and what is torn down when."""

from __future__ import annotations

import ipaddress

import pytest

from infra.aws import declare
from planner.plan import CreatedNetworkPlan
from rehearsal.aws.simulated import resource_types
from tests.harness import World, deploy
from tests.infra import plans

ROUTE = "aws:ec2/route:Route"
SUBNET = "aws:ec2/subnet:Subnet"
NAT = "aws:ec2/natGateway:NatGateway"
ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"
ATTACHMENT = "aws:ec2transitgateway/vpcAttachment:VpcAttachment"


def world_of(network: CreatedNetworkPlan) -> World:
    # As the planner does it: who is connected reaches the private endpoint.
    target = plans.eks(private_cidrs=network.connection_cidrs)
    return deploy(lambda: declare(plans.plan(network=network, target=target, pools=())))


@pytest.fixture(scope="module")
def world() -> World:
    return world_of(plans.created_network())


def test_subnets_do_not_overlap_and_lie_in_the_vpc(world: World) -> None:
    whole = ipaddress.ip_network(world["aws:ec2/vpc:Vpc", "network-vpc"].inputs["cidrBlock"])
    ranges = [ipaddress.ip_network(record.inputs["cidrBlock"]) for record in world.of_type(SUBNET)]
    assert len(ranges) == 6
    for index, one in enumerate(ranges):
        assert one.subnet_of(whole)
        assert not any(one.overlaps(other) for other in ranges[index + 1 :])


def test_only_public_subnets_are_for_internet_load_balancers_and_none_gives_public_addresses(world: World) -> None:
    for record in world.of_type(SUBNET):
        public = record.name.startswith("network-public-")
        tags = record.inputs["tags"]
        assert ("kubernetes.io/role/elb" in tags) is public
        assert ("kubernetes.io/role/internal-elb" in tags) is not public
        assert record.inputs.get("mapPublicIpOnLaunch", False) is False


def test_one_nat_gateway_serves_all_zones(world: World) -> None:
    (nat,) = world.of_type(NAT)
    routes = [record for record in world.of_type(ROUTE) if "natGatewayId" in record.inputs]
    assert len(routes) == 3
    assert len({record.inputs["natGatewayId"] for record in routes}) == 1
    assert all(nat.urn in record.depends_on for record in routes)


def test_a_nat_gateway_per_zone_serves_its_own() -> None:
    world = world_of(plans.created_network(per_zone=True))
    assert len(world.of_type(NAT)) == 3
    for zone in plans.ZONES:
        route = world[ROUTE, f"network-private-{zone}-internet"]
        assert world[NAT, f"network-nat-{zone}"].urn in route.depends_on


def test_nat_goes_before_its_address_and_the_internet_gateway(world: World) -> None:
    (nat,) = world.of_type(NAT)
    (address,) = world.of_type("aws:ec2/eip:Eip")
    route = world[ROUTE, "network-public-internet"]
    gateway = world["aws:ec2/internetGateway:InternetGateway", "network-internet"]
    assert address.urn in nat.depends_on
    assert route.urn in nat.depends_on
    assert route.urn in address.depends_on
    assert gateway.urn in route.depends_on


def test_s3_is_always_reached_without_nat(world: World) -> None:
    endpoint = world[ENDPOINT, "network-endpoint-s3"].inputs
    assert endpoint["vpcEndpointType"] == "Gateway"
    assert endpoint["serviceName"] == "com.amazonaws.us-east-1.s3"
    assert len(endpoint["routeTableIds"]) == 3
    assert [record.name for record in world.of_type(ENDPOINT)] == ["network-endpoint-s3"]


def test_without_internet_endpoints_stand_in_for_it() -> None:
    world = world_of(plans.created_network(internet=False))
    assert not world.of_type(NAT)
    assert not world.of_type("aws:ec2/internetGateway:InternetGateway")
    assert not world.of_type(ROUTE)
    assert len(world.of_type(SUBNET)) == 3
    interfaces = [r for r in world.of_type(ENDPOINT) if r.inputs["vpcEndpointType"] == "Interface"]
    assert {r.inputs["serviceName"].removeprefix("com.amazonaws.us-east-1.") for r in interfaces} == {
        "ec2",
        "ecr.api",
        "ecr.dkr",
        "eks",
        "eks-auth",
        "sts",
    }
    rule = world["aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "network-endpoints-https"].inputs
    assert (rule["cidrIpv4"], rule["fromPort"], rule["toPort"]) == ("10.20.0.0/16", 443, 443)
    for record in interfaces:
        assert record.inputs["privateDnsEnabled"] is True
        assert record.inputs["securityGroupIds"] == [rule["securityGroupId"]]
        assert record.urn in world["aws:eks/nodeGroup:NodeGroup", "system-nodes"].depends_on


def test_nobody_is_in_the_default_security_group(world: World) -> None:
    inputs = world["aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", "network-default-group"].inputs
    assert not inputs.get("ingress")
    assert not inputs.get("egress")


def test_flow_logs_are_kept_encrypted_and_end_before_their_group(world: World) -> None:
    group = world["aws:cloudwatch/logGroup:LogGroup", "network-flow-logs-group"]
    assert group.inputs["retentionInDays"] == 14
    assert group.inputs["kmsKeyId"]
    log = world["aws:ec2/flowLog:FlowLog", "network-flow-logs-log"]
    assert log.inputs["trafficType"] == "ALL"
    assert {group.urn, world["aws:iam/rolePolicy:RolePolicy", "network-flow-logs-policy"].urn} <= set(log.depends_on)


@pytest.mark.skipif(ATTACHMENT not in resource_types(), reason="the simulated account has no transit gateways")
def test_a_connection_is_routed_back_and_let_in_to_the_api() -> None:
    world = world_of(plans.created_network(connected=True))
    attachment = world[ATTACHMENT, "network-transit"]
    assert attachment.inputs["transitGatewayId"] == "tgw-0123456789abcdef0"
    assert len(attachment.inputs["subnetIds"]) == 3
    routes = [record for record in world.of_type(ROUTE) if "transitGatewayId" in record.inputs]
    assert len(routes) == 6
    assert all(attachment.urn in record.depends_on for record in routes)
    rule = world["aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "cluster-api-from-10.8.0.0/16"].inputs
    assert (rule["ipProtocol"], rule["fromPort"], rule["toPort"]) == ("tcp", 443, 443)
