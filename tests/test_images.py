"""The Dockerfiles: pinned to what the catalog pins, nothing run before its checksum was looked at.

They are read here, not built; the script's refusals are run, with stand-ins for apt and curl.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.load import load
from policy.rules.pods import floats

IMAGES = Path(__file__).resolve().parent.parent / "images"
SCRIPT = IMAGES / "install_efa.sh"
OURS = sorted(name for name, image in load().versions.images.items() if image.built_from)


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    word: str
    text: str


def instructions(text: str) -> list[Instruction]:
    """Instructions in order, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*(part.strip() for part in line.split(None, 1))) for line in joined.splitlines()]


def arguments(found: list[Instruction]) -> dict[str, str]:
    """Defaults of the build arguments."""
    return dict(item.text.split("=", 1) for item in found if item.word == "ARG" and "=" in item.text)


def findings(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    found = instructions(text)
    args = arguments(found)
    wrong = []
    for item in found:
        if item.word == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda match: args.get(match[1], ""), item.text.split()[0])
            if floats(image):
                wrong.append(f"FROM {image or 'nothing'}: {floats(image)}")
        if item.word == "ADD":
            wrong.append("ADD unpacks and downloads without being asked: use COPY, or a script that checks")
        if item.word == "RUN" and re.search(r"\b(curl|wget)\b", item.text):
            wrong.append("a download in a RUN line: keep it in a script that checks what came")
        if item.word in {"ARG", "ENV"} and re.search(r"TOKEN|PASSWORD|SECRET|_KEY\b", item.text):
            wrong.append(f"{item.word} {item.text}: an image keeps it for everyone to read")
    if not found or found[-1].word != "USER":
        wrong.append("does not say at its end who it runs as")
    return wrong


def script_findings(text: str) -> list[str]:
    """What is wrong with a shell script that downloads."""
    wrong = []
    code = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    if "set -euo pipefail" not in code:
        wrong.append("goes on after an error")
    if re.search(r"\b(curl|wget)\b[^\n]*\|\s*(ba|z|da)?sh\b|\b(curl|wget)\b[^\n]*\|\s*tar\b", code):
        wrong.append("runs or unpacks what it downloads before anybody looked at it")
    downloads = [match.start() for match in re.finditer(r"^\s*(curl|wget)\b", code, re.MULTILINE)]
    checks = [match.start() for match in re.finditer(r"\bsha256sum --check --strict\b", code)]
    unpacks = [match.start() for match in re.finditer(r"^\s*tar\b", code, re.MULTILINE)]
    for start in downloads:
        check = next((at for at in checks if at > start), None)
        if check is None or any(start < at < check for at in unpacks):
            wrong.append("downloads without a checksum")
    if "http://" in code:
        wrong.append("downloads over plain http")
    if re.search(r"apt-get install(?![^\n]*--no-install-recommends)", code):
        wrong.append("installs what is only recommended")
    return wrong


def dockerfile(name: str) -> str:
    return (IMAGES / name / "Dockerfile").read_text(encoding="utf-8")


def test_every_image_that_the_catalog_builds_has_a_dockerfile_and_no_other_has():
    assert sorted(path.parent.name for path in IMAGES.glob("*/Dockerfile")) == OURS


@pytest.mark.parametrize("name", OURS)
def test_dockerfiles_are_clean(name):
    assert findings(dockerfile(name)) == []


@pytest.mark.parametrize("name", OURS)
def test_base_and_tag_are_the_catalogs(name):
    images = load().versions.images
    image = images[name]
    base = images[image.built_from or ""]
    args = arguments(instructions(dockerfile(name)))
    assert args["BASE_IMAGE"] == base.reference
    release = base.tag.split("-")[0]
    assert re.fullmatch(rf"{re.escape(release)}-efa\.\d+", image.tag), "the tag does not say what it is built from"
    assert f"/{name}:{image.tag} " in dockerfile(name)
    assert image.repository.endswith(f"/{name}")
    assert f"| `{name}` | `{base.reference}` |" in (IMAGES / "README.md").read_text(encoding="utf-8")


