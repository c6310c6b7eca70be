"""ECR pull-through cache: rules, and the nodes' right to a first pull."""

from __future__ import annotations

import json
from typing import Any

import pytest

import program
from components import efa
from planner import Plan, StackFileError, plan_document
from settings.load import Document
from tests.components.releases import pinned
from tests.harness import World, deploy
from tests.stacks import document

RULE = "aws:ecr/pullThroughCacheRule:PullThroughCacheRule"
SECRET = "arn:aws:secretsmanager:us-east-1:111122223333:secret:ecr-pullthroughcache/docker-AbCdEf"
MIRROR = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mirror"


def planned(images: dict[str, Any], **target: Any) -> Plan:
    config = document("dev")["config"]
    platform = {**config["inference-platform:platform"], "images": images}
    platform["target"] = {**platform["target"], **target}
    found = Document(file="Pulumi.dev.yaml", platform=platform, region="us-east-1", text=None)
    return plan_document(found, stack="dev")[1]


@pytest.fixture(scope="module")
def world() -> World:
    plan = planned({"mirror": MIRROR, "pull_through": {"credentials": {"docker.io": SECRET}}})
    return deploy(lambda: program.build(plan))


def test_each_registry_fills_the_place_where_its_images_are_looked_for(world: World) -> None:
    rules = {r.inputs["upstreamRegistryUrl"]: r.inputs for r in world.of_type(RULE)}
    assert set(rules) == {"public.ecr.aws", "registry.k8s.io", "quay.io", "registry-1.docker.io"}
    assert rules["registry-1.docker.io"]["credentialArn"] == SECRET
    assert rules["registry-1.docker.io"]["ecrRepositoryPrefix"] == "mirror/docker.io"
    prefixes = tuple(f"{MIRROR.partition('/')[0]}/{rule['ecrRepositoryPrefix']}/" for rule in rules.values())
    images = [
        container["image"]
        for record in world.of_type("kubernetes:apps/v1:Deployment")
        for container in record.inputs["spec"]["template"]["spec"]["containers"]
    ]
    assert images
    assert all(image.startswith(prefixes) for image in images)


def test_nodes_wait_for_the_rules_and_may_pull_first(world: World) -> None:
    policy = world["aws:iam/rolePolicy:RolePolicy", "node-policy"]
    (statement,) = json.loads(policy.inputs["policy"])["Statement"]
    assert statement["Action"] == ["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"]
    assert statement["Resource"][0].endswith(":repository/mirror/*")
    needed = {policy.urn, *(rule.urn for rule in world.of_type(RULE))}
    for group in world.of_type("aws:eks/nodeGroup:NodeGroup"):
        assert needed <= set(group.depends_on), group.name


@pytest.mark.parametrize(
    ("images", "target", "path", "words"),
    [
        ({"pull_through": {}}, {}, ("images", "pull_through"), "images.mirror"),
        ({"mirror": "registry.example.com/x", "pull_through": {}}, {}, ("images", "pull_through"), "EKS target"),
        ({"mirror": MIRROR.replace("east-1", "west-2")}, {}, ("images", "mirror"), "us-west-2"),
        ({"mirror": MIRROR}, {"account_id": "999988887777"}, ("images", "mirror"), "999988887777"),
        ({"mirror": f"{MIRROR}-of-all-images"}, {}, ("images", "mirror"), "shorten"),
        ({"mirror": MIRROR, "pull_through": {}}, {}, ("images", "pull_through", "credentials"), "docker.io"),
        (
            {"mirror": MIRROR, "pull_through": {"credentials": {"docker.io": SECRET.replace("pullthroughcache/", "")}}},
            {},
            ("images", "pull_through", "credentials", "docker.io"),
            "ecr-pullthroughcache/",
        ),
    ],
)
def test_rules_that_ecr_would_refuse_are_refused(
    images: dict[str, Any], target: dict[str, Any], path: tuple[str, ...], words: str
) -> None:
    images = {"pull_through": {"credentials": {"docker.io": SECRET}}, **images}
    with pytest.raises(StackFileError) as caught:
        planned(images, **target)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in f"{problem.message} {problem.help}"


def test_what_no_rule_fetches_is_told_or_comes_from_ekss_own_registry() -> None:
    plan = planned({"mirror": MIRROR, "pull_through": {"credentials": {"docker.io": SECRET}}})
    told = " ".join(one.message for one in plan.findings if one.subject == "images.pull_through")
    assert "mirror/nvcr.io" in told
    assert "mirror/ghcr.io" in told
    plugin = efa.values(efa.EfaArgs(chart=pinned("aws-efa-k8s-device-plugin"), image_mirror=MIRROR, region="us-east-1"))
    assert plugin["image"]["repository"].startswith("602401143452.dkr.ecr.us-east-1.amazonaws.com/eks/")


def test_nobody_pulls_through_from_a_network_without_internet() -> None:
    """ECR user guide: the first pull through an interface endpoint needs a NAT gateway."""
    config = document("dev")["config"]
    images = {"mirror": MIRROR, "pull_through": {"credentials": {"docker.io": SECRET}}}
    platform = {**config["inference-platform:platform"], "images": images}
    platform["network"] = {**platform["network"], "egress": "vpc_endpoints"}
    found = Document(file="Pulumi.dev.yaml", platform=platform, region="us-east-1", text=None)
    with pytest.raises(StackFileError) as caught:
        plan_document(found, stack="dev")
    (problem,) = caught.value.problems
    assert problem.path == ("images", "pull_through")
    assert "push the images" in str(problem.help)
