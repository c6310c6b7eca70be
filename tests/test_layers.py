"""Who may import whom: decisions know nothing of Pulumi, declarations decide nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {
    "settings",
    "catalog",
    "planner",
    "infra",
    "components",
    "policy",
    "rehearsal",
    "ops",
    "program",
    "simulation",
    "bench",
    "tests",
}

ALLOWED = {
    "settings": {"settings"},
    "catalog": {"catalog"},
    "planner": {"planner", "settings", "catalog"},
    "infra": {"infra", "planner", "settings", "catalog"},
    "components": {"components", "infra", "planner", "settings", "catalog"},
    "policy": {"policy", "planner", "settings", "catalog"},
    "rehearsal": {"rehearsal", "planner", "settings", "catalog"},
    "simulation": {"simulation", "planner", "settings", "catalog"},
    "ops": {"ops", "rehearsal", "simulation", "planner", "settings", "catalog", "components"},
}
# What a layer must not know of the world. `components.scripts` runs inside pods and in `ops` alike: plain Python.
FORBIDDEN = {
    "settings": {"pulumi_aws", "pulumi_kubernetes", "boto3", "kubernetes"},
    "catalog": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "boto3", "kubernetes"},
    "planner": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "boto3", "kubernetes"},
    "simulation": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "boto3", "kubernetes"},
    "components": {"boto3", "kubernetes"},
    "infra": {"boto3", "kubernetes"},
}
# The one door to `pulumi.Config`.
MAY_IMPORT_PULUMI_IN_SETTINGS = {"settings/from_pulumi.py"}


def sources(layer: str) -> Iterator[Path]:
    yield from sorted((ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_what_is_below_it(layer):
    wrong = []
    for path in sources(layer):
        relative = str(path.relative_to(ROOT))
        for name in imports(path):
            top = name.split(".")[0]
            if top in OURS and top not in ALLOWED[layer]:
                wrong.append(f"{relative} imports {name}")
            if top == "components" and layer == "ops" and not name.startswith("components.scripts"):
                wrong.append(f"{relative} imports {name}")
            if top in FORBIDDEN.get(layer, set()):
                wrong.append(f"{relative} imports {name}")
            if layer == "settings" and top == "pulumi" and relative not in MAY_IMPORT_PULUMI_IN_SETTINGS:
                wrong.append(f"{relative} imports {name}")
    assert wrong == []


def test_only_one_place_makes_providers():
    makers = []
    for layer in ("infra", "components", "program.py"):
        paths = [ROOT / layer] if layer.endswith(".py") else sources(layer)
        for path in paths:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "Provider":
                    makers.append(str(path.relative_to(ROOT)))
    assert set(makers) == {"infra/providers.py"}


def test_no_resource_is_made_inside_apply():
    """Such a resource is missing from a preview whose input is unknown."""
    wrong = []
    for layer in ("infra", "components"):
        for path in sources(layer):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (
                    isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "apply"
                ):
                    continue
                for inner in ast.walk(node):
                    if inner is node or not isinstance(inner, ast.Call):
                        continue
                    options = [ast.unparse(keyword.value) for keyword in inner.keywords if keyword.arg == "opts"]
                    if any("ResourceOptions" in text for text in options):
                        wrong.append(f"{path.relative_to(ROOT)}:{inner.lineno}")
    assert wrong == []


def test_no_environment_decides_anything():
    wrong = []
    for layer in ("planner", "infra", "components"):
        for path in sources(layer):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare) and "environment" in ast.unparse(node.left):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_files_stay_readable():
    """Large files hide where the next capability belongs."""
    long = {
        str(path.relative_to(ROOT)): lines
        for layer in ALLOWED
        for path in sources(layer)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert set(long) == set(), long


def test_the_rehearsal_serves_the_product():
    """Its share of the code that is not tests only ever goes down: docs/adr/0003."""

    def count(layer: str) -> int:
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources(layer))

    product = sum(count(layer) for layer in ALLOWED)
    share = count("rehearsal") / product
    print(f"rehearsal: {share:.0%} of {product} lines")  # noqa: T201
    assert share <= 0.40
