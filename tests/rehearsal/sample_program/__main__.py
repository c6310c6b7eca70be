"""The platform's shape in small: a network, a cluster, a Kubernetes provider made from it, and what runs there."""

import json
import os

import pulumi
import pulumi_aws as aws
from cluster_contents import declare

config = pulumi.Config()
provider = aws.Provider("aws", region=pulumi.Config("aws").require("region"))
owned = pulumi.ResourceOptions(provider=provider)

vpc = aws.ec2.Vpc("vpc", cidr_block=config.get("cidr") or "10.0.0.0/16", opts=owned)
subnets = [
    aws.ec2.Subnet(f"subnet-{index}", vpc_id=vpc.id, cidr_block=f"10.0.{index}.0/24", opts=owned)
    for index in range(config.require_int("subnets"))
]
role = aws.iam.Role(
    "cluster",
    assume_role_policy=json.dumps({"Version": "2012-10-17", "Statement": []}),
    opts=owned,
)
bucket = aws.s3.Bucket("models", opts=pulumi.ResourceOptions(provider=provider, protect=True, retain_on_delete=True))
cluster = aws.eks.Cluster(
    "cluster",
    name="sample",
    role_arn=role.arn,
    version=config.require("version"),
    vpc_config=aws.eks.ClusterVpcConfigArgs(subnet_ids=[subnet.id for subnet in subnets]),
    opts=pulumi.ResourceOptions(provider=provider, protect=True),
)
template = aws.ec2.LaunchTemplate(
    "gpu",
    name="sample-gpu",
    image_id=config.get("image") or "ami-0123456789abcdef0",
    vpc_security_group_ids=[cluster.vpc_config.cluster_security_group_id],
    update_default_version=True,
    opts=owned,
)
caller = aws.get_caller_identity(opts=pulumi.InvokeOptions(provider=provider))
pulumi.export("account", caller.account_id)
pulumi.export("endpoint", cluster.endpoint)
pulumi.export("template_version", template.latest_version)
pulumi.export("key", config.get_secret("key") or pulumi.Output.secret("generated"))
if config.get_bool("environment"):
    pulumi.export("environment", sorted(os.environ))
if config.get("lookup"):
    aws.ec2.get_ami(most_recent=True, opts=pulumi.InvokeOptions(provider=provider))
if config.get("refuse"):
    raise pulumi.RunError("the program refuses: " + config.require("refuse"))
if config.get_bool("kubernetes"):
    declare(cluster, temperature=config.require("temperature"), skip=config.get("skip"), label=config.get("label"))
