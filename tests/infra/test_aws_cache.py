"""The bucket of weights and the file system in front of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from infra.aws import declare
from tests.harness import World, deploy
from tests.infra import plans

FILES = "aws:fsx/lustreFileSystem:LustreFileSystem"
ASSOCIATION = "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"


@pytest.fixture(scope="module")
def world() -> World:
    return deploy(lambda: declare(plans.plan()))


@pytest.mark.parametrize("keep", [True, False])
def test_bucket_and_settings_are_kept_together_or_not_at_all(keep: bool) -> None:
    world = deploy(lambda: declare(plans.plan(protect_data=keep)))
    records = [record for record in world if record.type.startswith("aws:s3/")]
    assert len(records) == 7
    for record in records:
        assert (record.protect, record.retain_on_delete) == (keep, keep), record.type
    assert world["aws:s3/bucket:Bucket", "weights-bucket"].inputs["forceDestroy"] is not keep


def test_the_bucket_is_versioned_encrypted_private_and_answers_over_tls_only(world: World) -> None:
    def one(kind: str) -> dict[str, object]:
        (record,) = [record for record in world if record.type.startswith(f"aws:s3/{kind}:")]
        return dict(record.inputs)

    assert one("bucketVersioning")["versioningConfiguration"] == {"status": "Enabled"}
    (rule,) = one("bucketServerSideEncryptionConfiguration")["rules"]
    assert rule["applyServerSideEncryptionByDefault"]["sseAlgorithm"] == "aws:kms"
    assert (
        rule["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"] == world[FILES, "lustre-files"].inputs["kmsKeyId"]
    )
    assert rule["bucketKeyEnabled"] is True
    assert one("bucketOwnershipControls")["rule"] == {"objectOwnership": "BucketOwnerEnforced"}
    block = one("bucketPublicAccessBlock")
    for field in ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"):
        assert block[field] is True
    (statement,) = json.loads(str(one("bucketPolicy")["policy"]))["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    bucket_arn, objects = statement["Resource"]
    assert objects == f"{bucket_arn}/*"
    rules = {rule["id"]: rule for rule in one("bucketLifecycleConfiguration")["rules"]}
    assert rules["expire-old-versions"]["noncurrentVersionExpiration"]["noncurrentDays"] > 0
    assert rules["abort-uploads"]["abortIncompleteMultipartUpload"]["daysAfterInitiation"] > 0
    assert all("expiration" not in rule for rule in rules.values()), "current weights never expire"


def test_the_file_system_is_what_was_planned(world: World) -> None:
    record = world[FILES, "lustre-files"]
    inputs = record.inputs
    assert inputs["deploymentType"] == "PERSISTENT_2"
    assert inputs["fileSystemTypeVersion"] == "2.15"
    assert (inputs["storageCapacity"], inputs["perUnitStorageThroughput"]) == (9600, 1000)
    assert inputs["subnetIds"] in world["aws:eks/nodeGroup:NodeGroup", "pool-h100-spot-nodes"].inputs["subnetIds"]
    assert record.protect
    # The scheme of older deployment types; FSx refuses it beside associations.
    assert not {"importPath", "exportPath", "autoImportPolicy"} & set(inputs)
    logs = world["aws:cloudwatch/logGroup:LogGroup", "lustre-logs"]
    assert logs.inputs["name"].startswith("/aws/fsx/")


def test_lustre_ports_are_open_both_ways_between_servers_and_nodes(world: World) -> None:
    servers, *_ = world[FILES, "lustre-files"].inputs["securityGroupIds"]
    nodes = world["aws:ec2/launchTemplate:LaunchTemplate", "system-template"].inputs["vpcSecurityGroupIds"][0]
    ports = {(988, 988), (1018, 1023)}

    def opened(kind: str, group: str, peer: str) -> set[tuple[int, int]]:
        return {
            (record.inputs["fromPort"], record.inputs["toPort"])
            for record in world.of_type(kind)
            if record.inputs["ipProtocol"] == "tcp"
            and record.inputs["securityGroupId"] == group
            and record.inputs.get("referencedSecurityGroupId") == peer
        }

    assert opened(INGRESS, servers, servers) == opened(EGRESS, servers, servers) == ports
    assert opened(INGRESS, servers, nodes) == opened(EGRESS, servers, nodes) == ports
    assert opened(INGRESS, nodes, servers) == ports
    rules = {r.urn for r in (*world.of_type(INGRESS), *world.of_type(EGRESS)) if r.name.startswith("lustre-")}
    assert len(rules) == 10
    assert rules <= set(world[FILES, "lustre-files"].depends_on)


def test_the_association_mirrors_the_models_of_the_bucket_and_never_writes_back(world: World) -> None:
    record = world[ASSOCIATION, "lustre-weights"]
    inputs = record.inputs
    assert inputs["fileSystemPath"] == "/models"
    bucket = world["aws:s3/bucketPolicy:BucketPolicy", "weights-policy"].inputs["bucket"]
    assert inputs["dataRepositoryPath"] == f"s3://{bucket}/models"
    assert inputs["batchImportMetaDataOnCreate"] is True
    assert inputs["s3"] == {"autoImportPolicy": {"events": ["NEW", "CHANGED", "DELETED"]}}
    assert world["aws:s3/bucketPolicy:BucketPolicy", "weights-policy"].urn in record.depends_on


def test_a_bucket_alone_has_no_file_system_and_trusts_none() -> None:
    plan = plans.plan(cache=plans.without_lustre(plans.lustre_cache()))
    world = deploy(lambda: declare(plan))
    assert not world.of_type(FILES)
    policy = json.loads(world["aws:kms/key:Key", "data-key-key"].inputs["policy"])
    assert [statement["Sid"] for statement in policy["Statement"]] == ["AccountAdministersByIam"]


def test_a_file_system_without_a_bucket_is_refused() -> None:
    plan = plans.plan(cache=replace(plans.lustre_cache(), bucket=False))
    with pytest.raises(ValueError, match="mirrors a bucket"):
        deploy(lambda: declare(plan))


def test_an_efa_enabled_file_system_lets_everything_between_itself_and_its_clients() -> None:
    plan = plans.plan()
    assert plan.cache.fsx is not None
    cache = replace(plan.cache, fsx=replace(plan.cache.fsx, storage_gib=4800, throughput_mbps_per_tib=1000, efa=True))
    world = deploy(lambda: declare(replace(plan, cache=cache)))
    files = world[FILES, "lustre-files"]
    assert files.inputs["efaEnabled"] is True
    assert files.inputs["metadataConfiguration"] == {"mode": "AUTOMATIC"}
    rules = [r for r in world if r.type in {INGRESS, EGRESS} and "-efa-" in r.name and r.name.startswith("lustre")]
    assert {r.name for r in rules} == {
        f"lustre-efa-{way}-{peer}" for way in ("from", "to") for peer in ("servers", "nodes")
    }
    assert all(r.inputs["ipProtocol"] == "-1" and r.urn in files.depends_on for r in rules)


def test_a_file_system_without_efa_opens_lustres_ports_alone(world: World) -> None:
    assert "efaEnabled" not in world[FILES, "lustre-files"].inputs
    rules = [r for r in world if r.type in {INGRESS, EGRESS} and r.name.startswith("lustre")]
    assert rules
    assert all(r.inputs["ipProtocol"] == "tcp" for r in rules)
