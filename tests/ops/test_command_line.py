"""The command line as people meet it: help, exit codes, and errors without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError

from ops import deploy, pulumi_cli, rehearse
from ops.__main__ import main
from ops.checks import Check
from ops.console import ENVIRONMENT, FINDINGS, INTERRUPTED, OK, USAGE
from ops.errors import FindingsError, MissingError, UsageError
from rehearsal.run import RehearsalError
from tests.factories import ROOT, stack_plan

VERBS = [
    *("plan", "size", "cost", "check", "rehearse", "doctor", "deploy"),
    *("wait", "smoke", "promote", "drain", "leaks", "models", "model-card"),
]


def ops(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", "COLUMNS": "100", **environment}
    command = [sys.executable, "-m", "ops", *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_help_names_every_verb() -> None:
    done = ops("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("plan", "--stack", "prdo"), USAGE, "did you mean `prod`?"),
        (("wait", "--stack", "prdo"), USAGE, "did you mean `prod`?"),
        (("leaks", "--stack", "local"), USAGE, "nothing in AWS"),
        (("models", "stage", "--stack", "prod", "--model", "lama-8b"), USAGE, "did you mean `llama-8b`?"),
        (("models", "stage", "--stack", "prod", "--from", "."), USAGE, "--model"),
        (("models", "stage", "--stack", "prod", "--model", "llama-8b"), ENVIRONMENT, "--bucket"),
        (("wait", "--stack", "prod", "--kubeconfig", "/no/such/file"), ENVIRONMENT, "/no/such/file does not exist"),
        (("smoke", "--url", "http://127.0.0.1:9/v1", "--model", "m"), FINDINGS, "does not answer"),
        (("smoke", "--url", "http://127.0.0.1:9/v1", "--key-env", "NO_SUCH_KEY"), USAGE, "NO_SUCH_KEY"),
        (("deploy", "--stack", "dev"), ENVIRONMENT, "pulumi CLI is not on PATH"),
        (("promote", "--from", "dev", "--to", "staging"), ENVIRONMENT, "pulumi CLI is not on PATH"),
        (("rehearse", "--stack", "dev", "--inject", "gremlins"), USAGE, "gremlins"),
        (("rehearse", "--stack", "dev", "--capacity", "nope=1"), USAGE, "has no rung `nope`"),
        (("nonsense",), USAGE, "No such command"),
    ],
)
def test_mistakes_are_told_with_their_exit_code(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(pulumi_cli.BIN_VARIABLE, str(tmp_path / "no-pulumi"))
    found = main(list(arguments))
    told = capsys.readouterr()
    assert found == code, told
    assert said in told.out + told.err


def test_a_mistake_in_a_real_process_has_no_traceback() -> None:
    done = ops("leaks", "--stack", "local", "--json")
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert "nothing in AWS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FindingsError("found"), FINDINGS),
        (UsageError("usage"), USAGE),
        (MissingError("missing", help="bring it"), ENVIRONMENT),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_exit_codes_of_errors(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr("ops.plan.show_plan", fail)
    assert main(["plan"]) == code
    assert "Traceback" not in capsys.readouterr().err


# --- deploy ---------------------------------------------------------------------------------------------------------

DEPLOY = deploy.DeployOptions(preview=False, scope="all", yes=False, skip_checks=False)


@pytest.fixture
def pulumi(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Notes what pulumi is run with; nothing blocks."""
    calls: list[list[str]] = []
    monkeypatch.setattr(pulumi_cli, "find_pulumi", lambda: Path("pulumi"))
    monkeypatch.setattr(deploy, "blockers", lambda _: [])
    monkeypatch.setattr(deploy, "not_staged", lambda _: [])
    return calls


def run(stack: str, options: deploy.DeployOptions, calls: list[list[str]], code: int = 0) -> int:
    def noted(arguments: Sequence[str]) -> int:
        calls.append(list(arguments))
        return code

    return deploy.deploy(stack, options, run=noted)