def test_all_images_carry_the_same_efa():
    args = [arguments(instructions(dockerfile(name))) for name in OURS]
    assert len({(item["EFA_INSTALLER_VERSION"], item["EFA_INSTALLER_SHA256"]) for item in args}) == 1
    assert re.fullmatch(r"\d+\.\d+\.\d+", args[0]["EFA_INSTALLER_VERSION"])
    assert re.fullmatch(r"[0-9a-f]{64}", args[0]["EFA_INSTALLER_SHA256"])


@pytest.mark.parametrize("name", OURS)
def test_the_script_gets_version_and_checksum_and_nccl_is_told_of_the_plugin(name):
    found = instructions(dockerfile(name))
    assert Instruction("COPY", "install_efa.sh /usr/local/libexec/install_efa.sh") in found
    run = '/usr/local/libexec/install_efa.sh "${EFA_INSTALLER_VERSION}" "${EFA_INSTALLER_SHA256}"'
    assert [item.text for item in found if item.word == "RUN"] == [run]
    assert any(item.word == "ENV" and "NCCL_NET_PLUGIN=ofi" in item.text for item in found)


def test_the_script_is_clean():
    assert script_findings(SCRIPT.read_text(encoding="utf-8")) == []
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


CLEAN = "FROM a/b:1.0\nUSER me\n"


@pytest.mark.parametrize(
    "text",
    [
        CLEAN.replace(":1.0", ""),
        CLEAN.replace(":1.0", ":latest"),
        "ARG BASE=a/b:main\nFROM ${BASE}\nUSER me\n",
        "FROM ${BASE}\nUSER me\n",
        CLEAN.replace("USER me\n", ""),
        CLEAN.replace("USER", "ADD https://example.com/a.tgz /\nUSER"),
        CLEAN.replace("USER", "RUN apt-get update && \\\n  curl https://example.com/a | sh\nUSER"),
        CLEAN.replace("USER", "ENV HF_TOKEN=abc\nUSER"),
    ],
)
def test_faults_in_a_dockerfile_are_found(text):
    assert findings(CLEAN) == []
    assert len(findings(text)) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("set -euo pipefail", "set -e"),
        ("| sha256sum --check --strict", ">/dev/null"),
        ("--no-install-recommends ", ""),
        ("https://efa", "http://efa"),
        ('--output "$archive" "https://efa-installer.amazonaws.com/${archive}"', "https://example.com | bash"),
    ],
)
def test_faults_in_the_script_are_found(old, new):
    text = SCRIPT.read_text(encoding="utf-8")
    assert old in text
    assert script_findings(text.replace(old, new))


@pytest.fixture
def machine(tmp_path):
    """A PATH on which apt does nothing and curl brings an archive whose installer notes its arguments and fails."""
    inside = tmp_path / "aws-efa-installer"
    inside.mkdir()
    installer = inside / "efa_installer.sh"
    installer.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/called\nexit 7\n', encoding="utf-8")
    installer.chmod(0o755)
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, arcname="aws-efa-installer")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool, body in {
        "apt-get": "exit 0",
        "curl": 'while [ "$1" != --output ]; do shift; done; cp "$ARCHIVE" "$2"; echo "$3" >"$CALLED_URL"',
    }.items():
        path = tools / tool
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return tmp_path


def install(machine: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{machine / 'bin'}:{os.environ['PATH']}",
        "ARCHIVE": str(machine / "archive.tar.gz"),
        "CALLED_URL": str(machine / "url"),
        "TMPDIR": str(machine),
    }
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(SCRIPT), "1.2.3", sha256], env=environment, capture_output=True, text=True, check=False
    )


def test_a_wrong_checksum_stops_before_anything_is_unpacked(machine):
    result = install(machine, "0" * 64)
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert not (machine / "called").exists()


def test_the_installer_leaves_kernel_and_limits_alone_and_its_failure_is_ours(machine):
    digest = hashlib.sha256((machine / "archive.tar.gz").read_bytes()).hexdigest()
    result = install(machine, digest)
    assert result.returncode == 7
    assert (machine / "called").read_text(encoding="utf-8").split() == [
        "--yes",
        "--skip-kmod",
        "--skip-limit-conf",
        "--no-verify",
    ]
    url = (machine / "url").read_text(encoding="utf-8").strip()
    assert url == "https://efa-installer.amazonaws.com/aws-efa-installer-1.2.3.tar.gz"
    assert [path.name for path in machine.glob("tmp.*")] == [], "the work directory is left behind"
