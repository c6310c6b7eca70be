"""`leaks`: what AWS still has of a stack after its destroy, and what it costs to forget it.

Everything that Pulumi makes carries the stack's tag. What controllers made in the cluster's name (volumes, network
interfaces, load balancers, nodes) carries the cluster's, and no destroy of ours knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ops import aws
from ops.console import FINDINGS, OK, out, print_json, table
from ops.errors import MissingError
from ops.leaks_networking import load_balancers, security_groups, target_groups
from ops.leftover import Leftover
from ops.project import plan_of, region_of
from planner import Plan
from planner.naming import PROJECT
from planner.plan import EksPlan

_KEPT_WITH_DATA: Final = ("s3", "kms")
_KEPT_WITH_CLUSTER: Final = ("eks", "fsx")
_CLUSTER_TAGS: Final = (
    "KubernetesCluster",
    "cluster.k8s.amazonaws.com/name",
    "eks:cluster-name",
    "eks:eks-cluster-name",  # Karpenter's
    "aws:eks:cluster-name",
)


def show_leaks(stack: str, *, as_json: bool) -> int:
    """List what is left; 1 where something is that nobody meant to keep."""
    plan = plan_of(stack)
    region = region_of(plan)
    try:
        found = find(plan, region)
    except aws.ERRORS as error:
        raise aws.explained(error, doing="looking for what is left") from error
    leaked = [one for one in found if not one.kept]
    if as_json:
        print_json({"stack": stack, "leaked": leaked, "kept": [one for one in found if one.kept]})
        return FINDINGS if leaked else OK
    if found:
        rows = [("kept" if one.kept else "[red]left[/red]", one.service, one.kind, one.id, one.detail) for one in found]
        out.print(table(f"What AWS has of stack {stack}", ("", "service", "what", "id", ""), rows))
    for one in leaked:
        out.print(f"  {one.remove}", markup=False, soft_wrap=True)
    out.print(
        f"{len(leaked)} left, {len(found) - len(leaked)} kept on purpose (`protection` in the stack file)"
        if found
        else f"nothing of stack {stack} is left in {region}"
    )
    return FINDINGS if leaked else OK


def find(plan: Plan, region: str) -> tuple[Leftover, ...]:
    """Everything with the stack's tags or the cluster's, each once."""
    if not isinstance(plan.target, EksPlan):
        raise MissingError(f"stack {plan.stack} has nothing in AWS")
    cluster = plan.target.cluster_name
    ec2 = aws.client("ec2", region)
    searches: tuple[Callable[[], Iterator[Leftover]], ...] = (
        lambda: _tagged(plan, region, ec2),
        lambda: _instances(ec2, cluster, region),
        lambda: _launch_templates(ec2, cluster, region),
        lambda: _volumes(ec2, cluster, region),
        lambda: _interfaces(ec2, cluster, region),
        lambda: load_balancers(cluster, region),
        lambda: target_groups(cluster, region),
        lambda: security_groups(ec2, cluster, region),
        lambda: _log_groups(cluster, region),
    )
    found: dict[str, Leftover] = {}
    for search in searches:
        for one in search():
            found.setdefault(one.id, one)
    return tuple(sorted(found.values(), key=lambda one: (one.kept, one.service, one.kind, one.id)))


def _tagged(plan: Plan, region: str, ec2: Any) -> Iterator[Leftover]:
    """By the tag that everything of Pulumi's carries."""
    pages = (
        aws.client("resourcegroupstaggingapi", region)
        .get_paginator("get_resources")
        .paginate(TagFilters=[{"Key": f"{PROJECT}/stack", "Values": [plan.stack]}])
    )
    arns = [item["ResourceARN"] for page in pages for item in page["ResourceTagMappingList"]]
    gone = _gone_instances(ec2, [arn.rsplit("/", 1)[1] for arn in arns if ":instance/" in arn])
    kms = aws.client("kms", region)
    for arn in arns:
        _, _, service, _, _, resource = arn.split(":", 5)
        kind, _, name = resource.partition("/") if "/" in resource else ("bucket", "", resource)
        name = name or resource
        if name in gone or (service == "kms" and _is_going(kms, arn)):
            continue
        kept = (plan.protect_data and service in _KEPT_WITH_DATA) or (
            plan.protect_cluster and service in _KEPT_WITH_CLUSTER
        )
        yield Leftover(
            service=service,
            kind=kind,
            id=name if service != "s3" else resource,
            detail="",
            kept=kept,
            remove=_removal(service, kind, name, arn, region),
        )


def _gone_instances(ec2: Any, ids: list[str]) -> set[str]:
    """Instances that have ended: EC2 lists them, tags and all, for an hour."""
    if not ids:
        return set()
    pages = ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-id", "Values": ids}])
    alive = {
        item["InstanceId"]
        for page in pages
        for reservation in page["Reservations"]
        for item in reservation["Instances"]
        if item["State"]["Name"] != "terminated"
    }
    return set(ids) - alive


def _is_going(kms: Any, arn: str) -> bool:
    return kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "PendingDeletion"


