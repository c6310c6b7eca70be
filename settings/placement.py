"""Where a group of replicas runs and how many there are: what a model and its parts have in common."""

from __future__ import annotations

from pydantic import Field, model_validator

from settings.base import Section, WrongValueError


class Layout(Section):
    """How one replica is spread over GPUs."""

    tensor: int = Field(default=1, ge=1, le=128)
    """Tensor parallel degree over the whole replica."""
    pipeline: int = Field(default=1, ge=1, le=32)
    """Pipeline stages."""
    expert: int = Field(default=1, ge=1, le=256)
    """Expert parallel degree: 1, or the whole replica."""
    data: int = Field(default=1, ge=1, le=64)
    """Data parallel attention groups inside one replica."""


class Replicas(Section):
    """How many copies serve."""

    min: int = Field(default=1, ge=0, le=200)
    """Replicas at least. With 0 all go when nobody asks; the router then holds requests until one is back, which takes
    as long as the plan says."""
    max: int = Field(default=1, ge=1, le=200)
    """Replicas at most."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise WrongValueError(
                f"max ({self.max}) is below min ({self.min})", help=f"set max to {self.min} or more", at=("max",)
            )
        return self
