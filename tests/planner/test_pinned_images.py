"""What runs changes by a change in the stack file alone: tags that move are refused, tags at all are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner import StackFileError, load_and_plan
from policy.rules import pods
from settings.serving import FLOATING_TAGS
from tests.stacks import changed

DIGEST = "sha256:" + "a" * 64
IMAGE = {"repository": "registry.example.com/vllm", "tag": "v0.33.0", "carries_efa": True}


def told(directory: Path, stack: str, **changes: Any) -> list[str]:
    plan = load_and_plan(changed(directory, stack, {f"models.{key}": value for key, value in changes.items()}))[1]
    return [finding.message for finding in plan.findings if finding.subject == "images"]


def test_stack_file_and_rules_know_the_same_tags() -> None:
    assert FLOATING_TAGS == pods.FLOATING_TAGS


@pytest.mark.parametrize("tag", ["latest", "nightly", "Edge"])
def test_a_tag_that_moves_needs_a_digest(tag: str, tmp_path: Path) -> None:
    with pytest.raises(StackFileError, match="moves"):
        told(tmp_path, "dev", **{"0.image": {**IMAGE, "tag": tag}})
    assert told(tmp_path, "dev", **{"0.image": {**IMAGE, "tag": tag, "digest": DIGEST}}) == []


def test_where_everything_is_protected_a_tag_alone_is_told(tmp_path: Path) -> None:
    (message,) = told(tmp_path, "prod", **{"0.image": IMAGE})
    assert "registry.example.com/vllm:v0.33.0" in message
    pinned = told(tmp_path, "prod", **{"0.image": {**IMAGE, "digest": DIGEST}})
    assert not any("registry.example.com/vllm" in text for text in pinned)


def test_where_nothing_is_kept_it_is_not(tmp_path: Path) -> None:
    assert told(tmp_path, "dev") == []
