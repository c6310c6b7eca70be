"""The policy pack itself: started as Pulumi starts it, asked over the protocol that the engine speaks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf import struct_pb2
from pulumi.runtime.proto import analyzer_pb2 as proto
from pulumi.runtime.proto import analyzer_pb2_grpc
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE

from policy.rules import RULES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def analyzer():
    """The running pack."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "policy")], cwd=ROOT / "policy", stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the pack did not start"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
    finally:
        process.kill()
        process.wait()


def struct(value: dict) -> struct_pb2.Struct:
    found = struct_pb2.Struct()
    found.update(value)
    return found


def test_the_pack_names_every_rule(analyzer):
    info = analyzer.GetAnalyzerInfo(proto.google_dot_protobuf_dot_empty__pb2.Empty())
    assert [policy.name for policy in info.policies] == [rule.name for rule in RULES]


def test_a_resource_is_refused_before_it_is_made(analyzer):
    request = proto.AnalyzeRequest(
        type="aws:ec2/launchTemplate:LaunchTemplate",
        name="t",
        urn="urn:pulumi:t::t::aws:ec2/launchTemplate:LaunchTemplate::t",
        properties=struct(
            {
                "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 2},
                "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"encrypted": "true"}}],
                "userData": UNKNOWN_STRING_VALUE,
            }
        ),
    )
    found = analyzer.Analyze(request).diagnostics
    assert [(item.policyName, item.enforcementLevel) for item in found] == [
        ("metadata-service-closed", proto.MANDATORY)
    ]
    assert "httpPutResponseHopLimit" in found[0].message


def test_a_stack_is_judged_whole(analyzer):
    bucket = "urn:pulumi:t::t::aws:s3/bucket:Bucket::b"
    request = proto.AnalyzeStackRequest(
        resources=[
            proto.AnalyzerResource(type="aws:s3/bucket:Bucket", name="b", urn=bucket, properties=struct({})),
            proto.AnalyzerResource(
                type="aws:s3/bucketVersioning:BucketVersioning",
                name="v",
                urn="urn:pulumi:t::t::aws:s3/bucketVersioning:BucketVersioning::v",
                properties=struct({"bucket": UNKNOWN_STRING_VALUE, "versioningConfiguration": {"status": "Enabled"}}),
                dependencies=[bucket],
            ),
        ]
    )
    found = analyzer.AnalyzeStack(request).diagnostics
    assert {item.policyName for item in found} == {"buckets-safe"}
    assert {item.urn for item in found} == {bucket}
    told = " ".join(item.message for item in found)
    assert "not encrypted" in told
    assert "not versioned" not in told


def test_the_pack_pins_what_the_project_pins():
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))

    project = pins(ROOT / "requirements.txt") | pins(ROOT / "requirements-dev.txt")
    pack = pins(ROOT / "policy" / "requirements.txt")
    assert "pulumi-policy" in pack
    assert {name: project.get(name) for name in pack} == pack


def test_the_pack_describes_itself():
    project = yaml.safe_load((ROOT / "policy" / "PulumiPolicy.yaml").read_text(encoding="utf-8"))
    assert project["runtime"]["name"] == "python"
    assert f'name="{project["name"]}"' in (ROOT / "policy" / "__main__.py").read_text(encoding="utf-8")


def test_the_readme_lists_every_rule_with_its_level():
    text = (ROOT / "policy" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z-]+) \| .* \| (mandatory|advisory) \|$", text, re.MULTILINE))
    assert rows == {rule.name: rule.level for rule in RULES}
