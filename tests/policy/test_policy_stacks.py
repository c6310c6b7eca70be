"""The four committed stacks keep to the rules, and changes to real resources of theirs break them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from policy import judge
from policy.rules import RULES
from tests.policy.cases import changed, resource, stack_resources
from tests.stacks import STACKS


@pytest.mark.parametrize("preview", [False, True], ids=["update", "preview"])
@pytest.mark.parametrize("stack", STACKS)
def test_stack_breaks_no_rule(stack, preview):
    violations = judge.judge(stack_resources(stack, preview=preview))
    assert [str(violation) for violation in violations if violation.level == "mandatory"] == []


def test_dev_is_told_that_spot_may_be_gone():
    advice = [violation for violation in judge.judge(stack_resources("dev")) if violation.level == "advisory"]
    assert [violation.rule for violation in advice] == ["spot-has-fallback"]
    assert "pool l40s" in advice[0].message


def rules_broken(violations: list[judge.Violation]) -> set[str]:
    return {violation.rule for violation in violations if violation.level == "mandatory"}


def without(*keys: str):
    return lambda props: {key: value for key, value in props.items() if key not in keys}


def with_(**values: Any):
    return lambda props: {**props, **values}


def deep(path: str, value: Any):
    """Sets a value at a path like `a/0/b` (`~1` for a slash in a key); None removes the key."""

    def change(props: dict[str, Any]) -> dict[str, Any]:
        data: Any = copy.deepcopy(props)
        node = data
        parts = [int(part) if part.isdigit() else part.replace("~1", "/") for part in path.split("/")]
        for part in parts[:-1]:
            node = node[part]
        if value is None:
            del node[parts[-1]]
        else:
            node[parts[-1]] = value
        return data

    return change


def gone(_: dict[str, Any]) -> None:
    """The resource is not there."""


def of(type_end: str, name: str = ""):
    return lambda item: item.type.endswith(type_end) and item.name.startswith(name)


ENGINE = "spec/template/spec/containers/0"
LWS_WORKER = "spec/leaderWorkerTemplate/workerTemplate/spec/containers/0"
LWS_SHARED_MEMORY = "spec/leaderWorkerTemplate/workerTemplate/spec/volumes/1"
LEADER = "spec/leaderWorkerTemplate/leaderTemplate/spec/containers/0"


@pytest.mark.parametrize(
    ("rule", "picks", "change"),
    [
        ("gpu-nodes-tainted", of(":NodeGroup", "pool-h100-spot"), without("taints")),
        ("gpu-nodes-tainted", of(":NodeGroup", "pool-l40s"), deep("taints/0/effect", "PREFER_NO_SCHEDULE")),
        ("node-groups-have-launch-template", of(":NodeGroup", "system"), without("launchTemplate")),
        ("metadata-service-closed", of(":LaunchTemplate", "system"), without("metadataOptions")),
        ("metadata-service-closed", of(":LaunchTemplate", "pool"), deep("metadataOptions/httpTokens", "optional")),
        ("metadata-service-closed", of(":LaunchTemplate", "pool"), deep("metadataOptions/httpPutResponseHopLimit", 2)),
        ("disks-encrypted", of(":LaunchTemplate", "pool"), deep("blockDeviceMappings/0/ebs/encrypted", "false")),
        ("disks-encrypted", of(":LaunchTemplate", "pool"), without("blockDeviceMappings")),
        ("disks-encrypted", of(":StorageClass"), deep("parameters/encrypted", None)),
        (
            "no-public-addresses",
            of(":LaunchTemplate", "pool-h100"),
            deep("networkInterfaces/0/associatePublicIpAddress", "true"),
        ),
        (
            "no-placement-group-in-capacity-block",
            of(":LaunchTemplate", "pool-h100-block"),
            with_(placement={"groupName": "mine"}),
        ),
        ("api-endpoint-not-open", of(":Cluster", "cluster-eks"), deep("vpcConfig/publicAccessCidrs", ["0.0.0.0/0"])),
        ("api-endpoint-not-open", of(":Cluster", "cluster-eks"), deep("vpcConfig/publicAccessCidrs", None)),
        ("cluster-secrets-encrypted", of(":Cluster", "cluster-eks"), without("encryptionConfig")),
        ("no-open-ingress", of(":SecurityGroupIngressRule"), with_(cidrIpv4="0.0.0.0/0")),
        ("buckets-safe", of(":BucketVersioning"), gone),
        ("buckets-safe", of(":BucketVersioning"), deep("versioningConfiguration/status", "Suspended")),
        ("buckets-safe", of(":BucketServerSideEncryptionConfiguration"), gone),
        ("buckets-safe", of(":BucketPublicAccessBlock"), with_(blockPublicPolicy=False)),
        ("buckets-safe", of(":BucketPublicAccessBlock"), with_(bucket=None)),
        ("keys-rotate", of(":Key"), with_(enableKeyRotation=False)),
        ("cache-beside-gpus", of(":LustreFileSystem"), with_(subnetIds="subnet-elsewhere")),
        ("images-pinned", of(":Deployment"), deep(f"{ENGINE}/image", "vllm/vllm-openai:latest")),
        ("images-pinned", of(":Deployment"), deep(f"{ENGINE}/image", "registry.example.com:5000/vllm")),
        ("images-pinned", of(":LeaderWorkerSet"), deep(f"{LWS_WORKER}/image", "lmsysorg/sglang:nightly")),
        (
            "images-pinned",
            of(":Job"),
            deep("spec/template/spec/containers/0/image", "docker.io/library/python"),
        ),
        ("pods-confined", of(":Deployment"), deep("spec/template/spec/hostNetwork", True)),
        ("pods-confined", of(":Deployment"), deep(f"{ENGINE}/securityContext/privileged", True)),
        ("pods-confined", of(":LeaderWorkerSet"), deep(f"{LEADER}/securityContext", None)),
        ("groups-alike", of(":LeaderWorkerSet"), deep(f"{LWS_WORKER}/resources/limits/vpc.amazonaws.com~1efa", "16")),
        ("groups-alike", of(":LeaderWorkerSet"), deep(f"{LWS_WORKER}/resources/limits/nvidia.com~1gpu", "4")),
        ("groups-alike", of(":LeaderWorkerSet"), deep(f"{LWS_WORKER}/resources/limits/hugepages-2Mi", None)),
        ("groups-alike", of(":LeaderWorkerSet"), deep(f"{LWS_WORKER}/resources/limits/memory", "100Gi")),
        ("groups-alike", of(":LeaderWorkerSet"), deep(f"{LWS_SHARED_MEMORY}/emptyDir/sizeLimit", "1Gi")),
        ("models-guarded", of(":PodDisruptionBudget", "llama-8b"), gone),
        ("models-guarded", of(":PodDisruptionBudget", "deepseek"), deep("spec/selector/matchLabels", {"app": "other"})),
        ("models-guarded", of(":NetworkPolicy", "deepseek"), gone),
        ("models-guarded", of(":NetworkPolicy", "deepseek"), deep("metadata/namespace", "elsewhere")),
        ("models-guarded", of(":Deployment", "llama-8b"), deep(f"{ENGINE}/livenessProbe", None)),
        ("models-guarded", of(":LeaderWorkerSet"), deep(f"{LEADER}/startupProbe", None)),
        ("releases-pinned", of(":Release", "keda"), without("version")),
        ("releases-pinned", of(":Release", "keda"), with_(version="^2.20.0")),
        ("releases-pinned", of(":CertManager"), deep("helmOptions/version", "v1.x")),
        ("no-secret-text", of(":Release", "monitoring"), deep("values/grafana/adminPassword", "hunter2")),
        ("no-secret-text", of(":Release", "keda"), deep("values/hub", "hf_" + "a" * 34)),
        ("no-secret-text", of(":CertManager"), deep("helmOptions/values/token", "abc")),
        ("no-secret-text", of(":ConfigMap"), with_(data={"key.pem": "-----BEGIN RSA PRIVATE KEY-----"})),
        ("no-secret-text", of(":Deployment"), deep(f"{ENGINE}/env/0", {"name": "HF_TOKEN", "value": "abc"})),
        ("no-secret-text", of(":Deployment"), deep(f"{ENGINE}/args/0", "--hub=hf_" + "b" * 34)),
    ],
)
def test_a_change_to_prod_breaks_the_rule_and_no_other(rule, picks, change):
    assert rules_broken(changed("prod", picks, change)) == {rule}


def test_a_group_whose_pods_all_go_without_efa_is_seen():
    def strip(props: dict[str, Any]) -> dict[str, Any]:
        data = copy.deepcopy(props)
        for template in ("leaderTemplate", "workerTemplate"):
            pod = data["spec"]["leaderWorkerTemplate"][template]["spec"]
            del pod["containers"][0]["resources"]["limits"]["vpc.amazonaws.com/efa"]
        return data

    messages = [v.message for v in changed("prod", of(":LeaderWorkerSet"), strip) if v.rule == "groups-use-efa"]
    assert len(messages) == 2
    assert all("pool h100" in message for message in messages)


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "Allow", "Action": "*", "Resource": "arn:aws:s3:::b"},
        {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::b"]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["autoscaling:SetDesiredCapacity"], "Resource": ["*"]},
        {"Effect": "Allow", "NotAction": ["iam:*"], "Resource": ["arn:aws:s3:::b"]},
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"},
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}},
    ],
)
@pytest.mark.parametrize("shape", [list, lambda statement: statement], ids=["list", "single"])
def test_broad_statements_break_least_privilege(statement, shape):
    document = json.dumps({"Statement": [statement] if shape is list else statement})
    where = (
        ("aws:iam/role:Role", "assumeRolePolicy") if "Principal" in statement else ("aws:iam/policy:Policy", "policy")
    )
    violations = judge.judge([resource(where[0], **{where[1]: document})])
    assert rules_broken(violations) == {"least-privilege"}


@pytest.mark.parametrize(
    "statement",
    [
        {"Effect": "Deny", "Action": "s3:*", "Principal": "*", "Resource": ["arn:aws:s3:::b"]},
        {"Effect": "Allow", "Action": ["ec2:DescribeInstanceTypes"], "Resource": ["*"]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b/*"]},
    ],
)
def test_narrow_statements_pass(statement):
    document = json.dumps({"Statement": [statement]})
    assert judge.judge([resource("aws:s3/bucketPolicy:BucketPolicy", policy=document)]) == []


def test_administrators_policy_is_refused():
    attachment = resource(
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment", policyArn="arn:aws:iam::aws:policy/AdministratorAccess"
    )
    assert rules_broken(judge.judge([attachment])) == {"no-broad-managed-policies"}


def test_every_rule_is_broken_by_some_test():
    """A rule that no test can break is a rule nobody has seen work."""
    source = "".join(path.read_text(encoding="utf-8") for path in judge.Path(__file__).parent.glob("test_*.py"))
    assert [rule.name for rule in RULES if source.count(f'"{rule.name}"') == 0] == []
    assert len({rule.name for rule in RULES}) == len(RULES)
