"""A real control plane whose pods the tests themselves run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from rehearsal.controlplane import binaries
from rehearsal.controlplane.cluster import ControlPlane
from tests.router.fleet import require_router, required

_KUBERNETES = "1.35"
_NO_POD = {
    "apiVersion": "kwok.x-k8s.io/v1alpha1",
    "kind": "Stage",
    "metadata": {"name": "pods-are-left-alone"},  # with no stage at all, KWOK takes its own
    "spec": {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": [{"key": ".metadata.name", "operator": "DoesNotExist"}]},
        "next": {"statusTemplate": ""},
    },
}


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Made first where a pipeline asks for it, used where it was made before, and else a reason to skip."""
    require_router()
    if not required() and not binaries.cached(_KUBERNETES):
        pytest.skip("the control plane is not built: make rehearse")
    programs = binaries.ensure(_KUBERNETES, print)
    workdir = tmp_path_factory.mktemp("plane")
    with ControlPlane.start(
        workdir, programs, token=secrets.token_urlsafe(), progress=print, stages=[_NO_POD]
    ) as started:
        yield started
