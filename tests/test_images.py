"""The images' recipe: pinned to what the catalog pins, linted, nothing run before its checksum was looked at.

It is read here, not built; the scripts are run with stand-ins for apt, curl and pip.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.load import load
from policy.rules.pods import floats

IMAGES = Path(__file__).resolve().parent.parent / "images"
SCRIPT = IMAGES / "install_efa.sh"
KV_SCRIPT = IMAGES / "install_kv.sh"
BAKE = json.loads((IMAGES / "docker-bake.json").read_text(encoding="utf-8"))
SHARED = "efa"
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


def build_arguments(name: str) -> dict[str, str]:
    """Build arguments of a target, with those that all share."""
    target = BAKE["target"][name]
    assert target["inherits"] == [SHARED]
    return {**BAKE["target"][SHARED]["args"], **target["args"]}


def recipe(name: str) -> str:
    """The Dockerfile as one image is built from it."""
    text = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
    for argument, value in build_arguments(name).items():
        text = re.sub(rf"^ARG {argument}(=.*)?$", f"ARG {argument}={value}", text, count=1, flags=re.MULTILINE)
    return text


def test_every_image_that_the_catalog_builds_has_a_target_and_no_other_has():
    assert sorted(BAKE["group"]["default"]["targets"]) == sorted(OURS)
    assert sorted(BAKE["target"]) == sorted([*OURS, SHARED])


@pytest.mark.parametrize("name", OURS)
def test_the_recipe_is_clean_for_every_image(name):
    assert findings(recipe(name)) == []


@pytest.mark.parametrize("name", OURS)
def test_every_argument_of_the_recipe_is_given_and_no_other(name):
    found = instructions((IMAGES / "Dockerfile").read_text(encoding="utf-8"))
    declared = {item.text.split("=")[0] for item in found if item.word == "ARG"}
    optional = {item.text.split("=")[0] for item in found if item.word == "ARG" and "=" in item.text}
    given = set(build_arguments(name))
    assert given <= declared
    assert declared - given <= optional


@pytest.mark.parametrize("name", OURS)
def test_base_and_tag_are_the_catalogs(name):
    images = load().versions.images
    image = images[name]
    base = images[image.built_from or ""]
    assert build_arguments(name)["BASE_IMAGE"] == base.reference
    release = base.tag.split("-")[0]
    assert re.fullmatch(rf"{re.escape(release)}-efa\.\d+", image.tag), "the tag does not say what it is built from"
    assert BAKE["target"][name]["tags"] == [f"${{REGISTRY}}/{name}:{image.tag}"]
    assert image.repository.endswith(f"/{name}")
    assert f"| `{name}` | `{base.reference}` |" in (IMAGES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OURS)
def test_all_images_carry_the_same_efa(name):
    assert not {argument for argument in BAKE["target"][name]["args"] if argument.startswith("EFA_")}
    shared = BAKE["target"][SHARED]["args"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", shared["EFA_INSTALLER_VERSION"])
    assert re.fullmatch(r"[0-9a-f]{64}", shared["EFA_INSTALLER_SHA256"])


@pytest.mark.parametrize("name", OURS)
def test_connectors_are_pinned_and_in_images_of_vllm_alone(name):
    """SGLang's image has NIXL already; LMCache's engine is vLLM."""
    versions = {
        key: value for key, value in build_arguments(name).items() if key in {"NIXL_VERSION", "LMCACHE_VERSION"}
    }
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    assert set(versions) == ({"NIXL_VERSION", "LMCACHE_VERSION"} if name == "vllm-efa-kv" else set())


@pytest.mark.parametrize("name", OURS)
def test_images_end_as_the_user_that_pods_run_them_as(name):
    """KubeRay's pods run as Ray's own user; those of the others need root's capabilities, or name a user."""
    assert build_arguments(name)["RUN_AS"] == ("1000" if name.startswith("ray-") else "0")


