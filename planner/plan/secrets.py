"""The Plan: secrets that components read."""

from __future__ import annotations

from dataclasses import dataclass

from settings.secrets import GeneratedSecret, KubernetesSecret, PulumiSecret, SecretsManagerSecret

AnySecretSource = GeneratedSecret | KubernetesSecret | SecretsManagerSecret | PulumiSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlan:
    """A Kubernetes Secret that a component reads."""

    namespace: str
    name: str
    key: str
    source: AnySecretSource

    @property
    def made_here(self) -> bool:
        """Whether the platform writes the Secret; else somebody else has put it there."""
        return not isinstance(self.source, KubernetesSecret)
