"""Network: who reaches the API server and the nodes."""

from __future__ import annotations

from collections.abc import Iterator

from policy.records import UNKNOWN, Report, Resource, ResourceRule, Rule, at, listed

CLUSTER = "aws:eks/cluster:Cluster"
EVERYONE = frozenset({"0.0.0.0/0", "::/0"})


def api_endpoint_not_open(resource: Resource, report: Report) -> None:
    """EKS opens the endpoint to everyone unless told otherwise."""
    if resource.type != CLUSTER:
        return
    config = resource.props.get("vpcConfig")
    if config is UNKNOWN or at(config, "endpointPublicAccess") is False:
        return
    cidrs = at(config, "publicAccessCidrs")
    if cidrs is UNKNOWN:
        return
    open_to = EVERYONE & {str(cidr) for cidr in listed(cidrs)}
    if open_to or not cidrs:
        report(
            f"the API server answers {', '.join(sorted(open_to)) or 'everyone (the default)'}: "
            "name your own ranges in `target.endpoint.admin_cidrs`"
        )


def cluster_secrets_encrypted(resource: Resource, report: Report) -> None:
    """Envelope encryption of Kubernetes Secrets by a key of the account."""
    if resource.type != CLUSTER:
        return
    config = resource.props.get("encryptionConfig")
    resources = at(config, "resources")
    if UNKNOWN not in (config, resources) and "secrets" not in listed(resources):
        report("Kubernetes Secrets are not encrypted by a key of yours: set encryptionConfig for `secrets`")


def no_open_ingress(resource: Resource, report: Report) -> None:
    """Nothing of this platform is meant for everyone; a gateway that is will bring an exception by name."""
    for cidr in _ingress_ranges(resource):
        if cidr in EVERYONE:
            report(f"ingress from {cidr}: name the ranges or the security group that may connect")


def _ingress_ranges(resource: Resource) -> Iterator[str]:
    props = resource.props
    if resource.type == "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
        yield from (str(props[key]) for key in ("cidrIpv4", "cidrIpv6") if props.get(key))
    elif resource.type == "aws:ec2/securityGroup:SecurityGroup":
        for rule in listed(props.get("ingress")):
            yield from (str(cidr) for key in ("cidrBlocks", "ipv6CidrBlocks") for cidr in listed(at(rule, key)))
    elif resource.type == "aws:ec2/securityGroupRule:SecurityGroupRule" and props.get("type") == "ingress":
        yield from (str(cidr) for key in ("cidrBlocks", "ipv6CidrBlocks") for cidr in listed(props.get(key)))


RULES: tuple[Rule, ...] = (
    ResourceRule(
        name="api-endpoint-not-open",
        description="The Kubernetes API server is not open to everyone.",
        check=api_endpoint_not_open,
    ),
    ResourceRule(
        name="cluster-secrets-encrypted",
        description="Kubernetes Secrets are encrypted by a key of the account.",
        check=cluster_secrets_encrypted,
    ),
    ResourceRule(
        name="no-open-ingress",
        description="No security group lets everyone in.",
        check=no_open_ingress,
    ),
)
