"""CI and the commit hooks: pinned, without rights, and calling what exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.stacks import STACKS

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def faults(text: str) -> list[str]:
    """What is unsafe or does not exist in a workflow."""
    workflow = yaml.safe_load(text)
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true
    wrong = []
    if workflow.get("permissions") != {"contents": "read"}:
        wrong.append("permissions are not read-only")
    if "pull_request_target" in triggers:
        wrong.append("runs a stranger's change with our rights")
    wrong += [
        f"`{line.strip()}` is not pinned by commit and version"
        for line in text.splitlines()
        if "uses:" in line and not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
    ]
    for name, job in workflow["jobs"].items():
        more = {key for key, right in job.get("permissions", {}).items() if right != "read"}
        # Without a token of its own a job of a tag may still prove to AWS who it is.
        if more - {"id-token"} or (more and "refs/tags/" not in str(job.get("if", ""))):
            wrong.append(f"job {name} may write: {', '.join(sorted(more))}")
        wrong += [f"`{image}` floats" for image in set(workflow.get("env", {}).values()) if "@sha256:" not in image]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@") and step["with"]["persist-credentials"] is not False:
            wrong.append("checkout leaves its token behind")
        wrong += [
            f"no make target `{name}`"
            for name in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))
            if name not in TARGETS
        ]
        if re.search(r"\$\{\{\s*github\.event\.", step.get("run", "")):
            wrong.append("text of a stranger in a shell line")
    if any("timeout-minutes" not in job for job in workflow["jobs"].values()):
        wrong.append("a job without time limit")
    return wrong


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_sound(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("contents: read", "contents: write"),
        ("pull_request:", "pull_request_target:"),
        ("actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "actions/checkout@v6"),
        (" # v6.2.0", ""),
        ("persist-credentials: false", "persist-credentials: true"),
        ("make lint", "make lnit"),
        ("make lint", 'echo "${{ github.event.pull_request.title }}"'),
        ("    timeout-minutes: 30\n", ""),
    ],
)
def test_faults_in_a_workflow_are_found(old, new):
    text = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert old in text
    assert faults(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("id-token: write", "packages: write"),
        ("if: ${{ startsWith(github.ref, 'refs/tags/images-') }}", "if: always()"),
        ("@sha256:ae4f3b", ":ae4f3b"),
    ],
)
def test_faults_in_what_pushes_images_are_found(old, new):
    text = (ROOT / ".github" / "workflows" / "images.yml").read_text(encoding="utf-8")
    assert old in text
    assert len(faults(text.replace(old, new))) >= 1


def test_every_image_is_built_and_pushed():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text(encoding="utf-8"))["jobs"]
    bake = json.loads((ROOT / "images" / "docker-bake.json").read_text(encoding="utf-8"))
    for job in ("build", "push"):
        assert jobs[job]["strategy"]["matrix"]["image"] == bake["group"]["default"]["targets"]


def test_every_stack_is_rehearsed():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))
    assert tuple(workflow["jobs"]["rehearse"]["strategy"]["matrix"]["stack"]) == STACKS


def test_workflow_and_local_run_check_the_same():
    """What `.ci/run` checks with one command each, the workflow checks too."""
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    for command in ("make lint", "make types", "make schema-check", "make test", "make rehearse"):
        assert command in local
        assert command in workflow


def test_commit_hooks_use_the_tools_of_the_project():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "pyright", "schema"]
    pins = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for hook in hooks:
        assert hook["language"] == "system"
        tool = hook["entry"].split()[0].rsplit("/", 1)[-1]
        assert hook["entry"].startswith(".venv/bin/")
        assert tool == "python" or re.search(rf"^{tool}\b.*==", pins, re.MULTILINE)
