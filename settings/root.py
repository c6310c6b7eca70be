"""The whole stack file as one object."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from settings.base import Arn, Email, Name, Section, WrongValueError
from settings.cache import Cache
from settings.network import Network
from settings.observability import Observability
from settings.pools import Pool
from settings.secrets import GivenSecretSource, RegistrySecret
from settings.serving import Model
from settings.target import Target
from settings.valkey import KvStore, Valkey

_TAG = re.compile(r"^[\w\s.:/=+@-]*$")


class Charts(Section):
    """Where Helm charts come from."""

    mirror: str | None = None
    """A directory (`./charts`), an OCI registry (`oci://…`) or a chart repository (`https://…`) that holds the pinned
    charts; each chart's own upstream where left out."""


class PullThrough(Section):
    """ECR pull-through cache: the account's own registry fetches an image the first time a node asks for it, which
    needs a way to the internet. The rules are the registry's: of the stacks of an account and region one makes them."""

    credentials: dict[Literal["docker.io", "ghcr.io"], Arn] = Field(
        default_factory=dict[Literal["docker.io", "ghcr.io"], Arn]
    )
    """Secrets Manager secrets (user name and token) for registries that ask for some; their names begin with
    `ecr-pullthroughcache/`."""


class Images(Section):
    """Where container images come from."""

    mirror: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._:/-]+$")
    """Registry and prefix that every image is pulled through, for instance
    `111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror`; the upstream host stays in the path below it."""
    pull_through: PullThrough | None = None
    """Have ECR fill the mirror by itself; the mirror is then a prefix in this account's and region's own registry."""
    pull_secret: RegistrySecret | None = None
    """Credentials of registries that the nodes' own role does not open, for every pod that this project declares; the
    plan tells which namespaces need the Secret. Of charts only the stores' name it."""
    pre_pull: bool = True
    """Whether every node of a pool pulls the engine images of the pool's models as soon as it is there: a replica that
    comes to a node that stood need not wait for its image, and in a rollout nodes fetch the new one while the old one
    serves."""


class Secrets(Section):
    """Sources of the secrets that are not made by the platform."""

    hub_token: GivenSecretSource | None = None
    """Token of the model hub, for gated models that are downloaded inside the cluster."""


class ModelBudget(Section):
    """The most that one model's tokens may cost."""

    model: Name
    """Name of the model in this file."""
    max_usd_per_million_output_tokens: float = Field(gt=0)
    """Dollars of GPUs for a million output tokens at the planned load; a plan above it is refused."""


class Budget(Section):
    """The most that this stack may cost."""

    monthly_usd: float = Field(gt=0)
    """List-price ceiling for 730 hours with every pool at its maximum; a plan above it is refused."""
    models: list[ModelBudget] = Field(default_factory=list[ModelBudget], max_length=1000)
    """Ceilings for tokens, by model."""
    notify: list[Email] = Field(default_factory=list[Email], max_length=10)
    """Who gets AWS' mail at half, four fifths and all of `monthly_usd`, at a forecast above it, and about anomalies."""
    anomaly_usd: float | None = Field(default=None, gt=0)
    """Least cost of an anomaly (spending that AWS finds unlike this stack's own past) that is worth a mail."""

    @model_validator(mode="after")
    def _somebody_reads(self) -> Budget:
        if self.anomaly_usd is not None and not self.notify:
            raise WrongValueError(
                "nobody is told of an anomaly", help="name addresses in `notify`", at=("anomaly_usd",)
            )
        return self


class Settings(Section):
    """One inference platform: what `inference-platform:platform` holds in a stack file."""

    environment: Name
    """Name of the environment: dev, staging, prod, local or your own. Part of names and tags, never of a decision."""
    target: Target
    network: Network | None = None
    """The VPC; needed for an EKS target only."""
    pools: list[Pool] = Field(min_length=1, max_length=50)
    cache: Cache
    models: list[Model] = Field(min_length=1, max_length=1000)
    charts: Charts = Charts()
    images: Images = Images()
    secrets: Secrets = Secrets()
    valkey: Valkey | None = None
    """A key-value store for what must outlive a pod, such as the state of a Ray cluster; none where left out."""
    kv_store: KvStore | None = None
    """A key-value store for KV blocks that replicas share; none where left out."""
    observability: Observability = Observability()
    budget: Budget | None = None
    protection: Literal["none", "data", "all"] = "data"
    """What a destroy leaves alone: nothing; the bucket of weights and its key; or also the cluster and the cache."""
    tags: dict[str, str] = Field(default_factory=dict[str, str], max_length=40)
    """AWS tags on everything that can carry them."""

    @field_validator("tags")
    @classmethod
    def _tags_that_aws_takes(cls, tags: dict[str, str]) -> dict[str, str]:
        # AWS General Reference, "Tag naming limits and requirements".
        for key, value in tags.items():
            if key.lower().startswith("aws:"):
                raise WrongValueError("the prefix `aws:` is kept for AWS", help="choose another key", at=(key,))
            if not 1 <= len(key) <= 128 or len(value) > 256 or not _TAG.match(f"{key}{value}"):
                raise WrongValueError(
                    "AWS takes keys of up to 128 and values of up to 256 letters, digits, spaces and _ . : / = + - @",
                    help="shorten it, or replace the other characters",
                    at=(key,),
                )
        return tags
