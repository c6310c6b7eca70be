"""What the network bills: gateways and endpoints by the hour, and each gigabyte that crosses what has a price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catalog.assumptions import assumed
from catalog.load import Catalog
from planner.cost.lines import HOURS_PER_MONTH, Quantity, always, line
from planner.cost.platform import from_assumption, stored_gigabytes
from planner.plan import CachePlan, CostLine, CreatedNetworkPlan, ExistingNetworkPlan, Input, ModelPlan

_ADDRESSES_PER_NAT = 1
_SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFlow:
    """Tokens that one model is planned to take in and give out."""

    model: str
    input_per_second: float
    output_per_second: float
    peak_factor: float
    """What its most replicas serve / what is planned."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What flows follow from."""

    nodes: Quantity
    """GPU nodes of all pools."""
    tokens: Sequence[TokenFlow]
    images_from_internet: bool
    """Whether images come from public registries; a mirror in ECR comes through the S3 gateway endpoint, free."""
    scrape_interval_seconds: int


def network_lines(
    network: CreatedNetworkPlan | ExistingNetworkPlan | None, usage: Usage, catalog: Catalog, region: str
) -> Iterator[CostLine]:
    """Gateways, addresses, endpoints, and traffic; the hours of a VPC that exists are not this stack's."""
    if isinstance(network, CreatedNetworkPlan):
        yield from _hours(network, catalog, region)
        yield from _gigabytes(network, usage, catalog, region)
    zones = _zones(network)
    if zones > 1:
        yield _between_zones(zones, usage, catalog, region)


def _zones(network: CreatedNetworkPlan | ExistingNetworkPlan | None) -> int:
    if isinstance(network, CreatedNetworkPlan):
        return sum(zone.control_plane for zone in network.zones)
    if isinstance(network, ExistingNetworkPlan):
        return sum(subnet.control_plane for subnet in network.subnets)
    return 1


def _hours(network: CreatedNetworkPlan, catalog: Catalog, region: str) -> Iterator[CostLine]:
    service = catalog.prices.service
    gateways = sum(zone.nat_gateway for zone in network.zones)
    if gateways:
        where = "network.egress in the stack file"
        yield line(
            "NAT gateways", f"{gateways}", service("nat_gateway", region), always(gateways, "gateways", "", where)
        )
        addresses = gateways * _ADDRESSES_PER_NAT
        yield line(
            "Public addresses",
            f"{addresses}",
            service("public_ipv4", region),
            always(addresses, "addresses", "", "one for each NAT gateway"),
        )
    if network.interface_endpoints:
        zones = sum(zone.control_plane for zone in network.zones)
        endpoints = len(network.interface_endpoints)
        yield line(
            "Interface endpoints",
            f"{endpoints} in {zones} zones",
            service("interface_endpoint", region),
            always(endpoints * zones, "endpoints_in_zones", "", "network.egress in the stack file, zones of the VPC"),
        )


def _gigabytes(network: CreatedNetworkPlan, usage: Usage, catalog: Catalog, region: str) -> Iterator[CostLine]:
    """Through the NAT gateways or the endpoints: logs go one way, images of public registries the other."""
    service, logs = catalog.prices.service, assumed("log_gb_per_month")
    if network.interface_endpoints:
        yield line(
            "Endpoint traffic",
            f"{logs:.0f} GB a month of logs",
            service("interface_endpoint_data", region),
            always(logs, "gb_per_month", "GB", from_assumption("log_gb_per_month").source),
        )
    if not any(zone.nat_gateway for zone in network.zones):
        return
    per_node = assumed("gpu_node_starts_per_month") * assumed("image_gigabytes") if usage.images_from_internet else 0.0
    quantity = _scaled(usage.nodes, per_node, logs)
    yield line(
        "NAT traffic",
        f"{quantity.planned:,.0f} GB a month of images and logs",
        service("nat_gateway_data", region),
        quantity,
        quantity_formula="nodes x starts x image_gb + log_gb" if per_node else "log_gb",
        why=(
            usage.nodes.as_input,
            _renamed("gpu_node_starts_per_month", "starts"),
            _renamed("image_gigabytes", "image_gb"),
            _renamed("log_gb_per_month", "log_gb"),
        ),
    )