def test_up_and_preview(pulumi: list[list[str]]) -> None:
    assert run("prod", DEPLOY, pulumi) == OK
    assert run("prod", deploy.DeployOptions(preview=True, scope="all", yes=True, skip_checks=False), pulumi) == OK
    assert run("prod", deploy.DeployOptions(preview=False, scope="all", yes=True, skip_checks=False), pulumi, 1) == 1
    assert pulumi == [
        ["up", "--stack", "prod", "--refresh"],
        ["preview", "--stack", "prod", "--refresh"],
        ["up", "--stack", "prod", "--refresh", "--yes"],
    ]


@pytest.mark.parametrize(
    ("scope", "components"), [("models", ["ModelServer", "WarmUp", "ImagePull"]), ("images", ["ImagePull"])]
)
def test_a_scope_targets_its_components(pulumi: list[list[str]], scope: deploy.Scope, components: list[str]) -> None:
    run("prod", deploy.DeployOptions(preview=False, scope=scope, yes=False, skip_checks=False), pulumi)
    targets = [text for text in pulumi[0] if text.startswith("urn:")]
    prefix = "urn:pulumi:prod::inference-platform::inference:index:"
    assert targets == [f"{prefix}{component}**" for component in components]
    assert pulumi[0].count("--target") == len(components)


def test_a_placeholder_stops_an_up_but_not_a_preview(
    pulumi: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Check(name="placeholders", status="fail", detail="111122223333", fix="put yours")
    monkeypatch.setattr(deploy, "blockers", lambda _: [problem])
    assert run("dev", DEPLOY, pulumi) == FINDINGS
    assert pulumi == []
    assert "put yours" in capsys.readouterr().err
    assert run("dev", deploy.DeployOptions(preview=True, scope="all", yes=False, skip_checks=False), pulumi) == OK
    assert run("dev", deploy.DeployOptions(preview=False, scope="all", yes=False, skip_checks=True), pulumi) == OK


def test_the_committed_stack_files_are_not_deployed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: str) -> str:
        raise NoCredentialsError

    monkeypatch.setattr("ops.doctor_aws.caller", nobody)
    names = {one.name for one in deploy.blockers(stack_plan("prod"))}
    assert names == {"placeholders", "credentials"}
    assert deploy.blockers(stack_plan("local")) == []


# --- The user's pulumi ----------------------------------------------------------------------------------------------


def played_pulumi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = folder / "pulumi"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    monkeypatch.setenv(pulumi_cli.BIN_VARIABLE, str(executable))


def test_outputs_of_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"weights_bucket": "weights-abc"}
    played_pulumi(tmp_path, f"echo '{json.dumps(outputs)}'", monkeypatch)
    assert pulumi_cli.stack_outputs("prod") == outputs
    played_pulumi(tmp_path, "echo 'error: no stack named prod found' >&2; exit 255", monkeypatch)
    with pytest.raises(MissingError, match="no stack named prod found"):
        pulumi_cli.stack_outputs("prod")
    played_pulumi(tmp_path, "echo nonsense", monkeypatch)
    with pytest.raises(MissingError, match="no JSON"):
        pulumi_cli.stack_outputs("prod")


def test_pulumis_exit_code_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played_pulumi(tmp_path, '[ "$1" = up ] && exit 7', monkeypatch)
    assert pulumi_cli.run(["up"]) == 7


# --- rehearse -------------------------------------------------------------------------------------------------------


def test_capacity_that_can_be_had() -> None:
    rungs = [rung.name for pool in stack_plan("prod").pools for rung in pool.rungs]
    assert rehearse.capacity_of("prod", []) == {}
    assert rehearse.capacity_of("prod", ["all=0"]) == dict.fromkeys(rungs, 0)
    assert rehearse.capacity_of("prod", [f"{rungs[1]}=3", "all=0"]) == {**dict.fromkeys(rungs, 0), rungs[1]: 3}
    with pytest.raises(UsageError, match="is not <rung>=<nodes>"):
        rehearse.capacity_of("prod", ["all=many"])


@pytest.mark.parametrize(
    ("code", "kind"), [(USAGE, UsageError), (ENVIRONMENT, MissingError), (FINDINGS, FindingsError)]
)
def test_a_rehearsal_that_cannot_be_made_keeps_its_exit_code(
    code: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RehearsalError("no disk\n  make room", exit_code=code)

    monkeypatch.setattr(rehearse, "rehearse", fail)
    with pytest.raises(kind, match="no disk") as error:
        rehearse.problems_of("dev")
    assert "help: make room" in str(error.value)
