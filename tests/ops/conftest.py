"""AWS that lives in this process: no credentials of the machine are seen, nothing goes over the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from ops.cluster import Cluster
from tests.ops.api_server import ApiServer, serving, write_kubeconfig


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto, with credentials that mean nothing."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        yield


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """A Kubernetes API server with nothing in it."""
    server = ApiServer()
    with serving(lambda method, path, query, body, _: server.answer(method, path, query, body)) as url:
        server.url = url
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """The verbs' own client on that server."""
    made = Cluster(write_kubeconfig(tmp_path / "kubeconfig", api.url), None)
    yield made
    made.close()
