"""The VPC: private subnets for everything that runs, small public ones for NAT gateways and load balancers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.flow_logs import FlowLogs, FlowLogsArgs
from infra.providers import Account
from planner.plan import CreatedNetworkPlan, ExistingNetworkPlan, ZonePlan

_ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOutputs:
    """What the cluster needs of a network, made here or not."""

    vpc_id: pulumi.Input[str]
    private_subnets: Mapping[str, pulumi.Input[str]]
    """Zone -> subnet id."""
    control_plane_zones: tuple[str, ...]
    """Zones whose subnets EKS takes for its own network interfaces, and the system nodes run in."""
    egress: tuple[pulumi.Resource, ...] = ()
    """Routes and endpoints that a node needs to boot and, on destroy, to say goodbye."""


def existing_network(plan: ExistingNetworkPlan) -> NetworkOutputs:
    """A VPC that somebody else made: nothing is declared."""
    return NetworkOutputs(
        vpc_id=plan.vpc_id,
        private_subnets={subnet.zone: subnet.subnet_id for subnet in plan.subnets},
        control_plane_zones=tuple(subnet.zone for subnet in plan.subnets if subnet.control_plane),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkArgs:
    """The planned network and whose it is."""

    plan: CreatedNetworkPlan
    account: Account
    cluster_name: str
    log_key_arn: pulumi.Input[str]


class Network(pulumi.ComponentResource):
    """VPC, subnets, routes, endpoints, flow logs, and the attachment to a transit gateway where one is planned."""

    outputs: NetworkOutputs

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inference:index:Network", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        plan = args.plan
        self._vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=plan.cidr,
            enable_dns_support=True,
            enable_dns_hostnames=True,  # private DNS of the interface endpoints and of FSx needs both
            tags={"Name": args.cluster_name},
            opts=self._child,
        )
        # A VPC's default security group lets its members talk to each other; nothing here may land in it.
        aws.ec2.DefaultSecurityGroup(
            f"{name}-default-group", vpc_id=self._vpc.id, ingress=[], egress=[], opts=self._child
        )
        private = {zone.zone: self._private_subnet(zone) for zone in plan.zones}
        tables = {zone.zone: self._route_table(f"private-{zone.zone}") for zone in plan.zones}
        edges: list[pulumi.Resource] = [
            self._associate(f"private-{zone}", private[zone], tables[zone]) for zone in private
        ]
        edges += self._internet(tables)
        edges += self._endpoints(private, tables)
        edges += self._transit(private, tables)
        FlowLogs(
            f"{name}-flow-logs",
            FlowLogsArgs(
                vpc_id=self._vpc.id,
                log_group_name=f"/aws/vpc/{args.cluster_name}/flow-logs",
                retention_days=plan.flow_log_retention_days,
                account=args.account,
                key_arn=args.log_key_arn,
            ),
            self._child,
        )
        self.outputs = NetworkOutputs(
            vpc_id=self._vpc.id,
            private_subnets={zone: subnet.id for zone, subnet in private.items()},
            control_plane_zones=tuple(zone.zone for zone in plan.zones if zone.control_plane),
            egress=tuple(edges),
        )
        self.register_outputs({"vpc_id": self._vpc.id})

    def _private_subnet(self, zone: ZonePlan) -> aws.ec2.Subnet:
        return aws.ec2.Subnet(
            f"{self._name}-private-{zone.zone}",
            vpc_id=self._vpc.id,
            availability_zone=zone.zone,
            cidr_block=zone.private_cidr,
            tags={
                "Name": f"{self._args.cluster_name}-private-{zone.zone}",
                "kubernetes.io/role/internal-elb": "1",
                f"kubernetes.io/cluster/{self._args.cluster_name}": "shared",
            },
            opts=self._child,
        )

    def _public_subnet(self, zone: str, cidr: str) -> aws.ec2.Subnet:
        return aws.ec2.Subnet(
            f"{self._name}-public-{zone}",
            vpc_id=self._vpc.id,
            availability_zone=zone,
            cidr_block=cidr,
            map_public_ip_on_launch=False,
            tags={
                "Name": f"{self._args.cluster_name}-public-{zone}",
                "kubernetes.io/role/elb": "1",
                f"kubernetes.io/cluster/{self._args.cluster_name}": "shared",
            },
            opts=self._child,
        )

    def _route_table(self, suffix: str) -> aws.ec2.RouteTable:
        return aws.ec2.RouteTable(
            f"{self._name}-{suffix}",
            vpc_id=self._vpc.id,
            tags={"Name": f"{self._args.cluster_name}-{suffix}"},
            opts=self._child,
        )

    def _associate(
        self, suffix: str, subnet: aws.ec2.Subnet, table: aws.ec2.RouteTable
    ) -> aws.ec2.RouteTableAssociation:
        return aws.ec2.RouteTableAssociation(
            f"{self._name}-{suffix}", subnet_id=subnet.id, route_table_id=table.id, opts=self._child
        )

    def _internet(self, tables: Mapping[str, aws.ec2.RouteTable]) -> list[pulumi.Resource]:
        """Internet gateway, NAT gateways as planned, and the private subnets' way to them; nothing without internet."""
        public_cidrs = {zone.zone: zone.public_cidr for zone in self._args.plan.zones if zone.public_cidr}
        if not public_cidrs:
            return []
        gateway = aws.ec2.InternetGateway(
            f"{self._name}-internet",
            vpc_id=self._vpc.id,
            tags={"Name": self._args.cluster_name},
            opts=self._child,
        )
        table = self._route_table("public")
        route = aws.ec2.Route(
            f"{self._name}-public-internet",
            route_table_id=table.id,
            destination_cidr_block=_ANYWHERE,
            gateway_id=gateway.id,
            opts=self._child,
        )
        public = {zone: self._public_subnet(zone, cidr) for zone, cidr in public_cidrs.items()}
        associations = {zone: self._associate(f"public-{zone}", subnet, table) for zone, subnet in public.items()}
        nats = {
            zone.zone: self._nat_gateway(zone.zone, public[zone.zone], [route, associations[zone.zone]])
            for zone in self._args.plan.zones
            if zone.nat_gateway
        }
        shared = next(iter(nats.values()))
        routes = [
            aws.ec2.Route(
                f"{self._name}-private-{zone}-internet",
                route_table_id=table.id,
                destination_cidr_block=_ANYWHERE,
                nat_gateway_id=nats.get(zone, shared).id,
                opts=self._child,
            )
            for zone, table in tables.items()
        ]
        return [route, *associations.values(), *routes]

    def _nat_gateway(self, zone: str, subnet: aws.ec2.Subnet, after: list[pulumi.Resource]) -> aws.ec2.NatGateway:
        # `after`: without the subnet's route to the internet gateway a NAT gateway drops what it is sent, and EC2 does
        # not detach an internet gateway while addresses of the VPC are mapped, so both outlive the NAT gateway.
        edges = pulumi.ResourceOptions(parent=self, depends_on=after)
        tags = {"Name": f"{self._args.cluster_name}-{zone}"}
        address = aws.ec2.Eip(f"{self._name}-nat-{zone}", domain="vpc", tags=tags, opts=edges)
        return aws.ec2.NatGateway(
            f"{self._name}-nat-{zone}", subnet_id=subnet.id, allocation_id=address.allocation_id, tags=tags, opts=edges
        )

    def _endpoints(
        self, private: Mapping[str, aws.ec2.Subnet], tables: Mapping[str, aws.ec2.RouteTable]
    ) -> list[pulumi.Resource]:
        """S3 always, as a gateway: it costs nothing, and weights and image layers are terabytes. Others as planned."""
        region = self._args.account.region
        made: list[pulumi.Resource] = [
            aws.ec2.VpcEndpoint(
                f"{self._name}-endpoint-s3",
                vpc_id=self._vpc.id,
                service_name=f"com.amazonaws.{region}.s3",
                vpc_endpoint_type="Gateway",
                route_table_ids=[table.id for table in tables.values()],
                tags={"Name": f"{self._args.cluster_name}-s3"},
                opts=self._child,
            )
        ]
        if not self._args.plan.interface_endpoints:
            return made
        group = aws.ec2.SecurityGroup(
            f"{self._name}-endpoints",
            vpc_id=self._vpc.id,
            description="HTTPS from inside the VPC to AWS services",
            tags={"Name": f"{self._args.cluster_name}-endpoints"},
            opts=self._child,
        )
        rule = aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-endpoints-https",
            security_group_id=group.id,
            cidr_ipv4=self._args.plan.cidr,
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            description="Nodes and pods",
            opts=self._child,
        )
        made.append(rule)
        made += [
            aws.ec2.VpcEndpoint(
                f"{self._name}-endpoint-{service}",
                vpc_id=self._vpc.id,
                service_name=f"com.amazonaws.{region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                # Zones without a control plane lack services too; nodes there reach the others' interfaces.
                subnet_ids=[private[zone.zone].id for zone in self._args.plan.zones if zone.control_plane],
                security_group_ids=[group.id],
                tags={"Name": f"{self._args.cluster_name}-{service}"},
                opts=self._child,
            )
            for service in self._args.plan.interface_endpoints
        ]
        return made

    def _transit(
        self, private: Mapping[str, aws.ec2.Subnet], tables: Mapping[str, aws.ec2.RouteTable]
    ) -> list[pulumi.Resource]:
        """The declared way in, and the routes back."""
        gateway = self._args.plan.transit_gateway
        if gateway is None:
            return []
        attachment = aws.ec2transitgateway.VpcAttachment(
            f"{self._name}-transit",
            transit_gateway_id=gateway,
            vpc_id=self._vpc.id,
            subnet_ids=[subnet.id for subnet in private.values()],
            tags={"Name": self._args.cluster_name},
            opts=self._child,
        )
        # EC2 refuses a route to a transit gateway that the VPC is not attached to.
        attached = pulumi.ResourceOptions(parent=self, depends_on=[attachment])
        routes = [
            aws.ec2.Route(
                f"{self._name}-private-{zone}-to-{cidr}",
                route_table_id=table.id,
                destination_cidr_block=cidr,
                transit_gateway_id=gateway,
                opts=attached,
            )
            for zone, table in tables.items()
            for cidr in self._args.plan.connection_cidrs
        ]
        return [attachment, *routes]