def _between_zones(zones: int, usage: Usage, catalog: Catalog, region: str) -> CostLine:
    """Requests enter in any zone while a pool is in one, and Prometheus reads metrics in whatever zone it is.

    Both sides of the border bill, so a gigabyte costs the price twice.
    """
    share = (zones - 1) / zones
    into, out = assumed("bytes_per_input_token"), assumed("bytes_per_output_token")
    scrape = assumed("scrape_kb_per_node") * 1e3 / usage.scrape_interval_seconds  # bytes/s of a node
    planned = sum(flow.input_per_second * into + flow.output_per_second * out for flow in usage.tokens)
    peak = sum(
        (flow.input_per_second * into + flow.output_per_second * out) * flow.peak_factor for flow in usage.tokens
    )

    def gigabytes(nodes: float, token_bytes: float) -> float:
        return 2 * share * (nodes * scrape + token_bytes) * _SECONDS_PER_MONTH / 1e9

    quantity = Quantity(
        idle=gigabytes(usage.nodes.idle, 0.0),
        base=gigabytes(usage.nodes.base, 0.0),
        planned=gigabytes(usage.nodes.planned, planned),
        peak=gigabytes(usage.nodes.peak, max(peak, planned)),
        name="gb_per_month",
        unit="GB",
        source="its formula",
    )
    tokens_in = sum(flow.input_per_second for flow in usage.tokens)
    tokens_out = sum(flow.output_per_second for flow in usage.tokens)
    where = "; ".join(dict.fromkeys(flow.source for flow in usage.tokens)) or "no models[].traffic in the stack file"
    return line(
        "Traffic between zones",
        f"{quantity.planned:,.0f} GB a month, both directions",
        catalog.prices.service("data_transfer_between_zones", region),
        quantity,
        quantity_formula=(
            "2 x (zones - 1) / zones x 730 x 3600 x (nodes x scrape_kb x 1e3 / interval + tokens_in x bytes_in + "
            "tokens_out x bytes_out) / 1e9"
        ),
        why=(
            Input(name="zones", value=zones, unit="", source="zones of the control plane, where clients enter"),
            usage.nodes.as_input,
            _renamed("scrape_kb_per_node", "scrape_kb"),
            Input(
                name="interval",
                value=usage.scrape_interval_seconds,
                unit="s",
                source="observability.scrape_interval_seconds in the stack file",
            ),
            Input(name="tokens_in", value=tokens_in, unit="tokens/s", source=where),
            _renamed("bytes_per_input_token", "bytes_in"),
            Input(name="tokens_out", value=tokens_out, unit="tokens/s", source=where),
            _renamed("bytes_per_output_token", "bytes_out"),
        ),
    )


def bucket_requests(
    cache: CachePlan, models: Sequence[ModelPlan], nodes: Quantity, catalog: Catalog, region: str
) -> Iterator[CostLine]:
    """Requests to the bucket of weights: each revision is uploaded once and read by the file system or by nodes."""
    if not cache.bucket:
        return
    service = catalog.prices.service
    stored = stored_gigabytes(models)
    streamed = [model for model in models if model.weights.medium == "s3_stream"]
    read_bytes, part_bytes = (assumed(name) * _MIB for name in ("s3_read_mib_per_request", "s3_upload_mib_per_request"))
    per_start = max((model.weights.gigabytes for model in streamed), default=0.0) * 1e9 / read_bytes / 1e6
    once = 0.0 if cache.fsx is None else stored * 1e9 / read_bytes / 1e6
    yield line(
        "S3 reads",
        "of weights: each start of a node that streams, once a month into the file system",
        service("s3_get_requests", region),
        _scaled(nodes, per_start * assumed("gpu_node_starts_per_month"), once),
        quantity_formula="(nodes x starts x streamed_gb + filed_gb) x 1e3 / (read_mib x 1.048576) / 1e6",
        why=(
            nodes.as_input,
            _renamed("gpu_node_starts_per_month", "starts"),
            Input(
                name="streamed_gb",
                value=max((model.weights.gigabytes for model in streamed), default=0.0),
                unit="GB",
                source="largest checkpoint of a model without a file system in its zone, catalog/models.yaml",
            ),
            Input(
                name="filed_gb",
                value=stored if cache.fsx else 0.0,
                unit="GB",
                source="sum of the checkpoints behind the file system, catalog/models.yaml",
            ),
            _renamed("s3_read_mib_per_request", "read_mib"),
        ),
    )
    yield line(
        "S3 writes",
        "one new revision of each model a month",
        service("s3_put_requests", region),
        always(stored * 1e9 / part_bytes / 1e6, "million_requests", "million", "its formula"),
        quantity_formula="stored_gb x 1e3 / (part_mib x 1.048576) / 1e6",
        why=(
            Input(name="stored_gb", value=stored, unit="GB", source="sum of checkpoints, catalog/models.yaml"),
            _renamed("s3_upload_mib_per_request", "part_mib"),
        ),
    )


def _renamed(assumption: str, name: str) -> Input:
    found = from_assumption(assumption)
    return Input(name=name, value=found.value, unit=found.unit, source=found.source)


def _scaled(nodes: Quantity, per_node: float, constant: float) -> Quantity:
    return Quantity(
        idle=nodes.idle * per_node + constant,
        base=nodes.base * per_node + constant,
        planned=nodes.planned * per_node + constant,
        peak=nodes.peak * per_node + constant,
        name="amount_per_month",
        unit="",
        source="its formula",
    )
