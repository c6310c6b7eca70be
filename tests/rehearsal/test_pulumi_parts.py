"""What the real engine is made of, without the CLI: command, plugins, workspace and records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from pulumi.runtime.rpc import UNKNOWN as WIRE_UNKNOWN

from rehearsal.aws_plugin.permit import TOKEN_VARIABLE, Permit
from rehearsal.engines.contract import SECRET, UNKNOWN, EngineError, EngineInputs, EngineUnavailable
from rehearsal.engines.pulumi_command import PulumiFailed, RehearsalPulumi, find_pulumi
from rehearsal.engines.pulumi_plugins import real_plugins
from rehearsal.engines.pulumi_records import ChangeLog, plain, problem_text, records, releasable
from rehearsal.engines.pulumi_workspace import RehearsalWorkspace

SAMPLE = Path(__file__).parent / "sample_program"


def inputs(tmp_path: Path, stack_file: Path = SAMPLE / "Pulumi.aws.yaml", **changes: object) -> EngineInputs:
    given: dict[str, object] = {
        "project_dir": SAMPLE,
        "stack": "aws",
        "stack_file": stack_file,
        "kubeconfig": tmp_path / "kubeconfig",
        "endpoint": "https://127.0.0.1:6443",
        "ca_data": "Y2E=",
        "token": "control-plane-token",
        "workdir": tmp_path / "work",
        "region": "eu-west-1",
        "progress": lambda _line: None,
    }
    return EngineInputs(**{**given, **changes})  # type: ignore[arg-type]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_pulumi(folder: Path, body: str = "", version: str = "v3.300.0") -> Path:
    return executable(folder / "pulumi", f'#!/bin/sh\nif [ "$1" = version ]; then echo {version}; exit; fi\n{body}\n')


# --- the executable --------------------------------------------------------------------------------------------------
def test_no_cli_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"Install the Pulumi CLI .*in-process"):
        find_pulumi({"PATH": str(tmp_path)})


def test_named_cli_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="PULUMI_BIN names /nowhere/pulumi"):
        find_pulumi({"PATH": str(tmp_path), "PULUMI_BIN": "/nowhere/pulumi"})


def test_cli_is_found_behind_its_symbolic_link(tmp_path: Path) -> None:
    real = fake_pulumi(tmp_path / "cellar")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pulumi").symlink_to(real)
    assert find_pulumi({"PATH": str(tmp_path / "bin")}) == real


@pytest.mark.parametrize("version", ["v3.120.0", "v4.0.0", "soon"])
def test_cli_this_sdk_cannot_drive_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(EngineUnavailable, match="Install the Pulumi CLI"):
        RehearsalPulumi(fake_pulumi(tmp_path, version=version))


def test_command_sees_only_the_environment_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-user")
    command = RehearsalPulumi(fake_pulumi(tmp_path, "env"))
    lines = command.run(["up"], str(tmp_path), {"PATH": os.environ["PATH"], "GIVEN": "1"}).stdout.splitlines()
    assert "GIVEN=1" in lines
    assert not [line for line in lines if line.startswith("AWS_")]


def test_failed_command_keeps_what_it_said(tmp_path: Path) -> None:
    command = RehearsalPulumi(fake_pulumi(tmp_path, "echo out; echo no such stack >&2; exit 7"))
    with pytest.raises(PulumiFailed) as failed:
        command.run(["up"], str(tmp_path), {"PATH": os.environ["PATH"]})
    assert failed.value.said == "no such stack"
    assert (failed.value.result.code, failed.value.result.stdout) == (7, "out")


def test_interrupted_command_may_finish_and_leaves_no_plugin_behind(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import pathlib, signal, subprocess, sys, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "def save(*_): (here / 'state').write_text('saved'); sys.exit(1)\n"
        "signal.signal(signal.SIGINT, save)\n"
        "plugin = subprocess.Popen(['sleep', '60'], process_group=0)\n"
        "(here / 'plugin').write_text(str(plugin.pid))\n"
        "(here / 'started').touch()\n"
        "while True: time.sleep(0.1)\n"
    )
    command = RehearsalPulumi(fake_pulumi(tmp_path, f"exec {sys.executable} {tmp_path / 'program.py'}"))

    def interrupt() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        command.run(["up"], str(tmp_path), {"PATH": os.environ["PATH"]})
    assert (tmp_path / "state").read_text() == "saved"
    plugin = (tmp_path / "plugin").read_text().strip()
    deadline = time.monotonic() + 10
    while _alive(plugin) and time.monotonic() < deadline:
        time.sleep(0.05)  # a killed process takes a moment to go
    assert not _alive(plugin)


def _alive(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_interrupt_during_the_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = RehearsalPulumi(fake_pulumi(tmp_path, "exec sleep 60"))
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            if not started:
                started.append(self)
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.run(["up"], str(tmp_path), {"PATH": os.environ["PATH"]})
    assert started[0].poll() is not None


# --- plugins ---------------------------------------------------------------------------------------------------------
def put_plugins(home: Path) -> None:
    for name, version in (("kubernetes", "4.34.2"), ("kubernetes-cert-manager", "0.2.0")):
        executable(home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}", "#!/bin/sh\n")


def test_plugins_of_the_user_are_used_where_they_lie(tmp_path: Path) -> None:
    put_plugins(tmp_path / "home")
    refusing = fake_pulumi(tmp_path, "exit 9")
    found = real_plugins(pulumi=refusing, variables={"PULUMI_HOME": str(tmp_path / "home")}, cache=tmp_path / "cache")
    assert [plugin.folder.parent for plugin in found] == [tmp_path / "home" / "plugins"] * 2
    assert not (tmp_path / "cache").exists()


def test_absent_plugins_are_installed_once_into_the_cache(tmp_path: Path) -> None:
    body = (
        f'echo "$@" >> {tmp_path}/calls\n'
        'folder="$PULUMI_HOME/plugins/$4-$5-$6"; mkdir -p "$folder"\n'
        'touch "$folder/pulumi-$4-$5"; chmod +x "$folder/pulumi-$4-$5"'
    )
    pulumi = fake_pulumi(tmp_path, body)
    variables = {"PULUMI_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    for _ in range(2):
        found = real_plugins(pulumi=pulumi, variables=variables, cache=tmp_path / "cache")
        assert {plugin.folder.parent for plugin in found} == {tmp_path / "cache" / "plugins"}
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_plugin_that_cannot_be_installed_is_named_with_the_reason(tmp_path: Path) -> None:
    pulumi = fake_pulumi(tmp_path, "echo 'error: no route to host' >&2; exit 1")
    with pytest.raises(EngineUnavailable, match=r"kubernetes v4\.34\.2 .*no route to host.*pulumi plugin install"):
        real_plugins(
            pulumi=pulumi,
            variables={"PULUMI_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]},
            cache=tmp_path / "cache",
        )


# --- the workspace ---------------------------------------------------------------------------------------------------
def test_workspace_copies_the_project_and_leaves_it_alone(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in SAMPLE.glob("*.yaml")}
    workspace = RehearsalWorkspace(inputs(tmp_path), pulumi=Path("/usr/local/bin/pulumi"), plugins=())
    project = yaml.safe_load((workspace.project / "Pulumi.yaml").read_text())
    assert project["main"] == str(SAMPLE)
    assert "typechecker" not in project["runtime"]["options"]
    assert [plugin["name"] for plugin in project["plugins"]["providers"]] == ["aws"]
    assert yaml.safe_load((workspace.project / "Pulumi.aws.yaml").read_text())["config"]["sample:subnets"] == 2
    assert {path: path.read_bytes() for path in SAMPLE.glob("*.yaml")} == before
    workspace.remove()
    workspace.remove()
    assert list((tmp_path / "work").iterdir()) == []


def test_environment_holds_nothing_of_the_users_accounts(tmp_path: Path) -> None:
    workspace = RehearsalWorkspace(
        inputs(tmp_path, environment={"CHARTS": "/mirror", "PULUMI_BACKEND_URL": "https://api.pulumi.com"}),
        pulumi=Path("/usr/local/bin/pulumi"),
        plugins=(),
    )
    user = {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "AWS_PROFILE": "production",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PULUMI_ACCESS_TOKEN": "x",
        "PULUMI_STACK": "other",
        "KUBECONFIG": "/home/user/.kube/config",
        "HOME": "/home/user",
    }
    given = workspace.environment(user)
    assert not {"AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "PULUMI_ACCESS_TOKEN", "PULUMI_STACK"} & set(given)
    assert given["AWS_EC2_METADATA_DISABLED"] == "true"
    assert given["KUBECONFIG"] == str(tmp_path / "kubeconfig")
    assert given["PULUMI_BACKEND_URL"].startswith("file://")
    assert Path(given["HOME"]).is_relative_to(workspace.root)
    assert (given["CHARTS"], given["LANG"]) == ("/mirror", "C.UTF-8")
    Permit.read(workspace.root / "plugins" / "aws" / "permit.json").check(given)
    assert TOKEN_VARIABLE in given


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_aws_stands_in_for_get_token_alone(tmp_path: Path, version: str) -> None:
    workspace = RehearsalWorkspace(inputs(tmp_path), pulumi=Path("/usr/local/bin/pulumi"), plugins=())
    asked = json.dumps({"apiVersion": f"client.authentication.k8s.io/{version}", "kind": "ExecCredential"})
    environment = {**workspace.environment(os.environ), "KUBERNETES_EXEC_INFO": asked}

    def aws(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["aws", *arguments], env=environment, capture_output=True, text=True, check=False)

    credential = json.loads(aws("--region", "eu-west-1", "eks", "get-token", "--cluster-name", "c").stdout)
    assert credential["apiVersion"] == f"client.authentication.k8s.io/{version}"
    assert credential["status"]["token"] == "control-plane-token"
    refused = aws("sts", "get-caller-identity")
    assert refused.returncode == 2
    assert "sts get-caller-identity" in refused.stderr


def test_stack_file_with_real_secrets_is_refused(tmp_path: Path) -> None:
    stack_file = tmp_path / "Pulumi.aws.yaml"
    stack_file.write_text("config:\n  sample:key:\n    secure: v1:abc\n")
    with pytest.raises(EngineError, match="stand-in values"):
        RehearsalWorkspace(inputs(tmp_path, stack_file), pulumi=Path("/usr/local/bin/pulumi"), plugins=())
    assert list((tmp_path / "work").iterdir()) == []


def test_missing_project_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=str(tmp_path / "Pulumi.yaml")):
        RehearsalWorkspace(inputs(tmp_path, project_dir=tmp_path), pulumi=Path("/usr/local/bin/pulumi"), plugins=())


def test_text_for_the_user_carries_no_token(tmp_path: Path) -> None:
    workspace = RehearsalWorkspace(inputs(tmp_path), pulumi=Path("/usr/local/bin/pulumi"), plugins=())
    text = f"{workspace.token} {workspace.passphrase} control-plane-token"
    assert workspace.hide_secrets(text) == "<secret> <secret> <secret>"


# --- records ---------------------------------------------------------------------------------------------------------
def test_marks_of_pulumi_become_words() -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "plaintext": '"x"'}
    value = {"a": [WIRE_UNKNOWN, {"b": secret}], "c": "[secret]", "d": 1}
    assert plain(value) == {"a": [UNKNOWN, {"b": SECRET}], "c": SECRET, "d": 1}


def test_a_replacement_is_one_change_where_it_first_finished() -> None:
    log = ChangeLog()
    for urn, step, keys in [
        ("urn:pulumi:s::p::t:t:T::vpc", "create-replacement", ["cidrBlock"]),
        ("urn:pulumi:s::p::t:t:T::subnet", "update", ["vpcId"]),
        ("urn:pulumi:s::p::t:t:T::vpc", "replace", ["cidrBlock"]),
        ("urn:pulumi:s::p::t:t:T::vpc", "delete-replaced", []),
        ("urn:pulumi:s::p::t:t:T::gone", "refresh", []),
        ("urn:pulumi:s::p::t:t:T::same", "same", ["x"]),
        ("urn:pulumi:s::p::pulumi:providers:pulumi::default", "create", []),
        ("urn:pulumi:s::p::pulumi:providers:aws::default_7_51_1", "create", []),
    ]:
        log.add(urn, step, keys)
    assert [(change.urn, change.operation, change.diff_keys) for change in log.changes()] == [
        ("urn:pulumi:s::p::t:t:T::vpc", "replace", ("cidrBlock",)),
        ("urn:pulumi:s::p::t:t:T::subnet", "update", ("vpcId",)),
        ("urn:pulumi:s::p::t:t:T::same", "same", ()),
    ]


def test_problem_names_its_resource_without_color() -> None:
    urn = "urn:pulumi:prod::p::inference:index:A$aws:ec2/vpc:Vpc::vpc"
    assert problem_text("<{%fg 1%}>too many<{%reset%}>\n", urn=urn) == "aws:ec2/vpc:Vpc vpc: too many"


def test_exception_of_the_program_is_one_line_with_its_place() -> None:
    text = (
        "error: Program failed with an unhandled exception:\nTraceback (most recent call last):\n"
        '  File "/p/__main__.py", line 48, in <module>\n    f()\n'
        '  File "/v/lib/site-packages/x.py", line 5, in f\n    raise error\nValueError: no such thing\n'
    )
    assert problem_text(text, urn=None) == (
        "error: Program failed with an unhandled exception: ValueError: no such thing (/p/__main__.py:48)"
    )


def test_state_can_be_released_whole() -> None:
    state = {
        "resources": [{"urn": "a", "protect": True, "retainOnDelete": True, "deletedWith": "b"}],
        "pending_operations": [{"type": "creating"}],
        "secrets_providers": {"type": "passphrase"},
    }
    free = releasable(state)
    assert free["resources"] == [{"urn": "a", "protect": False, "retainOnDelete": False, "deletedWith": ""}]
    assert free["pending_operations"] == []
    assert free["secrets_providers"] == {"type": "passphrase"}


def test_leftovers_and_default_providers_are_no_resources() -> None:
    base = {"urn": "urn:pulumi:s::p::t:t:T::n", "type": "t:t:T"}
    default = {"urn": "urn:pulumi:s::p::pulumi:providers:aws::default_7_51_1", "type": "pulumi:providers:aws"}
    found = records([{**base, "dependencies": ["b", "a", "b"]}, {**base, "delete": True}, default])
    assert len(found) == 1
    assert found[0].depends_on == ("a", "b")
