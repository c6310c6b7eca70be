"""The Plan: secrets that components read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.secrets import GeneratedSecret, KubernetesSecret, PulumiSecret, SecretsManagerSecret

AnySecretSource = GeneratedSecret | KubernetesSecret | SecretsManagerSecret | PulumiSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlan:
    """A Kubernetes Secret that a component reads."""

    namespace: str
    name: str
    key: str
    source: AnySecretSource
    type: Literal["Opaque", "kubernetes.io/dockerconfigjson"] = "Opaque"
    """As the API calls it; a kubelet pulls images with no other type than the second."""

    @property
    def made_here(self) -> bool:
        """Whether the platform writes the Secret; else somebody else has put it there."""
        return not isinstance(self.source, KubernetesSecret)
