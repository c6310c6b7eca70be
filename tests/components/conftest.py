"""What the tests of the Kubernetes layer share."""

from __future__ import annotations

from collections.abc import Callable

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes
import pytest

from components.platform import PlatformAws, PlatformOutputs, declare
from infra.providers import account_of
from planner.plan import EksPlan, Plan
from settings.secrets import PulumiSecret, SecretsManagerSecret
from tests.harness import World, deploy

CLUSTER_ARN = "arn:aws:eks:us-east-1:111122223333:cluster/test"
KEY_ARN = "arn:aws:kms:us-east-1:111122223333:key/volumes"


class GivenSecrets:
    """Secret values as a user would have set them."""

    def value(self, source: PulumiSecret | SecretsManagerSecret) -> pulumi.Output[str]:
        """A value that names its source."""
        return pulumi.Output.secret(f"given-{source.kind}")


def declared(plan: Plan, *, preview: bool = False) -> World:
    """The platform of a plan, deployed in memory."""

    def program() -> None:
        provider = kubernetes.Provider("kubernetes", kubeconfig="{}")
        side = None
        if isinstance(plan.target, EksPlan):
            cloud = aws.Provider("aws", region=plan.region)
            side = PlatformAws(
                provider=cloud,
                account=account_of(cloud, plan.region or ""),
                cluster_arn=CLUSTER_ARN,
                vpc_id="vpc-0a1b2c3d",
                volume_key_arn=KEY_ARN,
            )
        outputs = declare(plan, provider=provider, after=(), secrets=GivenSecrets(), aws=side)
        assert isinstance(outputs, PlatformOutputs)

    return deploy(program, preview=preview)


@pytest.fixture(scope="session")
def world_of() -> Callable[[Plan], World]:
    """Deploys a plan's platform once a session."""
    worlds: dict[int, tuple[Plan, World]] = {}

    def get(plan: Plan) -> World:
        if id(plan) not in worlds:
            worlds[id(plan)] = (plan, declared(plan))
        return worlds[id(plan)][1]

    return get
