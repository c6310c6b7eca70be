"""Promotion: every refusal, and the order in which things are done."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops.comparison import differences
from ops.errors import FindingsError, MissingError, OpsError, UsageError
from ops.project import Checkout, checkout
from ops.promote import REPLACED, STATEFUL, PromoteOptions, Tools, promote
from ops.stack_engine import Deployed, PlannedChange, deployed_of, planned_change
from planner import load_and_plan
from tests.factories import ROOT

HEAD = "1" * 40
OTHER = "2" * 40
GO = PromoteOptions(yes=True, dry_run=False, verify=True)


def urn(kind: str, name: str) -> str:
    return f"urn:pulumi:staging::inference-platform::{kind}::{name}"


def change(operation: Any, kind: str, name: str = "x") -> PlannedChange:
    return PlannedChange(operation=operation, type=kind, urn=urn(kind, name))


class PlayedEngine:
    """Pulumi as a test wants it, with a note of every call."""

    def __init__(self) -> None:
        self.deployment: Deployed | None = Deployed(commits=(HEAD,), dirty=False)
        self.changes: list[PlannedChange] = [change("update", "kubernetes:apps/v1:Deployment")]
        self.calls: list[str] = []

    def deployed(self, stack: str) -> Deployed | None:
        self.calls.append(f"deployed {stack}")
        return self.deployment

    def preview(self, stack: str) -> Sequence[PlannedChange]:
        self.calls.append(f"preview {stack}")
        return self.changes

    def up(self, stack: str, tell: Callable[[str], None]) -> None:
        self.calls.append(f"up {stack}")
        tell("Updating")


@pytest.fixture
def engine() -> PlayedEngine:
    return PlayedEngine()


@pytest.fixture
def tools(engine: PlayedEngine) -> Tools:
    def note(what: str, answer: Any) -> Callable[[Any], Any]:
        def call(stack: str) -> Any:
            engine.calls.append(f"{what} {stack}")
            return answer

        return call

    return Tools(
        engine=engine,
        checkout=lambda: Checkout(commit=HEAD, changes=()),
        load=lambda stack: load_and_plan(ROOT / f"Pulumi.{stack}.yaml"),
        block=lambda _: (),
        rehearse=note("rehearse", ()),
        confirm=lambda _: True,
        verify=note("verify", 0),
        tell=lambda _: None,
    )


def refused(tools: Tools, kind: type[OpsError] = FindingsError, options: PromoteOptions = GO) -> str:
    with pytest.raises(kind) as error:
        promote("dev", "staging", options, tools)
    return str(error.value)


def test_a_promotion_in_its_order(engine: PlayedEngine, tools: Tools) -> None:
    result = promote("dev", "staging", GO, tools)
    assert engine.calls == ["deployed dev", "rehearse staging", "preview staging", "up staging", "verify staging"]
    assert (result.commit, result.applied, result.verified) == (HEAD, True, True)
    assert result.changes == {"update": 1}
    assert any(one.path == "environment" for one in result.differences)


def test_a_dry_run_changes_nothing(engine: PlayedEngine, tools: Tools) -> None:
    result = promote("dev", "staging", replace(GO, dry_run=True), tools)
    assert not result.applied
    assert not [call for call in engine.calls if call.startswith(("up", "verify"))]


def test_to_itself(tools: Tools) -> None:
    with pytest.raises(UsageError, match="itself"):
        promote("dev", "dev", GO, tools)


def test_files_that_no_commit_has(engine: PlayedEngine, tools: Tools) -> None:
    dirty = replace(tools, checkout=lambda: Checkout(commit=HEAD, changes=("a.py", "b.py", "c.py", "d.py")))
    text = refused(dirty)
    assert "a.py, b.py, c.py and 1 more" in text
    assert engine.calls == []


@pytest.mark.parametrize(
    ("deployed", "said"),
    [
        (None, "nothing tells which commit dev runs"),
        (Deployed(commits=(OTHER,), dirty=False), "dev runs 222222222222, this checkout is 111111111111"),
        (Deployed(commits=(HEAD,), dirty=True), "files that no commit has"),
        (Deployed(commits=(HEAD, OTHER), dirty=False), "parts of several commits"),
    ],
)
def test_the_source_must_run_this_very_commit(
    engine: PlayedEngine, tools: Tools, deployed: Deployed | None, said: str
) -> None:
    engine.deployment = deployed
    assert said in refused(tools)
    assert engine.calls == ["deployed dev"]


def test_what_no_update_survives_is_said_before_the_rehearsal(engine: PlayedEngine, tools: Tools) -> None:
    text = refused(replace(tools, block=lambda _: ["placeholders: 203.0.113.0/24"]))
    assert "203.0.113.0/24" in text
    assert engine.calls == ["deployed dev"]


def test_a_rehearsal_that_found_something(engine: PlayedEngine, tools: Tools) -> None:
    text = refused(replace(tools, rehearse=lambda _: ["[secret] Pod x: no Secret y"]))
    assert "no Secret y" in text
    assert "preview staging" not in engine.calls


@pytest.mark.parametrize("operation", ["replace", "delete"])
@pytest.mark.parametrize("kind", sorted(STATEFUL))
def test_what_cannot_be_made_again_is_neither_replaced_nor_deleted(
    engine: PlayedEngine, tools: Tools, kind: str, operation: str
) -> None:
    engine.changes.append(change(operation, kind, "precious"))
    text = refused(tools)
    assert f"{operation} {kind} precious: {STATEFUL[kind]}" in text
    assert "up staging" not in engine.calls


@pytest.mark.parametrize("kind", sorted(REPLACED))
def test_keys_and_namespaces_may_go_but_not_be_made_anew(engine: PlayedEngine, tools: Tools, kind: str) -> None:
    engine.changes = [change("delete", kind)]
    assert promote("dev", "staging", GO, tools).applied
    engine.changes = [change("replace", kind)]
    assert REPLACED[kind] in refused(tools)


def test_other_replacements_and_updates_of_stateful_things_are_fine(engine: PlayedEngine, tools: Tools) -> None:
    engine.changes = [
        change("replace", "kubernetes:batch/v1:Job"),
        change("delete", "kubernetes:apps/v1:Deployment"),
        change("update", "aws:eks/cluster:Cluster"),
        change("create", "aws:s3/bucket:Bucket"),
    ]
    assert promote("dev", "staging", GO, tools).changes == {"create": 1, "update": 1, "replace": 1, "delete": 1}


def test_a_person_who_says_no(engine: PlayedEngine, tools: Tools) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    text = refused(replace(tools, confirm=no), UsageError, replace(GO, yes=False))
    assert "nothing was changed" in text
    assert asked == ["1 to update in stack staging. Go on?"]
    assert "up staging" not in engine.calls


def test_a_target_that_does_not_serve_afterwards(tools: Tools) -> None:
    text = refused(replace(tools, verify=lambda _: 1))
    assert "does not serve as it should" in text


# --- What Pulumi tells ----------------------------------------------------------------------------------------------


def test_the_history_tells_the_commit() -> None:
    update = ("update", "succeeded", {"git.head": HEAD, "git.dirty": "false"})
    partial = ("update", "succeeded", {"git.head": OTHER, "pulumi.flag.target": "set"})
    failed = ("update", "failed", {"git.head": OTHER})
    refresh = ("refresh", "succeeded", {"git.head": OTHER})
    older = ("update", "succeeded", {"git.head": "3" * 40})
    assert deployed_of([update, older]) == Deployed(commits=(HEAD,), dirty=False)
    assert deployed_of([refresh, update]) == Deployed(commits=(HEAD,), dirty=False)
    assert deployed_of([partial, update]) == Deployed(commits=(OTHER, HEAD), dirty=False)
    assert deployed_of([failed, update]) == Deployed(commits=(OTHER, HEAD), dirty=False)
    dirty = ("update", "succeeded", {"git.head": HEAD, "git.dirty": "true"})
    assert deployed_of([dirty]) == Deployed(commits=(HEAD,), dirty=True)
    assert deployed_of([("destroy", "succeeded", {}), update]) is None
    assert deployed_of([partial]) is None
    assert deployed_of([("update", "succeeded", {})]) is None
    assert deployed_of([]) is None


@pytest.mark.parametrize(
    ("step", "operation"),
    [("create-replacement", "replace"), ("delete-replaced", "replace"), ("delete", "delete"), ("same", None)],
)
def test_steps_of_the_engine(step: str, operation: str | None) -> None:
    found = planned_change(SimpleNamespace(op=SimpleNamespace(value=step), type="t", urn="u"))
    assert (found.operation if found else None) == operation


# --- This checkout and its stacks -----------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_checkout_tells_its_commit_and_its_changes(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no commit"):
        checkout(tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert checkout(tmp_path) == Checkout(commit=git(tmp_path, "rev-parse", "HEAD").strip(), changes=())
    (tmp_path / "a").write_text("2")
    (tmp_path / "b").write_text("new")
    assert set(checkout(tmp_path).changes) == {"a", "b"}


def test_stacks_are_compared_by_name_not_by_position() -> None:
    prod = load_and_plan(ROOT / "Pulumi.prod.yaml")[0]
    turned = prod.model_copy(update={"models": list(reversed(prod.models)), "pools": list(reversed(prod.pools))})
    assert differences(prod, turned) == ()
    first = prod.models[0].model_copy(update={"context_tokens": 4096})
    changed = prod.model_copy(update={"models": [first, *prod.models[1:]]})
    (one,) = differences(prod, changed)
    assert (one.path, one.source, one.target) == (
        f"models[{first.name}].context_tokens",
        str(prod.models[0].context_tokens),
        "4096",
    )
    without = prod.model_copy(update={"models": prod.models[1:]})
    assert {one.target for one in differences(prod, without)} == {None}
