"""The load of a model's weights as arithmetic: every limit, every reader, and the time that follows."""

from __future__ import annotations

from collections.abc import Iterator

from planner.cache import CLIENT_LIMIT, OWN_LIMITS, RANKS_LIMIT, into_gpus, network_mbps_per_tib
from planner.drafts import Draft
from planner.inputs import assumption, from_catalog
from planner.plan import CachePlan, Explained, Input, PoolPlan, WeightsPlan

SECTION = "load"

_TERMS = {CLIENT_LIMIT: "own / client rate", RANKS_LIMIT: "own / rate into the GPUs"}


def load_numbers(sketch: Draft, pool: PoolPlan, cache: CachePlan, weights: WeightsPlan) -> tuple[Explained, ...]:
    """Limits first, then what they carry."""
    return (
        *_limits(pool, cache, weights, sketch.fit.layout.gpus_per_node),
        *_readers(weights),
        _time(sketch, weights),
        *_shards(weights, sketch.fit.layout.gpus_per_node),
    )


def _limits(pool: PoolPlan, cache: CachePlan, weights: WeightsPlan, ranks: int) -> Iterator[Explained]:
    limits = weights.load.limits_mb_per_s
    if weights.medium == "lustre" and cache.fsx is not None:
        fsx = cache.fsx
        tib = Input(
            name="storage", value=round(fsx.storage_gib / 1024, 3), unit="TiB", source="cache.storage_gib / 1024"
        )
        disk = Input(
            name="disk", value=fsx.throughput_mbps_per_tib, unit="MB/s a TiB", source="cache.throughput_mbps_per_tib"
        )
        yield _limit("file servers, from their disks", fsx.disk_mb_per_s, "storage x disk", (tib, disk))
        network = Input(
            name="network",
            value=network_mbps_per_tib(fsx.throughput_mbps_per_tib),
            unit="MB/s a TiB",
            source="FSx for Lustre user guide, aggregate file system performance",
        )
        yield _limit(
            "file servers, from their memory",
            fsx.network_mb_per_s,
            "storage x network; not counted on: a first start reads from disk",
            (tib, network),
        )
    card = Input(
        name="card", value=pool.hardware.card0_gbps, unit="Gbit/s", source="card 0 of the instance type, catalog"
    )
    if weights.medium == "lustre":
        yield _limit(
            "network of one node",
            limits[CLIENT_LIMIT],
            "smaller of card x 125 and client",
            (card, assumption("client_lustre_mb_per_s", "client")),
        )
    elif weights.medium == "s3_stream":
        yield _limit(
            "network of one node",
            limits[CLIENT_LIMIT],
            "card x 125 x share",
            (card, assumption("s3_client_share", "share")),
        )
    if RANKS_LIMIT in limits:
        yield _limit(RANKS_LIMIT, limits[RANKS_LIMIT], "by ranks on the node", (assumption(into_gpus(ranks), "rate"),))


def _limit(name: str, value: float, formula: str, inputs: tuple[Input, ...]) -> Explained:
    return Explained(section=SECTION, name=name, value=round(value, 1), unit="MB/s", formula=formula, inputs=inputs)


def _readers(weights: WeightsPlan) -> Iterator[Explained]:
    load = weights.load
    if not load.shares:
        return
    yield Explained(
        section=SECTION,
        name="read by all nodes until this one is done",
        value=load.served_gigabytes,
        unit=f"GB, {load.readers} nodes",
        formula="sum over models of nodes x min(their GB, own): the file system shares its rate equally",
        inputs=tuple(
            Input(
                name=share.model,
                value=round(share.nodes * share.gigabytes, 1),
                unit=f"GB = {share.nodes} node(s) x {share.gigabytes:.1f}",
                source="replicas.min (1 for 0) x nodes of a replica",
            )
            for share in load.shares
        ),
    )


def _time(sketch: Draft, weights: WeightsPlan) -> Explained:
    load = weights.load
    own = from_catalog(sketch.card, "own", round(weights.gigabytes, 1), "GB a node")
    beside = tuple(
        Input(
            name=one.kind,
            value=round(one.gigabytes, 2),
            unit="GB a node",
            source=f"{one.hub_id}, read beside the model",
        )
        for one in weights.beside
    )
    rates = tuple(
        Input(
            name=name,
            value=round(rate, 1),
            unit="MB/s",
            source="cache.read_mb_per_s" if name == "volume" else "above",
        )
        for name, rate in load.limits_mb_per_s.items()
    )
    each = tuple(
        Input(
            name=f"at the {name}",
            value=round(
                (load.gigabytes_per_node if name in OWN_LIMITS else load.served_gigabytes) * 1000 / rate,
                1,
            ),
            unit="s",
            source="own x 1000 / rate" if name in OWN_LIMITS else "read by all x 1000 / rate",
        )
        for name, rate in load.limits_mb_per_s.items()
    )
    terms = [_TERMS.get(name, "read by all nodes / server rate") for name in load.limits_mb_per_s]
    formula = f"max({', '.join(terms)})" if len(terms) > 1 else terms[0]
    return Explained(
        section=SECTION,
        name="weights on every node",
        value=load.seconds,
        unit=f"s ({load.seconds / 60:.2f} minutes), bound by {load.bottleneck}",
        formula=formula,
        inputs=(own, *beside, *rates, *each),
    )


def _shards(weights: WeightsPlan, ranks: int) -> Iterator[Explained]:
    shards = weights.shards
    if shards is None:
        return
    yield Explained(
        section=SECTION,
        name="shards on every node, from the second start on",
        value=shards.seconds,
        unit="s",
        formula="read + copy: an init container reads and checks, the engine copies from the node's memory"
        if shards.init_seconds
        else "max(read, copy), each node with its ranks' part",
        inputs=(
            Input(
                name="own", value=shards.gigabytes_per_node, unit="GB a node", source="checkpoint / nodes of a replica"
            ),
            Input(name="read", value=shards.read_seconds, unit="s", source="the same limits, for own"),
            Input(name="copy", value=shards.copy_seconds, unit="s", source="own x 1000 / rate"),
            assumption(into_gpus(ranks, shards=True), "rate"),
        ),
    )
