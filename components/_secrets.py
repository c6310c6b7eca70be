"""Kubernetes Secrets from where the stack file says: made once, given by the user, or left to somebody else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

import pulumi
import pulumi_kubernetes as kubernetes

from planner.plan import SecretPlan
from settings.secrets import GeneratedSecret, KubernetesSecret, PulumiSecret, SecretsManagerSecret

GENERATED_BYTES = 32
"""256 bits of entropy, as URL-safe text that needs no quoting anywhere."""


class SecretValues(Protocol):
    """Reads the secrets that only the user knows."""

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        """The value, marked secret; raises pulumi.RunError where it is missing."""
        ...


def declare_secret(
    name: str,
    secret: SecretPlan,
    *,
    values: SecretValues,
    after: Sequence[pulumi.Resource],
    parent: pulumi.Resource | None = None,
    fixed: Mapping[str, str] | None = None,
) -> kubernetes.core.v1.Secret | None:
    """Declares the Secret, or nothing where somebody else puts it into the namespace.

    Args:
        name: logical name.
        secret: what is needed and where it comes from.
        values: reads given secrets.
        after: its namespace, and what else must exist before.
        parent: the component; its Kubernetes provider is used.
        fixed: further keys that are no secret, such as a user name.
    """
    source = secret.source
    if isinstance(source, KubernetesSecret):
        return None
    generated = isinstance(source, GeneratedSecret)
    text = (
        pulumi.Output.secret(secrets.token_urlsafe(GENERATED_BYTES))
        if isinstance(source, GeneratedSecret)
        else pulumi.Output.secret(values.value(source))
    )
    return kubernetes.core.v1.Secret(
        name,
        metadata=kubernetes.meta.v1.ObjectMetaArgs(name=secret.name, namespace=secret.namespace),
        type="Opaque",
        string_data={**(fixed or {}), secret.key: text},
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=list(after),
            # A generated value is drawn anew in every run; the first one is kept. To rotate it, delete the Secret
            # and run `pulumi up --refresh`.
            ignore_changes=["data", "stringData"] if generated else None,
        ),
    )
