"""Every stack file of examples/ plans, builds, previews alike and keeps to the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

import program
from planner import load_and_plan
from policy.judge import from_records, judge
from settings.errors import StackFileError
from settings.load import stack_file
from tests import crd_schemas
from tests.harness import UNKNOWN, ResourceRecord, World, deploy

ROOT = Path(__file__).parent.parent
BUILT_IN = {"networking.k8s.io", "rbac.authorization.k8s.io", "scheduling.k8s.io", "storage.k8s.io"}
EXAMPLES = sorted((ROOT / "examples").glob("*/Pulumi.*.yaml"))


def built(path: Path, *, preview: bool = False) -> World:
    plan = load_and_plan(path)[1]
    return deploy(lambda: program.build(plan) and None, stack=plan.stack, preview=preview)


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.parent.name)
def example(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_examples() -> None:
    assert {"karpenter", "capacity-ladder"} <= {path.parent.name for path in EXAMPLES}


def test_an_example_has_a_readme_and_a_schema(example: Path) -> None:
    assert (example.parent / "README.md").is_file()
    header = example.read_text(encoding="utf-8").splitlines()[0]
    named = header.removeprefix("# yaml-language-server: $schema=")
    assert named != header
    assert (example.parent / named).resolve() == ROOT / "settings" / "stack.schema.json"


def test_an_example_builds_previews_alike_and_breaks_no_rule(example: Path) -> None:
    world = built(example)
    assert built(example, preview=True).inventory() == world.inventory()
    violations = judge(from_records(world, unknown=UNKNOWN))
    assert [str(violation) for violation in violations if violation.level == "mandatory"] == []


def test_custom_resources_of_an_example_are_as_upstream_defines_them(example: Path) -> None:
    custom = [
        record
        for record in built(example)
        if record.type.startswith("kubernetes:") and "." in (group := group_of(record)) and group not in BUILT_IN
    ]
    assert custom
    for record in custom:
        assert crd_schemas.problems(record.inputs) == [], record.name


def group_of(record: ResourceRecord) -> str:
    return str(record.inputs.get("apiVersion", "")).rpartition("/")[0]


def test_a_verb_takes_the_path_of_a_stack_file(example: Path, tmp_path: Path) -> None:
    assert stack_file(ROOT, str(example)) == example
    assert stack_file(ROOT, "dev") == ROOT / "Pulumi.dev.yaml"
    with pytest.raises(StackFileError, match="does not exist"):
        stack_file(ROOT, str(tmp_path / "Pulumi.none.yaml"))
    with pytest.raises(StackFileError, match=r"call it Pulumi"):
        stack_file(ROOT, str(tmp_path / "stack.yaml"))


def test_a_verb_takes_the_folder_of_one_stack_file() -> None:
    examples = ROOT / "examples"
    assert stack_file(ROOT, f"{examples}/kv-tiers") == examples / "kv-tiers" / "Pulumi.tiers.yaml"
    with pytest.raises(StackFileError, match=r"name one: .*after.*before"):
        stack_file(ROOT, f"{examples}/p4d-fleet")
    with pytest.raises(StackFileError, match="has 0 stack files"):
        stack_file(ROOT, f"{examples}/nowhere")
