"""Valkey: a key-value store in the cluster that keeps what must outlive a pod."""

from __future__ import annotations

from pydantic import Field, model_validator

from settings.base import Section, WrongValueError
from settings.secrets import GeneratedSecret, SecretSource


class Valkey(Section):
    """One Valkey for the stack, reached over TLS with a password. Ray heads keep their cluster's state in it."""

    memory_gib: int = Field(default=1, ge=1, le=64)
    """What its data may take; writes are refused beyond."""
    storage_gib: int | None = Field(default=None, ge=1, le=1000)
    """Size of its volume, with which data outlives its pod; in memory alone where left out."""
    replicas: int = Field(default=0, ge=0, le=4)
    """Copies that follow the one that is written to. None takes over by itself: they are there to read and to copy
    back from."""
    password: SecretSource = GeneratedSecret()

    @model_validator(mode="after")
    def _copies_are_kept(self) -> Valkey:
        if self.replicas and self.storage_gib is None:
            raise WrongValueError(
                "replicas without a volume: a primary that restarts empty would have them copy nothing",
                help="give `storage_gib`, or leave `replicas` out",
                at=("replicas",),
            )
        return self


class KvStore(Section):
    """A Valkey of its own for KV blocks that replicas share (`kv_offload.remote`). Apart from `valkey`: a full cache
    throws away what was used longest ago, and the state of a Ray cluster must never be."""

    memory_gib: int = Field(ge=1, le=1024)
    """What its blocks may take, in the RAM of one system node."""
    password: SecretSource = GeneratedSecret()
    """It becomes part of a URL: letters, digits, `-`, `_`, `.` and `~` alone, as generated ones are."""
