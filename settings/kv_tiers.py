"""Where KV blocks go when they leave the GPUs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from settings.base import Section, WrongValueError


class KvOffload(Section):
    """KV blocks that leave the GPUs are kept in RAM and copied back when the same prompt comes again."""

    cpu_gib: int = Field(ge=1, le=4096)
    """RAM of each pod of a replica, beside what the engine itself needs of its share of the node."""
    through: Literal["native", "lmcache"] = "native"
    """What moves the blocks: the engine itself (vLLM's offloading, SGLang's HiCache), or LMCache inside vLLM, on an
    image that says `carries_lmcache`."""
    remote: Literal["none", "valkey"] = "none"
    """`valkey`: a tier behind the RAM in the stack's `kv_store`, which all replicas share; through LMCache alone."""

    @model_validator(mode="after")
    def _reaches_the_store(self) -> KvOffload:
        if self.remote != "none" and self.through == "native":
            raise WrongValueError(
                "the engine's own offloading keeps blocks in its pod",
                help="add `through: lmcache`, or leave `remote` out",
                at=("remote",),
            )
        return self
