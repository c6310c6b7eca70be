"""Warm-up Jobs that have given up get another try; others are left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ops.__main__ import app
from ops.cluster import Cluster, job_path
from ops.errors import UsageError
from ops.warming import anew, warm
from planner.plan import WarmupPlan
from tests.factories import model_of, stack_plan
from tests.ops.api_server import ApiServer, write_kubeconfig

PROD = stack_plan("prod")


def job_of(warmup: WarmupPlan, *ended: str) -> dict[str, Any]:
    """As the API server has it."""
    given = {"batch.kubernetes.io/controller-uid": "u", "controller-uid": "u", "job-name": warmup.name}
    return {
        "metadata": {"uid": "u", "resourceVersion": "7", "labels": {"app.kubernetes.io/part-of": "inference-platform"}},
        "spec": {
            "backoffLimit": 6,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
            "template": {"metadata": {"labels": {"a": "b", **given}}, "spec": {"restartPolicy": "Never"}},
        },
        "status": {"conditions": [{"type": kind, "status": "True", "message": "broken weights"} for kind in ended]},
    }


def test_only_a_failed_job_is_started_again(api: ApiServer, cluster: Cluster) -> None:
    failed, done, *rest = PROD.warmups
    paths = {one.name: job_path(one.namespace, one.name) for one in PROD.warmups}
    api.put(paths[failed.name], job_of(failed, "FailureTarget", "Failed"))
    api.put(paths[done.name], job_of(done, "SuccessCriteriaMet", "Complete"))
    api.put(paths[rest[0].name], job_of(rest[0]))
    found = {one.job: (one.state, one.detail) for one in warm(cluster, PROD, PROD.models)}
    assert found[failed.name] == ("started again", "it had failed: broken weights")
    assert (found[done.name][0], found[rest[0].name][0]) == ("ready", "running")
    assert api.deleted == [paths[failed.name]]
    made = api.objects[paths[failed.name]]
    assert "status" not in made
    assert made["spec"]["template"]["metadata"]["labels"] == {"a": "b"}
    assert made["metadata"]["labels"] == {"app.kubernetes.io/part-of": "inference-platform"}


def test_what_the_server_adds_is_not_sent_back() -> None:
    """The API server refuses a selector, labels or identity of an earlier Job."""
    sent = anew(job_of(PROD.warmups[0], "Failed"))
    assert set(sent["metadata"]) == {"labels"}
    assert set(sent["spec"]) == {"backoffLimit", "template"}


def test_the_verb_looks_at_the_jobs_of_the_models_that_it_is_asked_for(api: ApiServer, tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", api.url)
    arguments = ["models", "warm", "--stack", "prod", "-m", "llama-8b", "--kubeconfig", str(config), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    (one,) = json.loads(done.stdout)["jobs"]
    assert (one["repository"], one["state"]) == (model_of(PROD, "llama-8b").weights.hub_id, "not there")
    refused = CliRunner().invoke(app, ["models", "warm", "--stack", "dev"])
    assert isinstance(refused.exception, UsageError)
