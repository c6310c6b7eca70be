"""Storage: buckets, keys, the file system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policy.records import (
    UNKNOWN,
    Report,
    Resource,
    ResourceRule,
    Rule,
    StackReport,
    StackRule,
    at,
    is_true,
    linked,
    listed,
)
from policy.rules.nodes import NODE_GROUP, has_gpus

BUCKETS = frozenset({"aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2"})
_PUBLIC_ACCESS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


def _encryption(props: Any) -> bool:
    algorithms = [at(rule, "applyServerSideEncryptionByDefault.sseAlgorithm") for rule in listed(at(props, "rules"))]
    return at(props, "rules") is UNKNOWN or (bool(algorithms) and None not in algorithms)


def _versioning(props: Any) -> bool:
    return at(props, "versioningConfiguration.status") in {"Enabled", UNKNOWN}


def _privacy(props: Any) -> bool:
    return all(is_true(at(props, key)) for key in _PUBLIC_ACCESS)


# What a bucket needs: in words, the resources that give it, and how they must be set.
_NEEDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("encrypted", "ServerSideEncryptionConfiguration", _encryption),
    ("versioned", "Versioning", _versioning),
    ("private", "PublicAccessBlock", _privacy),
)


def buckets_safe(resources: Sequence[Resource], report: StackReport) -> None:
    """Weights decide what is served: nobody else writes them, and an overwritten one can be had back."""
    for bucket in resources:
        if bucket.type not in BUCKETS:
            continue
        for quality, companion, holds in _NEEDS:
            found = [
                item
                for item in resources
                if item.type.startswith("aws:s3/bucket")
                and item.type.split(":")[-1].removesuffix("V2") == f"Bucket{companion}"
                and linked(item, "bucket", bucket, "bucket", "id")
            ]
            if not any(holds(item.props) for item in found):
                report(f"the bucket is not {quality}: give it a Bucket{companion}", bucket)


def keys_rotate(resource: Resource, report: Report) -> None:
    """Keys that encrypt data are renewed every year."""
    if resource.type == "aws:kms/key:Key" and not is_true(resource.props.get("enableKeyRotation")):
        report("the key is never renewed: set enableKeyRotation")


def cache_beside_gpus(resources: Sequence[Resource], report: StackReport) -> None:
    """A file system in a zone without GPUs makes every byte of weights cross zones, slowly and for money."""
    groups = [item for item in resources if item.type == NODE_GROUP and has_gpus(item)]
    subnets = [item for item in resources if item.type == "aws:ec2/subnet:Subnet"]
    near = [_zones(group, subnets) for group in groups]
    for files in resources:
        if files.type != "aws:fsx/lustreFileSystem:LustreFileSystem":
            continue
        where = _zones(files, subnets)
        if groups and where and all(where.isdisjoint(place) for place in near if place) and any(near):
            report("the file system is in a zone without GPU nodes: set `cache.availability_zone` to a pool's", files)


def _zones(resource: Resource, subnets: Sequence[Resource]) -> set[str]:
    """Where a resource is: by zone of the subnets that the stack makes, else by the ids that it names."""
    value = resource.props.get("subnetIds")
    named = {str(item) for item in listed(value)}
    made = {subnet.props["id"]: subnet for subnet in subnets if isinstance(subnet.props.get("id"), str)}
    if named:
        return {str(made[name].props.get("availabilityZone")) if name in made else name for name in named}
    return {
        str(subnet.props.get("availabilityZone"))
        for subnet in subnets
        if subnet.urn in resource.depends_on and isinstance(subnet.props.get("availabilityZone"), str)
    }


RULES: tuple[Rule, ...] = (
    StackRule(
        name="buckets-safe",
        description="Every bucket is encrypted, versioned and private.",
        check=buckets_safe,
    ),
    ResourceRule(
        name="keys-rotate",
        description="Keys are renewed every year.",
        check=keys_rotate,
    ),
    StackRule(
        name="cache-beside-gpus",
        description="The file system of weights is in the zone of a GPU pool.",
        check=cache_beside_gpus,
    ),
)
