"""Where a container image is pulled from: its own registry, or the mirror of an air-gapped cluster."""

from __future__ import annotations

from collections.abc import Iterable

from planner.plan import SecretPlan
from planner.problems import Findings
from settings.secrets import KubernetesSecret, RegistrySecret

DEFAULT_REGISTRY = "docker.io"
_CREDENTIALS = ".dockerconfigjson"
"""The key that Secrets of that type have."""


def tell_tags(references: Iterable[str], findings: Findings) -> None:
    """A remark on images that are named by tag alone: whoever may push to a registry may move a tag."""
    tagged = sorted({reference for reference in references if "@sha256:" not in reference})
    if tagged:
        findings.remark(
            "images",
            f"by tag alone, without a digest: {', '.join(tagged)}; `models[].image.digest` pins what an engine runs "
            "(`crane digest <image>` prints it)",
        )


def plan_pull_secrets(
    wanted: RegistrySecret | None, namespaces: Iterable[str], findings: Findings
) -> tuple[SecretPlan, ...]:
    """The Secret in each of the namespaces, and a remark on who puts it there."""
    if wanted is None:
        return ()
    where = sorted(set(namespaces))
    findings.remark(
        "images.pull_secret",
        f"Secret `{wanted.name}` must be in the namespaces {', '.join(where)}, in each by `kubectl create secret "
        f"docker-registry {wanted.name} --namespace <namespace> --docker-server=<registry> --docker-username=<user> "
        "--docker-password=<token>`; images that need it are pulled once it is there, and pods of charts, but for the "
        "stores', pull without it",
    )
    return tuple(
        SecretPlan(
            namespace=namespace,
            name=wanted.name,
            key=_CREDENTIALS,
            source=KubernetesSecret(kind="kubernetes_secret", name=wanted.name, key=_CREDENTIALS),
            type="kubernetes.io/dockerconfigjson",
        )
        for namespace in where
    )


def registry(host: str, mirror: str | None) -> str:
    """What replaces the registry `host`, for charts that name registry and repository apart.

    The upstream host stays in the path, so images of the same name from two registries never meet, and an ECR
    pull-through cache rule per registry (prefix `<mirror path>/<host>`) fits without renaming.
    """
    return host if mirror is None else f"{mirror.rstrip('/')}/{host}"


def in_ecr(mirror: str | None) -> bool:
    """Whether a mirror is a registry of ECR: who reaches it reaches EKS's own images in the region too."""
    return mirror is not None and ".dkr.ecr." in mirror.partition("/")[0]


def mirrored(reference: str, mirror: str | None) -> str:
    """The image reference to pull, for `nvcr.io/nvidia/x:1` that or `<mirror>/nvcr.io/nvidia/x:1`.

    Tags and digests stay; a reference without either is a repository, as charts name it.
    """
    if mirror is None:
        return reference
    host, _, rest = reference.partition("/")
    if not rest or not ("." in host or ":" in host or host == "localhost"):
        # Docker Hub's short forms: `busybox` is docker.io/library/busybox, `vllm/vllm-openai` is docker.io/vllm/...
        host, rest = DEFAULT_REGISTRY, reference if "/" in reference else f"library/{reference}"
    return f"{registry(host, mirror)}/{rest}"
