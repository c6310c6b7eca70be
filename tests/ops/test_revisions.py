"""What the bucket has, held to its manifests: told before pods wait for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from components.scripts import warm_up
from ops import aws as ops_aws
from ops import deploy, revisions
from ops.__main__ import app
from ops.errors import MissingError, UsageError
from ops.preflight.run import examine
from ops.revisions import check_staged, everything, look
from planner.plan import RevisionPlan
from tests.factories import model_of, stack_plan, with_models
from tests.ops.test_preflight import only, sources

BUCKET = "weights-bucket"
PROD = stack_plan("prod")
LLAMA = model_of(PROD, "llama-8b")
ADAPTER = replace(
    RevisionPlan(
        kind="adapter",
        hub_id="acme/legal",
        revision="1" * 40,
        gigabytes=0.1,
        object_prefix=f"models/acme/legal/{'1' * 40}",
        directory=f"/cache/models/acme/legal/{'1' * 40}",
        ready_marker=f"/cache/models/acme/legal/{'1' * 40}/.ready",
    )
)
NEXT = replace(
    ADAPTER,
    kind="model",
    hub_id=LLAMA.weights.hub_id,
    revision="2" * 40,
    object_prefix=f"models/{LLAMA.weights.hub_id}/{'2' * 40}",
)
PLAN = with_models(PROD, replace(LLAMA, weights=replace(LLAMA.weights, beside=(ADAPTER,), upcoming=NEXT)))


@pytest.fixture
def s3(aws: None) -> Any:
    client = ops_aws.client("s3", "us-east-1")
    client.create_bucket(Bucket=BUCKET)
    return client


def put(s3: Any, one: RevisionPlan, *, told: str | None = None, without: str = "", manifest: bool = True) -> None:
    """A revision of two files; `told` in place of what the manifest says of the first's checksum."""
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    entries: list[dict[str, Any]] = []
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        if path != without:
            s3.put_object(Bucket=BUCKET, Key=f"{one.object_prefix}/{path}", Body=content, Metadata={"sha256": digest})
        entries.append({"path": path, "bytes": len(content), "sha256": told or digest})
    if manifest:
        body = json.dumps({"model": one.hub_id, "revision": one.revision, "files": entries})
        s3.put_object(Bucket=BUCKET, Key=f"{one.object_prefix}/{warm_up.MANIFEST}", Body=body)


def told(s3: Any) -> dict[str, tuple[str, str, str | None]]:
    return {one.name: (one.status, one.detail, one.fix) for one in check_staged(s3, BUCKET, PLAN)}


def test_each_revision_that_is_not_staged_is_named_with_the_command(s3: Any) -> None:
    put(s3, LLAMA.weights)
    found = told(s3)
    assert found[f"weights {LLAMA.weights.hub_id} at {LLAMA.weights.revision[:12]}"][0] == "ok"
    status, detail, fix = found["weights acme/legal at 111111111111"]
    assert status == "fail"
    assert "not staged" in detail
    assert "pods of llama-8b (adapter) would wait" in detail
    assert fix == "python -m ops models stage --stack prod --repository acme/legal"
    # Nothing waits for what comes next.
    assert found[f"weights {NEXT.hub_id} at 222222222222"][0] == "note"


def test_a_staging_that_has_not_ended_is_no_revision(s3: Any) -> None:
    put(s3, ADAPTER, manifest=False)
    assert "incomplete: no manifest yet" in told(s3)["weights acme/legal at 111111111111"][1]
    put(s3, ADAPTER, without="model.safetensors")
    s3.delete_object(Bucket=BUCKET, Key=f"{ADAPTER.object_prefix}/model.safetensors")
    assert "model.safetensors of the manifest not in the bucket" in told(s3)["weights acme/legal at 111111111111"][1]


