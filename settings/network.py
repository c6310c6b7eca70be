"""The network that an EKS target lives in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from settings.base import AvailabilityZone, Ipv4Cidr, Section, WrongValueError


class TransitGatewayConnection(Section):
    """A way into the created VPC that exists before the cluster does."""

    transit_gateway: Annotated[str, Field(pattern=r"^tgw-[0-9a-f]{8,17}$")]
    """Transit gateway that the VPC is attached to; its default route table must propagate."""
    cidrs: list[Ipv4Cidr] = Field(min_length=1)
    """Address ranges behind it that may reach the API server and must be routed back."""


class CreateNetwork(Section):
    """A VPC of our own: private subnets for nodes, small public subnets for NAT gateways and load balancers."""

    kind: Literal["create"]
    cidr: Ipv4Cidr = "10.20.0.0/16"
    """Address range of the VPC, /16 to /20."""
    egress: Literal["nat_gateway", "nat_gateway_per_zone", "vpc_endpoints"] = "nat_gateway"
    """How nodes reach what is outside: one NAT gateway, one a zone, or no internet at all."""
    connection: TransitGatewayConnection | None = None
    """A declared way in, needed for a private API endpoint."""
    flow_log_retention_days: Literal[7, 14, 30, 60, 90] = 14
    """Days that VPC flow logs are kept."""


class ExistingSubnet(Section):
    """A private subnet that exists and routes to the internet or to the endpoints that EKS nodes need."""

    id: Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]
    availability_zone: AvailabilityZone


class ExistingNetwork(Section):
    """A VPC that somebody else made."""

    kind: Literal["existing"]
    vpc: Annotated[str, Field(pattern=r"^vpc-[0-9a-f]{8,17}$")]
    """Id of the VPC."""
    subnets: list[ExistingSubnet] = Field(min_length=2)
    """Private subnets in at least two zones, at most one a zone."""

    @model_validator(mode="after")
    def _zones(self) -> ExistingNetwork:
        zones = [subnet.availability_zone for subnet in self.subnets]
        if len(set(zones)) < 2:
            raise WrongValueError(
                "all subnets are in one zone", help="EKS needs subnets in two zones at least", at=("subnets",)
            )
        ids = [subnet.id for subnet in self.subnets]
        for index, subnet in enumerate(ids):
            if subnet in ids[:index]:
                raise WrongValueError(
                    f"{subnet} is named twice, and a subnet lies in one zone",
                    help="name the subnet of the other zone",
                    at=("subnets", index, "id"),
                )
        if len(set(zones)) != len(zones):
            raise WrongValueError("two subnets in one zone", help="keep one subnet a zone", at=("subnets",))
        return self


Network = Annotated[CreateNetwork | ExistingNetwork, Field(discriminator="kind")]
