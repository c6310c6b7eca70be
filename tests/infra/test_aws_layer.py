"""The whole AWS layer of one plan: what is there, under which names, who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.aws import declare
from tests.harness import UNKNOWN, ResourceRecord, World, deploy
from tests.infra import plans

NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"
CLUSTER = "aws:eks/cluster:Cluster"
ADDON = "aws:eks/addon:Addon"
PROVIDER = "pulumi:providers:kubernetes"


@pytest.fixture(scope="module")
def world() -> World:
    return deploy(lambda: declare(plans.plan()))


def ancestors(world: World, record: ResourceRecord) -> set[str]:
    """URNs of everything that must exist before `record`, and so is destroyed after it."""
    seen: set[str] = set()
    waiting = [*record.depends_on]
    while waiting:
        urn = waiting.pop()
        if urn not in seen:
            seen.add(urn)
            waiting.extend(world.by_urn(urn).depends_on)
    return seen


def assert_before(world: World, first: ResourceRecord, later: ResourceRecord) -> None:
    assert first.urn in ancestors(world, later), f"{later.name} does not wait for {first.name}"


def aws_resources(world: World) -> Iterator[ResourceRecord]:
    return (record for record in world if record.type.startswith("aws:"))


def test_a_first_preview_lists_the_same_resources(world: World) -> None:
    preview = deploy(lambda: declare(plans.plan()), preview=True)
    assert preview.inventory() == world.inventory()
    assert preview[CLUSTER, "cluster-eks"].inputs["roleArn"] is UNKNOWN


def test_everything_comes_from_the_explicit_provider_below_a_component(world: World) -> None:
    provider = world["pulumi:providers:aws", "aws"]
    for record in aws_resources(world):
        assert record.provider == provider.urn, record.urn
        assert record.parent, record.urn
        assert world.by_urn(record.parent).type.startswith("inference:index:"), record.urn


def test_the_provider_tags_everything(world: World) -> None:
    inputs = world["pulumi:providers:aws", "aws"].inputs
    tags = inputs["defaultTags"]
    assert (json.loads(tags) if isinstance(tags, str) else tags) == {"tags": plans.TAGS}
    assert inputs["region"] == "us-east-1"


def test_logical_names_do_not_depend_on_stack_environment_or_cluster(world: World) -> None:
    base = plans.plan()
    assert not isinstance(base.target, type(plans.existing_cluster()))
    other = replace(
        base, stack="blue", environment="blue", target=plans.eks(cluster_name="elsewhere"), tags={"project": "x"}
    )
    assert deploy(lambda: declare(other), stack="blue").inventory() == world.inventory()


def test_the_kubernetes_provider_waits_for_what_objects_need(world: World) -> None:
    provider = world[PROVIDER, "kubernetes"]
    for record in (
        *world.of_type(ADDON),
        *world.of_type("aws:eks/accessPolicyAssociation:AccessPolicyAssociation"),
        world[NODE_GROUP, "system-nodes"],
    ):
        assert record.urn in provider.depends_on, record.name
    gpu_groups = {record.urn for record in world.of_type(NODE_GROUP) if record.name != "system-nodes"}
    assert gpu_groups
    assert not gpu_groups & ancestors(world, provider), "objects would wait for scarce capacity"


def test_the_kubeconfig_asks_for_a_token_and_holds_none(world: World) -> None:
    inputs = world[PROVIDER, "kubernetes"].inputs
    config = json.loads(inputs["kubeconfig"])
    user = config["users"][0]["user"]
    assert set(user) == {"exec"}
    arguments = user["exec"]["args"]
    assert arguments[:2] == ["eks", "get-token"]
    assert arguments[arguments.index("--cluster-name") + 1] == "inference-platform-prod"
    assert arguments[arguments.index("--region") + 1] == "us-east-1"
    assert config["clusters"][0]["cluster"]["server"] == inputs["clusterIdentifier"]
    assert config["clusters"][0]["cluster"]["certificate-authority-data"]
    for option in ("enableServerSideApply", "enableConfigMapMutable", "enableSecretMutable"):
        assert inputs[option] in (True, "true")
    assert "deleteUnreachable" not in inputs


def test_account_and_profile_of_the_stack_bind_both_providers() -> None:
    base = plans.plan()
    own = replace(base, aws_profile="platform-prod", target=plans.eks(account_id="111122223333"))
    bound = deploy(lambda: declare(own))
    provider = bound["pulumi:providers:aws", "aws"].inputs
    assert json.loads(provider["allowedAccountIds"]) == ["111122223333"]
    assert provider["profile"] == "platform-prod"
    user = json.loads(bound[PROVIDER, "kubernetes"].inputs["kubeconfig"])["users"][0]["user"]
    assert user["exec"]["env"] == [{"name": "AWS_PROFILE", "value": "platform-prod"}]


def test_without_them_any_caller_may_deploy(world: World) -> None:
    provider = world["pulumi:providers:aws", "aws"].inputs
    assert not {"allowedAccountIds", "profile"} & set(provider)


@pytest.mark.parametrize("name", ["system-nodes", "pool-h100-spot-nodes", "pool-h100-capacity-block-nodes"])
def test_nodes_wait_for_network_cluster_permissions_and_cni(world: World, name: str) -> None:
    group = world[NODE_GROUP, name]
    needed = [
        world[CLUSTER, "cluster-eks"],
        world[ADDON, "addons-nodes-vpc-cni"],
        world[ADDON, "addons-nodes-kube-proxy"],
        world["aws:ec2/vpcEndpoint:VpcEndpoint", "network-endpoint-s3"],
        *world.of_type("aws:ec2/natGateway:NatGateway"),
        *world.of_type("aws:ec2/route:Route"),
        *world.of_type("aws:ec2/routeTableAssociation:RouteTableAssociation"),
        *(r for r in world.of_type("aws:iam/rolePolicyAttachment:RolePolicyAttachment") if r.name.startswith("node-")),
    ]
    for record in needed:
        assert_before(world, record, group)


def test_control_plane_outlives_nodes_and_is_outlived_by_its_permissions_logs_and_network(world: World) -> None:
    cluster = world[CLUSTER, "cluster-eks"]
    needed = [
        world["aws:cloudwatch/logGroup:LogGroup", "cluster-logs"],
        world["aws:kms/key:Key", "cluster-key-key"],
        world["aws:iam/rolePolicyAttachment:RolePolicyAttachment", "cluster-AmazonEKSClusterPolicy"],
        world["aws:iam/rolePolicy:RolePolicy", "cluster-secrets"],
        world["aws:ec2/subnet:Subnet", "network-private-us-east-1a"],
        *world.of_type("aws:ec2/natGateway:NatGateway"),
    ]
    for record in needed:
        assert_before(world, record, cluster)
    for record in (*world.of_type(NODE_GROUP), *world.of_type(ADDON)):
        assert_before(world, cluster, record)


def test_without_pools_cache_and_internet_there_is_still_a_cluster() -> None:
    plan = plans.plan(
        pools=(),
        cache=replace(plans.without_lustre(plans.lustre_cache()), bucket=False),
        network=plans.existing_network(),
    )
    world = deploy(lambda: declare(plan))
    assert world.of_type(NODE_GROUP) == (world[NODE_GROUP, "system-nodes"],)
    assert not world.of_type("aws:s3/bucket:Bucket")
    assert not world.of_type("aws:ec2/vpc:Vpc")
    assert not world.of_type("aws:fsx/lustreFileSystem:LustreFileSystem")
    assert world[CLUSTER, "cluster-eks"].inputs["vpcConfig"]["subnetIds"] == ["subnet-0a", "subnet-0b", "subnet-0c"]


def test_an_existing_cluster_makes_nothing_of_aws() -> None:
    plan = plans.plan(target=plans.existing_cluster(), network=None, region=None, pools=())
    world = deploy(lambda: declare(plan))
    (provider,) = world.resources
    assert provider.type == PROVIDER
    assert provider.inputs["context"] == "lab"
    assert provider.inputs["kubeconfig"].endswith("/.kube/config")
    assert "~" not in provider.inputs["kubeconfig"]


def test_what_a_plan_lacks_is_said_in_words() -> None:
    with pytest.raises(ValueError, match="aws:region"):
        deploy(lambda: declare(plans.plan(region=None)))
    with pytest.raises(ValueError, match="needs a network"):
        deploy(lambda: declare(plans.plan(network=None)))
