"""The Plan: the key-value stores of the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from planner.plan.secrets import SecretPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyPlan:
    """One Valkey, beside the models that use it."""

    name: str
    """Of its release and its Service."""
    namespace: str
    port: int
    password: SecretPlan
    tls_secret: str
    """Secret with its certificate, key and the CA's certificate, in its namespace."""
    ca_key: str
    """Key of the CA's certificate in that Secret."""
    memory_gib: int
    """What its data may take."""
    pod_memory_gib: int
    """Request and limit of its pod."""
    cpu: str = "100m"
    """That its pod asks for, in the API's words."""
    storage_gib: int | None
    storage_class: str | None
    replicas: int
    evicts: bool = False
    """A cache: what was used longest ago makes room, and nothing is written to disk. Else a write that finds no room
    fails, and nothing is ever thrown away."""
    zones: tuple[str, ...] = ()
    """Where its pod is best: a cache in another zone than its clients pays for every block. Empty: anywhere."""
    image: str = ""
    """The server's own, for the container beside it that watches the password."""
    former_password_seconds: int = 0
    """How long a password that was changed still opens it, for clients that read theirs at their start."""
    clients: tuple[str, ...] = ()
    """Models whose pods may reach it."""

    @property
    def host(self) -> str:
        """Its name inside the cluster, as in its certificate."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    @property
    def url(self) -> str:
        """For clients that take Redis' scheme; `rediss` is TLS."""
        return f"rediss://{self.host}:{self.port}"