def test_the_scripts_get_versions_and_checksum_and_nccl_is_told_of_the_plugin():
    found = instructions((IMAGES / "Dockerfile").read_text(encoding="utf-8"))
    assert Instruction("COPY", "install_efa.sh install_kv.sh /usr/local/libexec/") in found
    assert [item.text for item in found if item.word == "RUN"] == [
        '/usr/local/libexec/install_efa.sh "${EFA_INSTALLER_VERSION}" "${EFA_INSTALLER_SHA256}"',
        '/usr/local/libexec/install_kv.sh "${NIXL_VERSION}" "${LMCACHE_VERSION}"',
    ]
    assert any(item.word == "ENV" and "NCCL_NET_PLUGIN=ofi" in item.text for item in found)


def tool(name: str) -> str:
    """A linter of the development requirements."""
    return str(Path(sys.executable).with_name(name))


def lint(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stdout


def test_hadolint_finds_nothing():
    assert lint(tool("hadolint"), "--no-color", str(IMAGES / "Dockerfile")) == ""
    # It would find something.
    assert "DL3006" in lint(tool("hadolint"), "--no-color", "-", text="FROM debian\n")


def test_shellcheck_finds_nothing():
    assert lint(tool("shellcheck"), *(str(path) for path in sorted(IMAGES.glob("*.sh")))) == ""
    assert "SC2086" in lint(tool("shellcheck"), "-", text="#!/bin/sh\nls $1\n")


@pytest.mark.parametrize("script", [SCRIPT, KV_SCRIPT], ids=lambda path: path.name)
def test_the_scripts_are_clean(script):
    assert script_findings(script.read_text(encoding="utf-8")) == []
    assert script.stat().st_mode & stat.S_IXUSR


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


@pytest.fixture
def python(tmp_path):
    """A `python3` on the PATH whose pip notes what it is asked, and whose packages lie in a folder."""
    packages = tmp_path / "packages"
    for path in ("nixl_cu13/__init__.py", ".nixl_cu13.libs/libplugin_LIBFABRIC.so", "lmcache/__init__.py"):
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).touch()
    (packages / "lmcache" / "cuda_ops.so").write_text("libcudart.so.13", encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    stand_in = tools / "python3"
    stand_in.write_text(
        f"""#!/bin/sh
case "$*" in
  "-m pip list"*) echo torch==2.14.1 ;;
  "-m pip install"*) echo "$*" >>{tmp_path}/asked; case "$*" in *--constraint*) cat "$5" >>{tmp_path}/held ;; esac ;;
  *) PYTHONPATH={packages} exec {sys.executable} "$@" ;;
esac
""",
        encoding="utf-8",
    )
    stand_in.chmod(0o755)
    return tmp_path


def connect(python: Path, nixl: str, lmcache: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{python / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(python)}
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(KV_SCRIPT), nixl, lmcache], env=environment, capture_output=True, text=True, check=False
    )


def test_without_versions_nothing_is_installed(python):
    assert connect(python, "", "").returncode == 0
    assert not (python / "asked").exists()


def test_connectors_are_installed_without_changing_a_package_of_the_engine(python):
    result = connect(python, "1.5.1", "0.5.6")
    assert result.returncode == 0, result.stderr
    asked = (python / "asked").read_text(encoding="utf-8").splitlines()
    assert asked[0] == "-m pip install --no-deps nixl==1.5.1"
    assert [line.split()[-1] for line in asked[1:]] == ["nixl-cu13==1.5.1", "lmcache==0.5.6"]
    assert all("--constraint" in line for line in asked[1:])
    assert (python / "held").read_text(encoding="utf-8").splitlines() == ["torch==2.14.1"] * 2


def test_a_build_fails_without_the_plugin_for_efa(python):
    (python / "packages" / ".nixl_cu13.libs" / "libplugin_LIBFABRIC.so").unlink()
    assert connect(python, "1.5.1", "").returncode != 0


def test_a_build_fails_with_kernels_of_another_cuda(python):
    (python / "packages" / "lmcache" / "cuda_ops.so").write_text("libcudart.so.12", encoding="utf-8")
    assert connect(python, "", "0.5.6").returncode != 0
