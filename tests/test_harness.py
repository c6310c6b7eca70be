"""The harness itself: it must see what the engine sees and fail where the engine fails."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s
import pytest

from rehearsal.engines.program import DuplicateUrnError
from tests.harness import UNKNOWN, World, deploy

CLUSTER = "aws:eks/cluster:Cluster"
VPC = "aws:ec2/vpc:Vpc"
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"


class Network(pulumi.ComponentResource):
    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Network", name, None, opts)
        self.vpc = aws.ec2.Vpc("vpc", cidr_block="10.0.0.0/16", opts=pulumi.ResourceOptions(parent=self))
        self.subnet = aws.ec2.Subnet(
            "a", vpc_id=self.vpc.id, cidr_block="10.0.0.0/24", opts=pulumi.ResourceOptions(parent=self.vpc)
        )
        self.register_outputs({"vpc": self.vpc.id})


def sample() -> None:
    provider = aws.Provider("aws", region="eu-west-1")
    network = Network("network", pulumi.ResourceOptions(provider=provider, protect=True, retain_on_delete=True))
    cluster = aws.eks.Cluster(
        "main",
        role_arn="arn:aws:iam::123456789012:role/eks",
        vpc_config=aws.eks.ClusterVpcConfigArgs(subnet_ids=[network.subnet.id]),
        opts=pulumi.ResourceOptions(provider=provider, depends_on=[network], ignore_changes=["version"]),
    )
    kubeconfig = pulumi.Output.secret(cluster.endpoint.apply(lambda endpoint: f"server: {endpoint}"))
    kubernetes = k8s.Provider("eks", kubeconfig=kubeconfig, cluster_identifier=cluster.endpoint)
    opts = pulumi.ResourceOptions(provider=kubernetes)
    k8s.core.v1.ConfigMap("settings", data={"vpc": network.vpc.id, "n": cluster.version}, opts=opts)
    k8s.core.v1.Secret("key", string_data={"key": pulumi.Output.secret("hunter2hunter2")}, opts=opts)
    k8s.apps.v1.Deployment(
        "web",
        spec=k8s.apps.v1.DeploymentSpecArgs(
            replicas=2,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels={"app": "web"}),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(labels={"app": "web"}),
                spec=k8s.core.v1.PodSpecArgs(containers=[k8s.core.v1.ContainerArgs(name="web", image="web:1")]),
            ),
        ),
        opts=pulumi.ResourceOptions(provider=kubernetes, aliases=[pulumi.Alias(name="old-web")]),
    )
    k8s.helm.v3.Release("chart", k8s.helm.v3.ReleaseArgs(chart="nginx", version="1.0.0", namespace="web"), opts=opts)
    pulumi.export("endpoint", cluster.endpoint)
    pulumi.export("kubeconfig", kubeconfig)


@pytest.fixture(scope="module")
def world() -> World:
    return deploy(sample)


def test_urns_carry_the_whole_chain_of_parents_and_not_the_stack(world: World) -> None:
    subnet = world["aws:ec2/subnet:Subnet", "a"]
    chain = "inference:index:Network$aws:ec2/vpc:Vpc$aws:ec2/subnet:Subnet"
    assert subnet.urn == f"urn:pulumi:dev::inference-platform::{chain}::a"
    assert subnet.parent == world[VPC, "vpc"].urn


def test_options_reach_the_record(world: World) -> None:
    cluster = world[CLUSTER, "main"]
    assert cluster.ignore_changes == ("version",)
    assert cluster.provider == "urn:pulumi:dev::inference-platform::pulumi:providers:aws::aws"
    # depends_on of a component reaches the resources inside, which is what orders a destroy
    assert {world[VPC, "vpc"].urn, world["aws:ec2/subnet:Subnet", "a"].urn} <= set(cluster.depends_on)
    assert world["kubernetes:apps/v1:Deployment", "web"].aliases[0] == "name=old-web"


def test_protection_and_retention_are_inherited(world: World) -> None:
    subnet = world["aws:ec2/subnet:Subnet", "a"]
    assert subnet.protect
    assert subnet.retain_on_delete
    assert not world[CLUSTER, "main"].protect


def test_inputs_are_resolved_plain_and_whole_numbers_stay_whole(world: World) -> None:
    deployment = world["kubernetes:apps/v1:Deployment", "web"]
    replicas = deployment.inputs["spec"]["replicas"]
    assert replicas == 2
    assert isinstance(replicas, int)
    assert world[CONFIG_MAP, "settings"].inputs["data"]["vpc"].startswith("vpc-0")


def test_secrets_are_flagged(world: World) -> None:
    secret = world["kubernetes:core/v1:Secret", "key"]
    assert secret.inputs["stringData"] == {"key": "hunter2hunter2"}
    assert secret.secrets == ("stringData",)  # the SDK marks the whole block
    assert world.secret_outputs == ("kubeconfig",)
    assert world.outputs["kubeconfig"] == f"server: {world.outputs['endpoint']}"


def test_inventory_is_sorted_and_says_parent_and_protection(world: World) -> None:
    inventory = world.inventory()
    assert inventory == sorted(inventory)
    assert f"{VPC} vpc inference:index:Network protect" in inventory
    assert f"{CLUSTER} main pulumi:pulumi:Stack" in inventory


def test_a_preview_lists_the_same_resources_with_unknown_outputs(world: World) -> None:
    first = deploy(sample, preview=True)
    assert first.inventory() == world.inventory()
    assert first["aws:ec2/subnet:Subnet", "a"].inputs["vpcId"] is UNKNOWN
    assert first["aws:ec2/subnet:Subnet", "a"].inputs["cidrBlock"] == "10.0.0.0/24"
    assert first.outputs["endpoint"] is UNKNOWN


def test_a_duplicate_urn_fails() -> None:
    def program() -> None:
        aws.ec2.Vpc("same", cidr_block="10.0.0.0/16")
        aws.ec2.Vpc("same", cidr_block="10.1.0.0/16")

    with pytest.raises(DuplicateUrnError, match="same is declared twice"):
        deploy(program)


def test_an_assertion_in_an_apply_fails_though_nobody_awaits_it() -> None:
    def check(value: str) -> None:
        assert value == "something else"

    def program() -> None:
        aws.ec2.Vpc("vpc", cidr_block="10.0.0.0/16").id.apply(check)

    with pytest.raises(AssertionError, match="something else"):
        deploy(program)


def test_an_exception_of_the_program_comes_through() -> None:
    def program() -> None:
        aws.ec2.Vpc("vpc", cidr_block="10.0.0.0/16")
        raise pulumi.RunError("models[0]: no such pool")

    with pytest.raises(pulumi.RunError, match="no such pool"):
        deploy(program)


def test_an_unknown_aws_type_fails() -> None:
    def program() -> None:
        aws.sagemaker.Model("model", execution_role_arn="arn:aws:iam::123456789012:role/x")

    with pytest.raises(AssertionError, match="sagemaker"):
        deploy(program)


def test_an_unknown_function_fails() -> None:
    def program() -> None:
        aws.ec2.get_ami(most_recent=True, owners=["amazon"])

    with pytest.raises(Exception, match="getAmi"):
        deploy(program)


def test_configuration_reaches_the_program() -> None:
    seen: list[str] = []
    deploy(lambda: seen.append(pulumi.Config("demo").require("key")), config={"demo:key": "value"})
    assert seen == ["value"]


def test_worlds_do_not_see_each_other() -> None:
    deploy(sample, stack="one")
    second = deploy(lambda: None, stack="two")
    assert second.resources == ()


def test_a_missing_resource_names_what_there_is(world: World) -> None:
    with pytest.raises(KeyError, match="there are: \\['vpc'\\]"):
        world[VPC, "other"]