def test_another_length_is_seen_at_once_and_other_content_by_its_checksum(s3: Any) -> None:
    put(s3, ADAPTER)
    s3.put_object(Bucket=BUCKET, Key=f"{ADAPTER.object_prefix}/config.json", Body=b"[ ]")
    status, detail, fix = told(s3)["weights acme/legal at 111111111111"]
    assert (status, "config.json: found 3 bytes, expected 2" in detail) == ("fail", True)
    assert fix is not None
    assert fix.endswith("--replace")
    put(s3, ADAPTER, told="0" * 64)
    where = (ADAPTER.hub_id, ADAPTER.revision, ADAPTER.object_prefix)
    assert look(s3, BUCKET, *where).state == "staged"
    deep = look(s3, BUCKET, *where, deep=True)
    assert deep.state == "wrong"
    assert f"expected {'0' * 64}" in deep.problems[0]
    assert hashlib.sha256(b"{}").hexdigest() in deep.problems[0]


def test_the_list_has_what_nobody_needs_too(s3: Any) -> None:
    old = replace(LLAMA.weights, revision="9" * 40, object_prefix=f"models/{LLAMA.weights.hub_id}/{'9' * 40}")
    put(s3, old)
    put(s3, LLAMA.weights)
    found = {one.revision: one for one in everything(s3, BUCKET, PLAN)}
    assert found["9" * 40].needed_by == ()
    assert found["9" * 40].state == "staged"
    assert found[LLAMA.weights.revision].needed_by == ("llama-8b",)
    assert found["2" * 40].needed_by == ("llama-8b (next)",)
    assert found["2" * 40].state == "not staged"


def test_the_verbs_end_with_1_where_a_model_lacks_something(s3: Any) -> None:
    arguments = ["models", "list", "--stack", "prod", "--bucket", BUCKET, "--model", "llama-8b", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout)["revisions"][0]["state"] == "not staged"
    put(s3, LLAMA.weights)
    for verb in ("list", "verify"):
        done = CliRunner().invoke(app, ["models", verb, *arguments[2:]])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["ok"] is True


@pytest.mark.parametrize("verb", ["stage", "list", "verify"])
def test_a_stack_without_a_bucket_is_told_where_its_weights_come_from(verb: str) -> None:
    done = CliRunner().invoke(app, ["models", verb, "--stack", "local"])
    assert isinstance(done.exception, UsageError)
    assert "download them from the hub" in str(done.exception)


def test_preflight_asks_the_stacks_own_bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "stack_bucket", lambda _: BUCKET)
    checks = examine(PROD, "us-east-1", sources())
    one = only(checks, f"weights {LLAMA.weights.hub_id} at {LLAMA.weights.revision[:12]}")
    assert (one.status, one.fix) == (
        "fail",
        f"python -m ops models stage --stack prod --repository {LLAMA.weights.hub_id}",
    )

    def no_bucket(_: str) -> str:
        raise MissingError("stack prod has no output weights_bucket", help="make it")

    monkeypatch.setattr(revisions, "stack_bucket", no_bucket)
    assert only(examine(PROD, "us-east-1", sources()), "weights").status == "unknown"


def test_a_deployment_is_held_up_by_what_is_not_staged(
    s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(revisions, "stack_bucket", lambda _: BUCKET)
    # A new stack whose first `up` has failed half-way must not need 800 GB for the second.
    assert deploy.not_staged(PROD) == []
    assert "python -m ops models stage --stack prod" in capsys.readouterr().err
    # One that has served: none of its new revisions is there, and the old one still serves.
    old = replace(LLAMA.weights, revision="9" * 40, object_prefix=f"models/{LLAMA.weights.hub_id}/{'9' * 40}")
    put(s3, old)
    assert len(deploy.not_staged(PROD)) == 3
    put(s3, LLAMA.weights)
    assert len(deploy.not_staged(PROD)) == 2
    for model in PROD.models:
        put(s3, model.weights)
    assert deploy.not_staged(PROD) == []
    assert deploy.not_staged(stack_plan("local")) == []
