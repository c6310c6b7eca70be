"""`smoke` against a server that speaks the OpenAI API, directly and through a forwarded port."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.__main__ import app
from ops.cluster import Cluster
from ops.endpoint import Endpoint
from ops.errors import FindingsError, MissingError
from ops.port_forward import forward
from ops.smoke import SmokeResult, read_key, smoke
from tests.factories import model_of, stack_plan
from tests.ops.api_server import ApiServer, serving, write_kubeconfig

KEY = "a-key-of-the-test"
MODEL = "llama-8b"


class OpenAi:
    """An engine with one model."""

    def __init__(self) -> None:
        self.enforces = True
        self.message: dict[str, Any] = {"role": "assistant", "content": "Paris."}
        self.tokens = 3
        self.requests: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, query: Any, body: Any, headers: Any) -> tuple[int, Any]:
        if self.enforces and headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            return 200, {"data": [{"id": MODEL}]}
        if path != "/v1/chat/completions" or body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        self.requests.append(body)
        usage = {"prompt_tokens": 12, "completion_tokens": self.tokens}
        return 200, {"choices": [{"message": self.message}], "usage": usage}


@pytest.fixture
def engine() -> OpenAi:
    return OpenAi()


@contextmanager
def running(engine: OpenAi) -> Iterator[str]:
    with serving(engine.answer) as url:
        yield f"{url}/v1"


def smoked(engine: OpenAi, *, key: str | None = KEY, model: str = MODEL) -> SmokeResult:
    with running(engine) as url:
        return smoke(model, Endpoint(url, key, timeout_seconds=5), guarded=key is not None)


def test_a_completion_is_measured_and_strangers_are_refused(engine: OpenAi) -> None:
    result = smoked(engine)
    assert result.ok
    assert result.refuses_strangers is True
    assert result.completion is not None
    assert (result.completion.text, result.completion.completion_tokens) == ("Paris.", 3)
    assert result.completion.seconds > 0
    assert engine.requests[0]["messages"][0]["role"] == "user"


def test_an_endpoint_that_answers_strangers_fails(engine: OpenAi) -> None:
    engine.enforces = False
    result = smoked(engine)
    assert not result.ok
    assert result.completion is not None
    assert "without a key" in str(result.problem)


def test_a_ray_service_checks_no_key(engine: OpenAi) -> None:
    engine.enforces = False
    result = smoked(engine, key=None)
    assert result.ok
    assert result.refuses_strangers is None


def test_thoughts_are_an_answer(engine: OpenAi) -> None:
    engine.message = {"role": "assistant", "content": None, "reasoning_content": "The user asks..."}
    assert smoked(engine).ok


@pytest.mark.parametrize("message", [{"content": "  "}, {"content": None}, {}])
def test_an_empty_answer_fails(engine: OpenAi, message: dict[str, Any]) -> None:
    engine.message = message
    assert "empty completion" in str(smoked(engine).problem)


def test_a_wrong_key_and_a_wrong_name_are_told(engine: OpenAi) -> None:
    assert "HTTP 401" in str(smoked(engine, key="wrong").problem)
    assert "does not exist" in str(smoked(engine, model="other").problem)


def test_no_key_is_ever_told(engine: OpenAi) -> None:
    assert KEY not in repr(smoked(engine, model="other"))


def test_nobody_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(MissingError, match="does not answer"):
            Endpoint(url, None, timeout_seconds=1).complete(MODEL)


def test_an_answer_that_is_no_completion() -> None:
    with serving(lambda *_: (200, ["hello"])) as url, pytest.raises(FindingsError, match="no chat completion"):
        Endpoint(f"{url}/v1", None, timeout_seconds=5).complete(MODEL)


def test_a_given_url_is_smoked_with_the_key_of_the_environment(engine: OpenAi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with running(engine) as url:
        done = CliRunner().invoke(app, ["smoke", "--url", url, "--key-env", "MY_KEY", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["models"][0]["model"] == MODEL
    assert told["models"][0]["completion"]["text"] == "Paris."


def test_the_key_comes_from_its_secret(api: ApiServer, cluster: Cluster) -> None:
    secret = model_of(stack_plan("prod"), MODEL).api_key
    with pytest.raises(MissingError, match="does not exist"):
        read_key(cluster, secret)
    at = f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}"
    api.put(at, {"data": {"other": ""}})
    with pytest.raises(MissingError, match=f"has no key `{secret.key}`"):
        read_key(cluster, secret)
    api.put(at, {"data": {secret.key: base64.b64encode(KEY.encode()).decode()}})
    assert read_key(cluster, secret) == KEY


# --- Forwarded ports ------------------------------------------------------------------------------------------------


def write_kubectl(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    kubectl = folder / "kubectl"
    kubectl.write_text(f"#!/bin/sh\n{script}\n")
    kubectl.chmod(0o755)
    return folder


def test_a_whole_stack_is_smoked_through_forwarded_ports(
    engine: OpenAi, api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stack_plan("prod")
    secret = model_of(plan, MODEL).api_key
    at = f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}"
    api.put(at, {"data": {secret.key: base64.b64encode(KEY.encode()).decode()}})
    kubeconfig = write_kubeconfig(tmp_path / "config", api.url)
    with running(engine) as url:
        port = url.split(":")[2].split("/")[0]
        log, pid = tmp_path / "arguments", tmp_path / "pid"
        script = f"echo \"$@\" > {log}\necho $$ > {pid}\necho 'Forwarding from 127.0.0.1:{port} -> 8000'\nexec sleep 60"
        folder = write_kubectl(tmp_path / "bin", script)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        command = ["smoke", "-s", "prod", "-m", MODEL, "--kubeconfig", str(kubeconfig), "--json"]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["models"][0]["refuses_strangers"] is True
    arguments = log.read_text()
    assert f"service/{MODEL}" in arguments
    assert "--address 127.0.0.1" in arguments
    with pytest.raises(ProcessLookupError):  # the forward has ended with the verb
        os.kill(int(pid.read_text()), 0)


def test_a_forward_that_fails_says_what_kubectl_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kubectl(
        tmp_path / "bin", "echo 'error: unable to forward port because pod is not running' >&2; exit 1"
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with (
        pytest.raises(MissingError, match="pod is not running"),
        forward(tmp_path / "config", None, namespace="inference", service=MODEL, port=8000),
    ):
        pass


def test_without_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(MissingError, match="kubectl is not on PATH"),
        forward(tmp_path / "config", None, namespace="inference", service=MODEL, port=8000),
    ):
        pass
