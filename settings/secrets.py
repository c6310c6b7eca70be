"""Where a secret comes from. The value itself is never part of the typed object."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings.base import Arn, Name, Section


class GeneratedSecret(Section):
    """Made once on the first `up` and kept afterwards."""

    kind: Literal["generated"] = "generated"


class KubernetesSecret(Section):
    """A Secret that somebody else puts into the namespace of the consumer."""

    kind: Literal["kubernetes_secret"]
    name: Name
    """Name of the Secret."""
    key: str = Field(default="value", pattern=r"^[-._a-zA-Z0-9]+$")
    """Key inside the Secret."""


class RegistrySecret(Section):
    """A Secret of type `kubernetes.io/dockerconfigjson` that somebody else puts into each namespace whose pods pull
    images with it; it may hold credentials for any number of registries."""

    kind: Literal["kubernetes_secret"]
    name: Name
    """Name of the Secret, the same in every namespace."""


class SecretsManagerSecret(Section):
    """A secret of AWS Secrets Manager, read at deploy time and kept encrypted in the state."""

    kind: Literal["secrets_manager"]
    arn: Arn
    """ARN of the secret."""
    key: str | None = None
    """Key inside the secret, where its value is a JSON object."""


class PulumiSecret(Section):
    """A flat Pulumi secret of this stack: `pulumi config set --secret <name>`."""

    kind: Literal["pulumi"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9]*$")]
    """Configuration key without the project's prefix, for instance `hubToken`."""


SecretSource = Annotated[
    GeneratedSecret | KubernetesSecret | SecretsManagerSecret | PulumiSecret, Field(discriminator="kind")
]
"""Source of a secret that the platform can also make by itself."""

GivenSecretSource = Annotated[KubernetesSecret | SecretsManagerSecret | PulumiSecret, Field(discriminator="kind")]
"""Source of a secret that only the user can know, such as a hub token."""
