"""A field that nobody reads is a promise that nobody keeps: facts of the catalog and keys of the stack file."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.factories import ROOT

CODE = ("bench", "catalog", "components", "infra", "ops", "planner", "policy", "rehearsal", "settings", "simulation")

CHECKED_AGAINST = {
    "Ami.driver_branch": "least_driver_branch of every engine",
    "Chart.crds_from": "the CRDs that a chart is said to bring",
    "Engine.least_driver_branch": "driver_branch of every AMI",
    "Instance.ipv4_per_eni": "max_pods",
    "Instance.nvme_disks": "what EC2 says of the type",
}
"""Facts that no code needs and that tests/catalog holds other facts to."""


def trees(folders: Iterable[str]) -> Iterator[ast.Module]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"), str(path))


def fields(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(class, field) of everything annotated in a class."""
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        yield node.name, line.target.id


def read(folders: Iterable[str]) -> set[str]:
    """Names that are read off some object."""
    return {
        node.attr
        for tree in trees(folders)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_fact_of_the_catalog_is_read() -> None:
    known = read(CODE)
    unread = {f"{owner}.{name}" for owner, name in fields([ROOT / "catalog" / "types.py"]) if name not in known}
    assert sorted(unread - set(CHECKED_AGAINST)) == []
    assert {name.partition(".")[2] for name in CHECKED_AGAINST} <= read(["tests/catalog"])


def test_every_key_of_the_stack_file_is_read() -> None:
    known = read(CODE)
    files = sorted((ROOT / "settings").glob("*.py"))
    assert [f"{owner}.{name}" for owner, name in fields(files) if name not in known] == []