def _removal(service: str, kind: str, name: str, arn: str, region: str) -> str:
    commands = {
        "s3": f"aws s3 rb s3://{name} --force",
        "kms": f"aws kms schedule-key-deletion --key-id {name} --pending-window-in-days 7 --region {region}",
        "eks": f"aws eks delete-cluster --name {name} --region {region}",
        "fsx": f"aws fsx delete-file-system --file-system-id {name} --region {region}",
        "logs": f"aws logs delete-log-group --log-group-name {name} --region {region}",
        "ec2/vpc": f"aws ec2 delete-vpc --vpc-id {name} --region {region}",
        "ec2/subnet": f"aws ec2 delete-subnet --subnet-id {name} --region {region}",
        "ec2/natgateway": f"aws ec2 delete-nat-gateway --nat-gateway-id {name} --region {region}",
        "ec2/elastic-ip": f"aws ec2 release-address --allocation-id {name} --region {region}",
        "ec2/security-group": f"aws ec2 delete-security-group --group-id {name} --region {region}",
        "ec2/launch-template": f"aws ec2 delete-launch-template --launch-template-id {name} --region {region}",
        "ec2/volume": f"aws ec2 delete-volume --volume-id {name} --region {region}",
        "ec2/instance": f"aws ec2 terminate-instances --instance-ids {name} --region {region}",
    }
    known = commands.get(f"{service}/{kind}") or commands.get(service)
    return known or f"pulumi destroy again, or remove {arn} in the console"


def _filters(cluster: str) -> tuple[tuple[str, str], ...]:
    """Tags by which controllers mark what they make for a cluster. `shared` is what was only lent to it."""
    return ((f"kubernetes.io/cluster/{cluster}", "owned"), *((key, cluster) for key in _CLUSTER_TAGS))


def _of_cluster(ec2: Any, operation: str, key: str, cluster: str) -> Iterator[Any]:
    """Everything of a kind with one of the cluster's tags; what has several comes several times."""
    for tag, value in _filters(cluster):
        pages = ec2.get_paginator(operation).paginate(Filters=[{"Name": f"tag:{tag}", "Values": [value]}])
        for page in pages:
            yield from page[key]


def _instances(ec2: Any, cluster: str, region: str) -> Iterator[Leftover]:
    for reservation in _of_cluster(ec2, "describe_instances", "Reservations", cluster):
        for item in reservation["Instances"]:
            if item["State"]["Name"] not in {"terminated", "shutting-down"}:
                pool = {tag["Key"]: tag["Value"] for tag in item["Tags"]}.get("karpenter.sh/nodepool")
                yield Leftover(
                    service="ec2",
                    kind="instance",
                    id=item["InstanceId"],
                    detail=f"{item['InstanceType']}, {item['State']['Name']}"
                    + (f", of Karpenter's NodePool {pool}" if pool else ""),
                    kept=False,
                    remove=_removal("ec2", "instance", item["InstanceId"], "", region),
                )


def _launch_templates(ec2: Any, cluster: str, region: str) -> Iterator[Leftover]:
    """Karpenter makes them as it launches, and removes them with their EC2NodeClass."""
    for item in _of_cluster(ec2, "describe_launch_templates", "LaunchTemplates", cluster):
        yield Leftover(
            service="ec2",
            kind="launch-template",
            id=item["LaunchTemplateId"],
            detail=item["LaunchTemplateName"],
            kept=False,
            remove=_removal("ec2", "launch-template", item["LaunchTemplateId"], "", region),
        )


def _volumes(ec2: Any, cluster: str, region: str) -> Iterator[Leftover]:
    for item in _of_cluster(ec2, "describe_volumes", "Volumes", cluster):
        tags = {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        claim = tags.get("kubernetes.io/created-for/pvc/name", "")
        yield Leftover(
            service="ec2",
            kind="volume",
            id=item["VolumeId"],
            detail=f"{item['Size']} GiB, {item['State']}{f', of claim {claim}' if claim else ''}",
            kept=False,
            remove=_removal("ec2", "volume", item["VolumeId"], "", region),
        )


def _interfaces(ec2: Any, cluster: str, region: str) -> Iterator[Leftover]:
    for item in _of_cluster(ec2, "describe_network_interfaces", "NetworkInterfaces", cluster):
        name = item["NetworkInterfaceId"]
        yield Leftover(
            service="ec2",
            kind="network-interface",
            id=name,
            detail=f"{item['Status']}; holds its subnet and security groups",
            kept=False,
            remove=f"aws ec2 delete-network-interface --network-interface-id {name} --region {region}",
        )


def _log_groups(cluster: str, region: str) -> Iterator[Leftover]:
    """The control plane's last lines come after its group is gone, and make it anew: for ever, and without a tag."""
    logs = aws.client("logs", region)
    for prefix in (f"/aws/eks/{cluster}/", f"/aws/vpc/{cluster}/", f"/aws/fsx/{cluster}"):
        for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix):
            for item in page["logGroups"]:
                yield Leftover(
                    service="logs",
                    kind="log-group",
                    id=item["logGroupName"],
                    detail=f"{item.get('storedBytes', 0) / 1e6:.1f} MB",
                    kept=False,
                    remove=_removal("logs", "log-group", item["logGroupName"], "", region),
                )
