"""Every rule of the stack file, broken once: the error names the place and the way out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from settings.messages import EXAMPLES
from settings.root import Settings
from tests.stacks import changed

# (name, stack, changes, expected path, words in message or help)
BAD: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("unknown key", "dev", {"models.0.context_token": 5}, "models[0].context_token", "did you mean `context_tokens`"),
    ("a section that is a number", "dev", {"models.0.replicas": 2}, "models[0].replicas", "its keys: max, min"),
    ("a word or a mapping", "dev", {"models.0.layout": 4}, "models[0].layout", "auto, a mapping of data, expert, pipeline, tensor"),
    ("a secret in plain", "dev", {"models.0.api_key": "abc"}, "models[0].api_key", "its keys: kind"),
    ("credentials of registries in plain", "dev", {"images": {"pull_secret": "registry"}}, "images.pull_secret", "its keys: kind, name"),
    ("credentials of registries from elsewhere", "dev", {"images": {"pull_secret": {"kind": "pulumi", "name": "registry"}}}, "images.pull_secret.kind", "kubernetes_secret"),
    ("a Secret that cannot be called so", "dev", {"images": {"pull_secret": {"kind": "kubernetes_secret", "name": "My_Registry"}}}, "images.pull_secret.name", "must match"),
    ("a list that is a word", "dev", {"target.admins": "me"}, "target.admins", "must be a list"),
    ("a key that is a number", "dev", {"5": 1}, "[5]", "must be words"),
    ("an empty list", "dev", {"target.admins": []}, "target.admins", "at least 1"),
    ("a version without quotes", "dev", {"target.kubernetes_version": 1.35}, "target.kubernetes_version", "quotes"),
    ("a bare off", "dev", {"protection": False}, "protection", "quotes"),
    ("an address without a mask", "dev", {"target.endpoint.admin_cidrs": ["203.0.113.7"]}, "target.endpoint.admin_cidrs[0]", "as 203.0.113.0/24 does"),
    ("a form is not said", "prod", {"models.1.engine_options": {"logging": {}}}, "models[1].engine_options", "add `engine: vllm` or `engine: sglang`"),
    ("something is missing", "dev", {"models.0": {"name": "a", "model": "Qwen/Qwen3-32B", "pool": "l40s"}}, "models[0].revision", "Commit of the weights"),
    ("unknown key at the top", "dev", {"modells": []}, "modells", "did you mean `models`"),
    ("wrong type", "dev", {"models.0.context_tokens": "many"}, "models[0].context_tokens", "valid integer"),
    ("open to the world", "dev", {"target.endpoint.admin_cidrs": ["0.0.0.0/0"]}, "target.endpoint.admin_cidrs[0]", "office"),
    ("private range at the public endpoint", "dev", {"target.endpoint.admin_cidrs": ["10.0.0.0/8"]}, "target.endpoint.admin_cidrs[0]", "EKS refuses"),
    ("range with host bits", "dev", {"target.endpoint.admin_cidrs": ["203.0.113.7/24"]}, "target.endpoint.admin_cidrs[0]", "host bits"),
    ("an admin that is no role", "dev", {"target.admins": ["arn:aws:sts::111122223333:assumed-role/a/b"]}, "target.admins[0]", "role"),
    ("private endpoint nobody reaches", "dev", {"target.endpoint": {"access": "private"}}, "target.endpoint", "transit gateway"),
    ("unknown kubernetes", "dev", {"target.kubernetes_version": "1.12"}, "target.kubernetes_version", "supported"),
    ("system nodes with GPU", "dev", {"target.system_nodes.instance_type": "p5.48xlarge"}, "target.system_nodes.instance_type", "GPU"),
    ("a time zone nobody has", "prod", {"models.1.autoscaling.floors.0.timezone": "Europe/Berlln"}, "models[1].autoscaling.floors[0].timezone", "no IANA time zone"),
    ("Sunday as 7", "prod", {"models.1.autoscaling.floors.0.end": "0 19 * * 7"}, "models[1].autoscaling.floors[0].end", "Sunday is 0"),
    ("a cron of four fields", "prod", {"models.1.autoscaling.floors.0.start": "0 19 * *"}, "models[1].autoscaling.floors[0].start", "must match"),
    ("a floor without length", "prod", {"models.1.autoscaling.floors.0.end": "30 7 * * 1-5"}, "models[1].autoscaling.floors[0].end", "the same"),
    ("no replica at a time", "prod", {"models.1.autoscaling.scale_up_replicas": 0}, "models[1].autoscaling.scale_up_replicas", "1 or more"),
    ("a peak below the mean", "prod", {"models.1.traffic.peak": {"requests_per_second": 2}}, "models[1].traffic.peak.requests_per_second", "set it to 6 or more"),
    ("a floor above the most replicas", "prod", {"models.1.autoscaling.floors.0.replicas": 99}, "models[1].autoscaling.floors[0].replicas", "raise replicas.max"),
    ("max below min", "staging", {"models.0.replicas": {"min": 3, "max": 2}}, "models[0].replicas.max", "set max to 3"),
    ("no region", "dev", {"/aws:region": "mars-north-1"}, "aws:region", "catalog of regions"),
    ("unknown instance type", "dev", {"pools.0.instance_type": "g6e.xlrge"}, "pools[0].instance_type", "did you mean `g6e.xlarge`"),
    ("CPU type as pool", "dev", {"pools.0.instance_type": "m7i.xlarge"}, "pools[0].instance_type", "no GPU"),
    ("unknown zone", "dev", {"pools.0.availability_zone": "us-east-1z"}, "pools[0].availability_zone", "not a zone"),
    ("zone without the type", "prod", {"pools.0.instance_type": "p6-b200.48xlarge"}, "pools[0].availability_zone", "us-east-1c"),
    ("capacity block of a G type", "dev", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 1}]}, "pools[0].capacity[0]", "not sold"),
    ("wrong reservation id", "prod", {"pools.0.capacity.0.reservation": "res-1"}, "pools[0].capacity[0].reservation", "must match"),
    ("pool name too long for its node groups", "dev", {"pools.0.name": "a" * 35, "models.0.pool": "a" * 35}, "pools[0].name", "shorten"),
    ("two rungs of a kind", "dev", {"pools.0.capacity.1": {"kind": "spot", "nodes": {"max": 1}}}, "pools[0].capacity[1]", "merge"),
    ("unknown rung", "dev", {"pools.0.capacity.0": {"kind": "sport", "nodes": {"max": 1}}}, "pools[0].capacity[0]", "did you mean `spot`"),
    ("existing nodes on EKS", "dev", {"pools.0": {"name": "l40s", "provisioner": "existing", "gpu": "L40S", "gpus_per_node": 1, "nodes": 1, "vcpus": 8, "memory_gib": 64, "node_selector": {"a": "b"}}}, "pools[0].provisioner", "node_group"),
    ("unknown GPU", "local", {"pools.0.gpu": "L40"}, "pools[0].gpu", "did you mean `L40S`"),
    ("cidr with host bits", "dev", {"network.cidr": "10.10.0.1/16"}, "network.cidr", "host bits"),
    ("cidr too small", "dev", {"network.cidr": "10.10.0.0/24"}, "network.cidr", "/16 and /20"),
    ("public cidr", "dev", {"network.cidr": "8.8.0.0/16"}, "network.cidr", "not a private range"),
    ("no internet, no mirror", "dev", {"network.egress": "vpc_endpoints"}, "network.egress", "images.mirror"),
    ("connection overlaps", "dev", {"network.connection": {"transit_gateway": "tgw-0123456789abcdef0", "cidrs": ["10.10.4.0/24"]}}, "network.connection.cidrs[0]", "overlaps"),
    ("subnets in one zone", "dev", {"network": {"kind": "existing", "vpc": "vpc-0123456789abcdef0", "subnets": [{"id": "subnet-0123456789abcdef0", "availability_zone": "us-east-1a"}, {"id": "subnet-0123456789abcdef1", "availability_zone": "us-east-1a"}]}}, "network.subnets", "two zones"),
    ("pool outside the subnets", "dev", {"network": {"kind": "existing", "vpc": "vpc-0123456789abcdef0", "subnets": [{"id": "subnet-0123456789abcdef0", "availability_zone": "us-east-1b"}, {"id": "subnet-0123456789abcdef1", "availability_zone": "us-east-1c"}]}}, "pools[0].availability_zone", "no subnet"),
    ("network on a cluster that exists", "local", {"network": {"kind": "create"}}, "network", "remove"),
    ("illegal FSx size", "prod", {"cache.storage_gib": 5000}, "cache.storage_gib", "4800 and 7200"),
    ("FSx size that has no EFA", "prod", {"cache.efa": True, "cache.storage_gib": 7200}, "cache.storage_gib", "4800 and 9600"),
    ("EFA needs a larger FSx", "prod", {"cache.efa": True, "cache.storage_gib": 2400}, "cache.storage_gib", "nearest: 4800"),
    ("FSx too slow for its target", "prod", {"cache.load_seconds": 120}, "cache.load_seconds", "storage_gib: 16800"),
    ("no FSx is that fast", "prod", {"cache.load_seconds": 20}, "cache.load_seconds", "into its GPUs alone needs 88 s"),
    ("illegal FSx throughput", "prod", {"cache.throughput_mbps_per_tib": 300}, "cache.throughput_mbps_per_tib", "125"),
    ("FSx away from the GPUs", "prod", {"cache.availability_zone": "us-east-1c"}, "cache.availability_zone", "us-east-1a"),
    ("FSx without AWS", "local", {"cache": {"kind": "fsx_lustre", "storage_gib": 1200, "throughput_mbps_per_tib": 125}}, "cache.kind", "volume_claim"),
    ("a volume of one node for pods of two", "local", {"pools.0.nodes": 2, "models.0.replicas": {"min": 1, "max": 2}}, "cache.access_mode", "ReadWriteMany"),
    ("no room for a Ray head", "staging", {"target.system_nodes.instance_type": "m7i.large"}, "target.system_nodes", "larger type"),
    ("unknown model", "dev", {"models.0.model": "meta-llama/Llama-3.1-8B-Instrukt"}, "models[0].model", "did you mean"),
    ("branch as revision", "dev", {"models.0.revision": "main"}, "models[0].revision", "must match"),
    ("unknown pool", "dev", {"models.0.pool": "l40"}, "models[0].pool", "did you mean `l40s`"),
    ("context beyond the model", "dev", {"models.0.context_tokens": 200000}, "models[0].context_tokens", "131072"),
    ("model that does not fit", "dev", {"models.0.model": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"}, "models[0].pool", "GPU memory"),
    ("671B on one node", "prod", {"models.0.layout": {"tensor": 8}}, "models[0].layout", "does not fit"),
    ("FP8 on A100", "prod", {"models.0.pool": "a100"}, "models[0].quantization", "fp8_weight_only"),
    ("fp8 of fp8", "prod", {"models.0.quantization": "fp8"}, "models[0].quantization", "already"),
    ("FP8 cache on A100", "prod", {"models.1.kv_cache": "fp8"}, "models[1].kv_cache", "auto"),
    ("tensor degree that does not divide", "prod", {"models.1.layout": {"tensor": 6}}, "models[1].layout.tensor", "degrees that divide"),
    ("FP8 blocks broken by tensor 32", "prod", {"models.0.layout": {"tensor": 32}}, "models[0].layout.tensor", "128"),
    ("ranks that do not fill nodes", "prod", {"models.1.layout": {"tensor": 4, "pipeline": 3}}, "models[1].layout.tensor", "multiples of 8"),
    ("two nodes without RDMA", "dev", {"models.0.layout": {"tensor": 2}}, "models[0].layout.tensor", "GPUDirect"),
    ("experts of a dense model", "prod", {"models.1.layout": {"tensor": 8, "expert": 8}}, "models[1].layout.expert", "no experts"),
    ("data parallel attention of vLLM", "prod", {"models.1.layout": {"tensor": 8, "data": 2}}, "models[1].layout.data", "SGLang"),
    ("Deployment over two nodes", "prod", {"models.0.runtime": "deployment"}, "models[0].runtime", "leader_worker_set"),
    ("Ray from S3", "staging", {"cache": {"kind": "s3"}}, "models[0].runtime", "bucket"),
    ("SGLang on Ray", "prod", {"models.0.runtime": "ray_service"}, "models[0].runtime", "vLLM only"),
    ("image without EFA", "prod", {"models.0.image.carries_efa": False}, "models[0].image", "TCP"),
    ("floating tag", "prod", {"models.0.image.tag": "latest"}, "models[0].image.tag", "moves"),
    ("spot on a capacity block", "prod", {"pools.0.capacity": [{"kind": "spot", "reservation": "cr-0123456789abcdef0", "nodes": {"max": 2}}]}, "pools[0].capacity[0].reservation", "one market only"),
    ("on demand on a reservation", "prod", {"pools.0.capacity": [{"kind": "on_demand", "reservation": "cr-0123456789abcdef0", "nodes": {"max": 2}}]}, "pools[0].capacity[0].reservation", "kind: capacity_reservation"),
    ("a placement group with a block", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2, "placement_group": "near"}]}, "pools[0].capacity[0].placement_group", "leave it out"),
    ("a reservation id of the wrong form", "prod", {"pools.0.capacity": [{"kind": "capacity_reservation", "reservation": "crr-0123", "nodes": 2}]}, "pools[0].capacity[0].reservation", "wrong form"),
    ("a block id of the wrong form", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cb-0123456789abcdef0", "nodes": 2}]}, "pools[0].capacity[0].reservation", "wrong form"),
    ("two rungs with one reservation", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2}, {"kind": "capacity_reservation", "reservation": "cr-0123456789abcdef0", "nodes": 2}]}, "pools[0].capacity[1]", "merge the two"),
    ("one reservation on two pools", "prod", {"pools.1.capacity": [{"kind": "capacity_reservation", "reservation": "cr-0123456789abcdef0", "nodes": 2}]}, "pools[1].capacity[0].reservation", "one instance type"),
    ("a block that ends before it starts", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2, "starts": "2027-02-01T11:30:00Z", "ends": "2027-01-01T11:30:00Z"}]}, "pools[0].capacity[0].ends", "exchange"),
    ("an end without a time zone", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2, "ends": "2027-01-01T11:30:00"}]}, "pools[0].capacity[0].ends", "11:30:00Z"),
    ("a start in words", "prod", {"pools.0.capacity": [{"kind": "capacity_block", "reservation": "cr-0123456789abcdef0", "nodes": 2, "starts": "next monday"}]}, "pools[0].capacity[0].starts", "11:30:00Z"),
    ("a calendar over the maximum", "prod", {"pools.1.calendar": [{"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "nodes": 9}]}, "pools[1].calendar[0].nodes", "6 at most"),
    ("a calendar that overlaps", "prod", {"pools.1.calendar": [{"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "nodes": 2}, {"start": "0 17 * * 5", "end": "0 2 * * 6", "nodes": 3}]}, "pools[1].calendar[1]", "entry 1"),
    ("a calendar by days of the month", "prod", {"pools.1.calendar": [{"start": "0 8 1 * *", "end": "0 18 1 * *", "nodes": 2}]}, "pools[1].calendar[0].start", "every week"),
    ("a calendar in two time zones", "prod", {"pools.1.calendar": [{"start": "0 8 * * 1", "end": "0 9 * * 1", "nodes": 2}, {"timezone": "Europe/Berlin", "start": "0 8 * * 2", "end": "0 9 * * 2", "nodes": 2}]}, "pools[1].calendar[1].timezone", "overlap"),
    ("a window at no time of day", "prod", {"pools.0.maintenance_window": {"start": "25:00", "hours": 2}}, "pools[0].maintenance_window.start", "wrong form"),
    ("a window in no time zone", "prod", {"target.maintenance_window": {"timezone": "Mars/Olympus", "start": "03:00", "hours": 2}}, "target.maintenance_window.timezone", "IANA"),
    ("a group that no rung holds whole", "prod", {"pools.0.capacity": [{"kind": "capacity_reservation", "reservation": "cr-0123456789abcdef0", "nodes": 1}, {"kind": "on_demand", "nodes": {"max": 1}}]}, "models[0].pool", "largest rung"),
    ("group larger than a rung", "prod", {"pools.0.capacity": [{"kind": "spot", "nodes": {"max": 1}}]}, "models[0].pool", "2 nodes"),
    ("more replicas than nodes", "dev", {"models.0.replicas": {"min": 3, "max": 3}}, "models[0].replicas.min", "holds 1"),
    ("objective below physics", "dev", {"models.0.objectives": {"tpot_p99_ms": 5}}, "models[0].objectives.tpot_p99_ms", "is below what"),
    ("gated model without token", "local", {"models.0.model": "meta-llama/Llama-3.1-8B-Instruct", "models.0.revision": "0e9e39f249a16976918f6564b8830bc894c89659"}, "secrets.hub_token", "gated"),
    ("two models of a name", "prod", {"models.2.name": "r1-distill-70b"}, "models[2].name", "unique"),
    ("over budget", "prod", {"budget.monthly_usd": 1000}, "budget.monthly_usd", "worst month"),
    ("unknown secret source", "dev", {"models.0.api_key": {"kind": "vault"}}, "models[0].api_key", "not a known form"),
    ("Kubernetes name with capitals", "dev", {"models.0.name": "Llama_8B"}, "models[0].name", "must match"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stack", "changes", "path", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_each_rule_is_told_with_its_place(tmp_path, stack, changes, path, words):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, stack, changes))
    problems = {problem.dotted(): problem for problem in caught.value.problems}
    assert path in problems, str(caught.value)
    problem = problems[path]
    assert words in f"{problem.message} {problem.help or ''}"
    assert problem.position is not None
    assert f":{problem.position.line}:" in str(caught.value)


@pytest.mark.parametrize(("stack", "changes", "path"), [case[1:4] for case in BAD], ids=[case[0] for case in BAD])
def test_a_mistake_is_told_once_and_alone(tmp_path, stack, changes, path):
    """A wrong value brings no follow-up errors that would lead the reader astray."""
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, stack, changes))
    told = [problem.dotted() for problem in caught.value.problems]
    assert told.count(path) == 1
    assert len(told) <= 2, str(caught.value)


def test_four_mistakes_of_model_and_plan_give_four_errors(tmp_path):
    path = changed(
        tmp_path,
        "prod",
        {
            "models.0.layout": {"tensor": 12},
            "models.1.tensor_paralel": 8,
            "models.2.replicas": {"min": 2, "max": 1},
            "cache.storage_gib": 5000,
        },
    )
    with pytest.raises(StackFileError) as caught:
        load_and_plan(path)
    told = [problem.dotted() for problem in caught.value.problems]
    assert told == [
        "cache.storage_gib",
        "models[0].layout.tensor",
        "models[1].tensor_paralel",
        "models[2].replicas.max",
    ]
    lines = [problem.position.line for problem in caught.value.problems if problem.position]
    assert lines == sorted(lines)
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config:\n  a: [1, 2\n", "not valid YAML"),
        ("config:\n  a: 1\n  a: 2\n", "given twice"),
        ("other: 1\n", "no `config:`"),
        ("config:\n  aws:region: us-east-1\n", "has no `inference-platform:platform`"),
        ("config:\n\tx: 1\n", "replace the tab"),
        ("config:\n  ? [a, b]\n  : 1\n", "must be one word"),
        ("config:\n  1: 2\n", "has no `inference-platform:platform`"),
        ("config:\n  inference-platform:platform:\n", "2:3\\n.*\n.*is empty"),
        ("config:\n  inference-platform:platform: 5\n", "must be a mapping"),
    ],
)
def test_what_is_no_stack_file(tmp_path, text, words):
    path = tmp_path / "Pulumi.x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StackFileError, match=words):
        load_and_plan(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "Pulumi.x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StackFileError, match="cannot be read"):
        load_and_plan(path)


def test_a_wrong_optional_section_hides_nothing(tmp_path):
    path = changed(tmp_path, "dev", {"budget.monthly_usd": -5, "pools.0.instance_type": "g6e.xlrge"})
    with pytest.raises(StackFileError) as caught:
        load_and_plan(path)
    assert [problem.dotted() for problem in caught.value.problems] == ["pools[0].instance_type", "budget.monthly_usd"]


def test_what_was_taken_out_is_not_judged_by_its_default(tmp_path):
    """Wrong replicas must not bring `replicas.max is 1`, nor a wrong tag words about the catalog's image."""
    changes = {"models.0.replicas": {"min": 4, "max": 3}, "models.0.image.tag": "latest"}
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "prod", changes))
    assert {problem.dotted() for problem in caught.value.problems} == {"models[0].replicas.max", "models[0].image.tag"}


@pytest.mark.parametrize(
    "changes",
    [
        {"models.0.api_key": "hunter2"},
        {"models.0.engine_options": {"engine": "vllm", "extra_args": ["--api-key=hunter2"]}},
        {"models.0.engine_options": {"engine": "vllm", "extra_args": ["--hf-token=hunter2"]}},
    ],
)
def test_a_secret_in_the_file_is_not_quoted(tmp_path, changes):
    with pytest.raises(StackFileError) as caught:
        load_and_plan(changed(tmp_path, "dev", changes))
    assert "hunter2" not in str(caught.value)


def test_examples_of_forms_have_the_form():
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(Settings.model_json_schema())))
    known = {json.loads(pattern) for pattern in patterns}
    for pattern, example in EXAMPLES.items():
        assert pattern in known
        assert re.search(pattern, example)
