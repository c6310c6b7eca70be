"""ECR pull-through cache rules: which registries ECR fetches images from under the stack's mirror."""

from __future__ import annotations

import re
from typing import Final

from planner.images import DEFAULT_REGISTRY
from planner.plan.images import ImageCachePlan, PullThroughRulePlan
from planner.problems import Findings
from settings.network import CreateNetwork, ExistingNetwork
from settings.root import PullThrough, Settings
from settings.target import EksTarget

# Registries that ECR fetches from, by the host in an image's name, and what it calls them. Source: ECR user guide,
# "Sync an upstream registry with an Amazon ECR private registry".
UPSTREAMS: Final = {
    "public.ecr.aws": "public.ecr.aws",
    "registry.k8s.io": "registry.k8s.io",
    "quay.io": "quay.io",
    "docker.io": "registry-1.docker.io",
    "ghcr.io": "ghcr.io",
}
WITH_CREDENTIALS: Final = frozenset({"docker.io", "ghcr.io"})
"""Registries from which ECR fetches only in somebody's name."""
PUSHED_BY_HAND: Final = "nvcr.io"
"""NVIDIA's registry, which ECR cannot fetch from; the GPU operator's images live there."""

_LONGEST_PREFIX = 30
_ECR = re.compile(
    r"^(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<prefix>[a-z0-9][a-z0-9._/-]*)$"
)
_PULL_THROUGH = ("images", "pull_through")


def plan_image_cache(settings: Settings, region: str | None, findings: Findings) -> ImageCachePlan | None:
    """The rules of a stack; None where it asks for none, or for some that ECR would refuse (and a problem)."""
    wanted = settings.images.pull_through
    if wanted is None:
        return None
    found = _ECR.match((settings.images.mirror or "").rstrip("/"))
    if not isinstance(settings.target, EksTarget) or found is None:
        findings.problem(
            _PULL_THROUGH,
            "pull-through rules belong to an ECR registry, and `images.mirror` names none",
            "set `images.mirror: <account>.dkr.ecr.<region>.amazonaws.com/mirror` of an EKS target, or leave it out",
        )
        return None
    _check_place(settings.target, found, region, findings)
    prefix = found["prefix"]
    credentials: dict[str, str] = {**wanted.credentials}
    hosts = [host for host in UPSTREAMS if host not in WITH_CREDENTIALS or host in credentials]
    longest = max(hosts, key=len)
    if len(f"{prefix}/{longest}") > _LONGEST_PREFIX:
        findings.problem(
            ("images", "mirror"),
            f"`{prefix}/{longest}` has {len(prefix + longest) + 1} characters; a prefix has {_LONGEST_PREFIX} at most",
            f"shorten `{prefix}` to {_LONGEST_PREFIX - 1 - len(longest)} characters",
        )
    _check_credentials(wanted, findings)
    _check_way_out(settings.network, findings)
    findings.remark(
        "images.pull_through",
        f"ECR cannot fetch from {PUSHED_BY_HAND}: push the GPU operator's images to {prefix}/{PUSHED_BY_HAND}",
    )
    if "ghcr.io" not in credentials:
        findings.remark(
            "images.pull_through",
            "without credentials ECR does not fetch from ghcr.io either: give `ghcr.io` some, or push KEDA's images, "
            f"which scale replicas, to {prefix}/ghcr.io",
        )
    return ImageCachePlan(
        repository_prefix=prefix,
        rules=tuple(
            PullThroughRulePlan(
                name=host.replace(".", "-"),
                repository_prefix=f"{prefix}/{host}",
                upstream=UPSTREAMS[host],
                credential_arn=credentials.get(host),
            )
            for host in hosts
        ),
    )


def _check_place(target: EksTarget, found: re.Match[str], region: str | None, findings: Findings) -> None:
    if region is not None and found["region"] != region:
        findings.problem(
            ("images", "mirror"),
            f"the registry is in {found['region']}, and the rules are made in {region}, the stack's region",
            f"use the registry of {region}, or leave `pull_through` out",
        )
    if target.account_id is not None and found["account"] != target.account_id:
        findings.problem(
            ("images", "mirror"),
            f"the registry is of account {found['account']}, and the stack's is {target.account_id}",
            "rules can be made in the stack's own registry alone",
        )


def _check_way_out(network: CreateNetwork | ExistingNetwork | None, findings: Findings) -> None:
    """The first pull of an image through an interface endpoint needs a way to the internet; later ones do not.

    Source: ECR user guide, "Considerations for using pull through cache rules".
    """
    if isinstance(network, CreateNetwork) and network.egress == "vpc_endpoints":
        findings.problem(
            _PULL_THROUGH,
            "ECR fetches an image at its first pull only for those who reach the internet, and this network does not",
            "push the images to the mirror and leave `pull_through` out, or let another stack of the account, with NAT "
            "gateways, pull them first",
        )
    elif isinstance(network, ExistingNetwork):
        findings.remark(
            "images.pull_through",
            "where the VPC reaches ECR by an interface endpoint, the first pull of an image still needs a NAT gateway",
        )


def _check_credentials(wanted: PullThrough, findings: Findings) -> None:
    for host, arn in wanted.credentials.items():
        if ":secret:ecr-pullthroughcache/" not in arn:
            findings.problem(
                (*_PULL_THROUGH, "credentials", host),
                "ECR reads only secrets whose name begins with `ecr-pullthroughcache/`",
                "store user name and access token as `ecr-pullthroughcache/<name>` in Secrets Manager",
            )
    if DEFAULT_REGISTRY not in wanted.credentials:
        findings.problem(
            (*_PULL_THROUGH, "credentials"),
            f"the engines' images come from {DEFAULT_REGISTRY}, which ECR asks only with credentials",
            "add `docker.io: arn:aws:secretsmanager:...:secret:ecr-pullthroughcache/docker-...`",
        )
