"""Each committed stack file through `__main__.py`, as Pulumi would run it; the inventory is a golden file."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.harness import World, deploy
from tests.stacks import PLATFORM, STACKS, document

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "inventory"
# A change that touches one of these by accident costs data or hours.
STATEFUL = {
    "aws:s3/bucket:Bucket",
    "aws:kms/key:Key",
    "aws:fsx/lustreFileSystem:LustreFileSystem",
    "aws:eks/cluster:Cluster",
}


def platform(stack: str) -> dict[str, Any]:
    return document(stack)["config"][PLATFORM]


def configuration(stack: str, changed: dict[str, Any] | None = None) -> dict[str, str]:
    """What Pulumi hands to the program: objects as JSON."""
    found = {PLATFORM: json.dumps(changed or platform(stack))}
    region = document(stack)["config"].get("aws:region")
    return {**found, "aws:region": region} if region else found


def run(stack: str, *, preview: bool = False) -> World:
    return deploy(
        lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"),
        preview=preview,
        stack=stack,
        config=configuration(stack),
    )


@pytest.mark.parametrize("stack", STACKS)
def test_golden_inventory(stack):
    """Type, name, parent and protection of every resource: read a change here like a plan."""
    text = "\n".join(run(stack).inventory()) + "\n"
    path = GOLDEN / f"{stack}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "changed on purpose? `make golden`, then read the diff"


@pytest.mark.parametrize("stack", STACKS)
def test_the_first_preview_lists_what_up_makes(stack):
    assert run(stack, preview=True).inventory() == run(stack).inventory()


@pytest.mark.parametrize("stack", [stack for stack in STACKS if stack != "local"])
def test_protection_follows_the_stack_file(stack):
    wanted = {"none": set(), "data": {"aws:s3/bucket:Bucket"}, "all": STATEFUL - {"aws:kms/key:Key"}}
    world = run(stack)
    protection = platform(stack).get("protection", "data")
    protected = {record.type for record in world if record.type in STATEFUL and record.protect}
    assert wanted[protection] <= protected
    if protection == "none":
        assert protected == set()


@pytest.mark.parametrize("stack", STACKS)
def test_everything_has_an_explicit_provider(stack):
    """A default provider would act on whatever account and cluster the shell happens to point at."""
    for record in run(stack):
        if record.custom and not record.type.startswith("pulumi:"):
            assert record.provider, f"{record.type} {record.name} has no explicit provider"


def test_local_makes_nothing_of_aws():
    assert [record.type for record in run("local") if record.type.startswith("aws:")] == []


def test_a_changed_model_changes_its_own_objects_only():
    changed = platform("prod")
    changed["models"][2]["context_tokens"] = 8192

    def inputs(config: dict[str, str]) -> dict[tuple[str, str], object]:
        world = deploy(
            lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"), stack="prod", config=config
        )
        return {(r.type, r.name): r.inputs for r in world if r.type != "pulumi:pulumi:Stack"}

    before, after = inputs(configuration("prod")), inputs(configuration("prod", changed))
    assert before.keys() == after.keys()
    # Generated secrets are drawn anew in every run and ignored by the engine.
    different = {key for key in before if before[key] != after[key] and key[0] != "kubernetes:core/v1:Secret"}
    assert any("llama-8b" in name for _, name in different)
    assert not any("deepseek-r1" in name or "r1-distill-70b" in name for _, name in different), different
    assert not any(type_ in STATEFUL for type_, _ in different)
