"""Rules for Karpenter's nodes, broken by changes to what the example declares."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from policy import judge
from tests.policy.cases import broken, changed, k8s, resource, stack_resources

EXAMPLE = "karpenter"
CLASS, POOL = "EC2NodeClass", "NodePool"


def deep(path: str, value: Any):
    """Sets a value at a path like `a/0/b`; None removes the key."""

    def change(props: dict[str, Any]) -> dict[str, Any]:
        data: Any = copy.deepcopy(props)
        node = data
        *parts, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parts:
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value
        return data

    return change


@pytest.mark.parametrize("preview", [False, True], ids=["update", "preview"])
def test_the_example_breaks_no_rule_and_needs_no_advice(preview):
    assert [str(violation) for violation in judge.judge(stack_resources(EXAMPLE, preview=preview))] == []


@pytest.mark.parametrize(
    ("rule", "kind", "change"),
    [
        ("node-classes-closed", CLASS, deep("spec/metadataOptions/httpTokens", "optional")),
        ("node-classes-closed", CLASS, deep("spec/metadataOptions/httpPutResponseHopLimit", 2)),
        ("node-classes-closed", CLASS, deep("spec/blockDeviceMappings", None)),
        ("node-classes-closed", CLASS, deep("spec/blockDeviceMappings/0/ebs/encrypted", False)),
        ("node-classes-closed", CLASS, deep("spec/associatePublicIPAddress", True)),
        ("node-images-pinned", CLASS, deep("spec/amiSelectorTerms", [{"alias": "al2023@latest"}])),
        ("node-images-pinned", CLASS, deep("spec/amiSelectorTerms", [{"tags": {"team": "ml"}}])),
        ("node-pools-safe", POOL, deep("spec/template/spec/taints", None)),
        ("node-pools-safe", POOL, deep("spec/template/spec/taints/0/effect", "PreferNoSchedule")),
        ("node-pools-safe", POOL, deep("spec/limits", None)),
        ("node-pools-safe", POOL, deep("spec/disruption/consolidationPolicy", "WhenEmptyOrUnderutilized")),
        ("node-pools-safe", POOL, deep("spec/disruption", None)),
        ("node-pools-safe", POOL, deep("spec/template/spec/expireAfter", None)),
    ],
)
def test_a_change_breaks_the_rule_and_no_other(rule, kind, change):
    found = changed(EXAMPLE, lambda item: item.kind == kind, change)
    assert {violation.rule for violation in found} == {rule}


def node_pool(*kinds: str):
    requirements = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": list(kinds)}] if kinds else []
    labels = {"inference-platform/pool": "l40s"}
    return k8s(
        "NodePool",
        "-".join(kinds),
        spec={"template": {"metadata": {"labels": labels}, "spec": {"requirements": requirements}}},
    )


def test_spot_alone_is_told_and_spot_with_a_fallback_is_not():
    assert broken("karpenter-spot-has-fallback", node_pool("spot"))
    assert not broken("karpenter-spot-has-fallback", node_pool("spot"), node_pool("on-demand"))
    assert not broken("karpenter-spot-has-fallback", node_pool("spot", "on-demand"))
    assert not broken("karpenter-spot-has-fallback", node_pool())


def test_other_resources_are_none_of_their_business():
    bucket = resource("aws:s3/bucket:Bucket", spec={"limits": None})
    for rule in ("node-classes-closed", "node-images-pinned", "node-pools-safe"):
        assert broken(rule, bucket, k8s("Deployment", spec={})) == []
