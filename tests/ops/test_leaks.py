"""`leaks`: what is left of a stack in moto's account, and nothing of others."""

from __future__ import annotations

from dataclasses import replace

from ops import aws as ops_aws
from ops.leaks import find
from ops.leftover import Leftover
from planner.naming import PROJECT
from planner.plan import EksPlan, Plan
from tests.factories import stack_plan

REGION = "us-east-1"
DEV = stack_plan("dev")
assert isinstance(DEV.target, EksPlan)
CLUSTER = DEV.target.cluster_name
MINE = [{"Key": f"{PROJECT}/stack", "Value": "dev"}]


def left(plan: Plan = DEV) -> dict[str, Leftover]:
    return {one.id: one for one in find(plan, REGION)}


def volume(*tags: tuple[str, str]) -> str:
    made = ops_aws.client("ec2", REGION).create_volume(
        AvailabilityZone="us-east-1a",
        Size=20,
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": k, "Value": v} for k, v in tags]}],
    )
    return str(made["VolumeId"])


def test_nothing_is_left(aws: None) -> None:
    volume(("Name", "somebody else's"))
    assert left() == {}


def test_volumes_of_the_cluster_and_of_nobody_else(aws: None) -> None:
    owned = volume((f"kubernetes.io/cluster/{CLUSTER}", "owned"), ("kubernetes.io/created-for/pvc/name", "prom-0"))
    volume(("kubernetes.io/cluster/other", "owned"))
    volume((f"kubernetes.io/cluster/{CLUSTER}", "shared"))
    found = left()
    assert set(found) == {owned}
    assert "prom-0" in found[owned].detail
    assert found[owned].remove.startswith(f"aws ec2 delete-volume --volume-id {owned}")


def test_nodes_interfaces_and_load_balancers_of_the_cluster(aws: None) -> None:
    ec2 = ops_aws.client("ec2", REGION)
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"][:2]]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    node_tags = [{"Key": "eks:cluster-name", "Value": CLUSTER}]

    def node() -> str:
        made = ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": node_tags}],
        )
        return str(made["Instances"][0]["InstanceId"])

    running, ended = node(), node()
    ec2.terminate_instances(InstanceIds=[ended])
    interface = ec2.create_network_interface(
        SubnetId=subnets[0],
        TagSpecifications=[
            {
                "ResourceType": "network-interface",
                "Tags": [{"Key": "cluster.k8s.amazonaws.com/name", "Value": CLUSTER}],
            }
        ],
    )["NetworkInterface"]["NetworkInterfaceId"]
    elb = ops_aws.client("elbv2", REGION)
    for name, cluster in (("mine", CLUSTER), ("other", "other")):
        elb.create_load_balancer(Name=name, Subnets=subnets, Tags=[{"Key": "elbv2.k8s.aws/cluster", "Value": cluster}])
    found = left()
    assert set(found) == {running, interface, "mine"}
    assert all(not one.kept and one.remove for one in found.values())


def test_what_pulumi_left_and_what_was_meant_to_stay(aws: None) -> None:
    s3 = ops_aws.client("s3", REGION)
    for bucket, tags in (("weights-of-dev", MINE), ("of-others", [{"Key": f"{PROJECT}/stack", "Value": "prod"}])):
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    kms = ops_aws.client("kms", REGION)
    kms_tags = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in MINE]
    kept = kms.create_key(Tags=kms_tags)["KeyMetadata"]["KeyId"]
    going = kms.create_key(Tags=kms_tags)["KeyMetadata"]["KeyId"]
    kms.schedule_key_deletion(KeyId=going)
    found = left()
    assert set(found) == {"weights-of-dev", kept}
    assert not any(one.kept for one in found.values())  # dev protects nothing
    protected = left(replace(DEV, protect_data=True))
    assert all(one.kept for one in protected.values())
    assert found["weights-of-dev"].remove == "aws s3 rb s3://weights-of-dev --force"


def test_each_thing_is_told_once(aws: None) -> None:
    """A volume with both tags is one leftover."""
    both = volume((f"kubernetes.io/cluster/{CLUSTER}", "owned"), (f"{PROJECT}/stack", "dev"))
    assert list(left()) == [both]


def test_what_karpenter_launched_is_told_by_its_node_pool(aws: None) -> None:
    ec2 = ops_aws.client("ec2", REGION)
    image = ec2.describe_images()["Images"][0]["ImageId"]

    def tagged(kind: str, cluster: str) -> list[dict[str, object]]:
        tags = {
            f"kubernetes.io/cluster/{cluster}": "owned",
            "eks:eks-cluster-name": cluster,
            "karpenter.sh/nodepool": "l40s-spot",
        }
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]

    ids: dict[str, str] = {}
    for cluster in (CLUSTER, "other"):
        made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=tagged("instance", cluster))
        ids[cluster] = made["Instances"][0]["InstanceId"]
        template = ec2.create_launch_template(
            LaunchTemplateName=f"karpenter.k8s.aws/{cluster}",
            LaunchTemplateData={"ImageId": image},
            TagSpecifications=tagged("launch-template", cluster),
        )
        ids[f"template of {cluster}"] = template["LaunchTemplate"]["LaunchTemplateId"]
    found = left()
    assert set(found) == {ids[CLUSTER], ids[f"template of {CLUSTER}"]}
    assert "NodePool l40s-spot" in found[ids[CLUSTER]].detail
    assert found[ids[CLUSTER]].remove.startswith("aws ec2 terminate-instances")
    assert found[ids[f"template of {CLUSTER}"]].remove.startswith("aws ec2 delete-launch-template")


def test_what_a_load_balancer_leaves_beside_it(aws: None) -> None:
    ec2 = ops_aws.client("ec2", REGION)
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    elb = ops_aws.client("elbv2", REGION)
    groups: dict[str, str] = {}
    for cluster in (CLUSTER, "other"):
        tags = [{"Key": "elbv2.k8s.aws/cluster", "Value": cluster}]
        groups[cluster] = ec2.create_security_group(
            GroupName=f"k8s-{cluster}",
            Description="of a load balancer",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        )["GroupId"]
        elb.create_target_group(Name=f"k8s-{cluster}"[:32].rstrip("-"), Protocol="TCP", Port=80, VpcId=vpc, Tags=tags)
    found = left()
    assert groups[CLUSTER] in found
    assert groups["other"] not in found
    assert [one.kind for one in found.values()].count("target-group") == 1


def test_a_log_group_that_the_control_plane_made_anew(aws: None) -> None:
    logs = ops_aws.client("logs", REGION)
    for name in (f"/aws/eks/{CLUSTER}/cluster", f"/aws/eks/{CLUSTER}-2/cluster"):
        logs.create_log_group(logGroupName=name)
    assert set(left()) == {f"/aws/eks/{CLUSTER}/cluster"}
