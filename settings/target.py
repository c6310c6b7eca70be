"""Where the platform runs: an EKS cluster that we make, or a cluster that exists."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from settings.base import Arn, Ipv4Cidr, Section, WrongValueError
from settings.calendar import MaintenanceWindow

# Ranges that EKS refuses in publicAccessCidrs. Source: RFC 1918, RFC 6598, RFC 3927, RFC 1122.
_NEVER_PUBLIC = tuple(
    ipaddress.IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8")
)


def _network(cidr: str, index: int) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise WrongValueError(
            f"`{cidr}` is not a network: {str(error).removeprefix(f'{cidr} ')}",
            help="write the first address of the range, as in 203.0.113.0/24, or one address with /32",
            at=(index,),
        ) from None


class PublicAndPrivateEndpoint(Section):
    """API server reachable inside the VPC, and from the named address ranges over the internet."""

    access: Literal["public_and_private"]
    admin_cidrs: list[Ipv4Cidr] = Field(min_length=1)
    """Address ranges of the people and runners that deploy, for instance `203.0.113.0/24`."""

    @field_validator("admin_cidrs")
    @classmethod
    def _not_the_world(cls, cidrs: list[str]) -> list[str]:
        for index, cidr in enumerate(cidrs):
            network = _network(cidr, index)
            if any(network.subnet_of(private) for private in _NEVER_PUBLIC):
                raise WrongValueError(
                    f"{cidr} is a private range, which never reaches a public endpoint: EKS refuses it",
                    help="name the public address that your office or runner comes from, such as 203.0.113.0/24",
                    at=(index,),
                )
            if network.prefixlen < 8:
                raise WrongValueError(
                    f"{cidr} opens the API server to the internet",
                    help="name the address range of your office, VPN or runner, such as 203.0.113.0/24",
                    at=(index,),
                )
        return cidrs


class PrivateEndpoint(Section):
    """API server reachable only inside the VPC and over what is connected to it."""

    access: Literal["private"]
    admin_cidrs: list[Ipv4Cidr] = Field(default_factory=list[Ipv4Cidr])
    """Private ranges of the people and runners that deploy; without them only the cluster's own nodes get in."""


Endpoint = Annotated[PublicAndPrivateEndpoint | PrivateEndpoint, Field(discriminator="access")]


class SystemNodes(Section):
    """Untainted CPU nodes for controllers, routers, Ray heads and monitoring."""

    instance_type: str = "m7i.xlarge"
    """EC2 type without GPU."""
    min: int = Field(default=2, ge=1, le=20)
    """Nodes at least; also how many are there at the start."""
    max: int = Field(default=4, ge=1, le=50)
    """Nodes at most."""

    @model_validator(mode="after")
    def _ordered(self) -> SystemNodes:
        if self.max < self.min:
            raise WrongValueError(f"max ({self.max}) is below min ({self.min})", help="raise max", at=("max",))
        return self


class EksTarget(Section):
    """An EKS cluster made and owned by this stack."""

    kind: Literal["eks"]
    kubernetes_version: str = "1.35"
    """Minor version, quoted, for instance "1.35"."""
    account_id: Annotated[str, Field(pattern=r"^[0-9]{12}$")] | None = None
    """The AWS account of this stack, quoted; with credentials of any other account nothing is made."""
    admins: list[Arn] = Field(min_length=1)
    """IAM principals with cluster-admin; the one that runs `pulumi up` must be among them."""
    endpoint: Endpoint
    """Who can reach the API server."""
    system_nodes: SystemNodes = SystemNodes()
    """The CPU node group."""
    load_balancer_controller: bool = True
    """Install the AWS Load Balancer Controller, which Services of type LoadBalancer and Ingresses need; turn it off
    where you bring your own."""
    service_cidr: Ipv4Cidr = "172.20.0.0/16"
    """Addresses of Services, /12 to /24; nothing that pods must reach may have them. It never changes."""
    log_retention_days: Literal[7, 14, 30, 60, 90, 180, 365] = 30
    """Days that control-plane logs are kept in CloudWatch."""
    maintenance_window: MaintenanceWindow | None = None
    """When groups of any pool may climb back to better capacity; a pool's own wins."""

    @field_validator("admins")
    @classmethod
    def _principals(cls, admins: list[str]) -> list[str]:
        for index, arn in enumerate(admins):
            if ":iam::" not in arn or not any(f":{kind}/" in arn for kind in ("role", "user")):
                raise WrongValueError(
                    f"{arn} is not an IAM role or user",
                    help="name the role itself (arn:aws:iam::<account>:role/<name>), not an assumed-role session",
                    at=(index,),
                )
        if len(set(admins)) != len(admins):
            raise WrongValueError("the same principal is named twice", help="EKS takes one access entry for each")
        return admins


class ExistingClusterTarget(Section):
    """A Kubernetes cluster that exists. No AWS resource is made."""

    kind: Literal["existing_cluster"]
    kubeconfig: str = "~/.kube/config"
    """Path of the kubeconfig file."""
    context: str | None = None
    """Context inside it; the current one where left out."""
    kubernetes_version: str = "1.35"
    """Minor version of the cluster, quoted."""
    gpu_driver: Literal["operator", "preinstalled"] = "operator"
    """Who brings the NVIDIA driver and the container toolkit to the nodes."""
    storage_class: str | None = None
    """StorageClass of Prometheus' volume; the cluster's default where left out."""


Target = Annotated[EksTarget | ExistingClusterTarget, Field(discriminator="kind")]
