"""Revisions in the stack's bucket, held to their manifests: which are whole, which are not there, who needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from components.scripts import staged, warm_up
from ops import aws
from ops.checks import Check
from ops.console import FINDINGS, OK, out, print_json, table
from ops.project import models_of, plan_of, region_of
from ops.staging import check_bucket, need_bucket, stack_bucket
from planner import Plan
from planner.plan import ModelPlan, RevisionPlan

_NAMED: Final = 3
"""Files that a message names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRevision:
    """One revision as the bucket has it."""

    hub_id: str
    revision: str
    prefix: str
    state: staged.State
    files: int
    bytes: int
    problems: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()
    """Models of the stack, with what it is to them."""


def users_of(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Who needs a revision, by its prefix: `deepseek-r1`, `chat (draft)`, `chat (next)`."""
    found: dict[str, list[str]] = {}
    for model in plan.models:
        for one in model.weights.held:
            found.setdefault(one.object_prefix, []).append(_role(model, one))
    return {prefix: tuple(dict.fromkeys(names)) for prefix, names in found.items()}


def _role(model: ModelPlan, one: RevisionPlan) -> str:
    if one is model.weights.upcoming:
        return f"{model.name} (next)"
    return model.name if one.kind == "model" else f"{model.name} ({one.kind})"


def look(s3: Any, bucket: str, hub_id: str, revision: str, prefix: str, *, deep: bool = False) -> BucketRevision:
    """One revision in the bucket. `deep` also asks each object for the checksum that it was uploaded with."""
    found = staged.look(s3, bucket, staged.Wanted(hub_id, revision, prefix))
    state, problems = found.state, found.problems
    if deep and state == "staged" and found.manifest is not None:
        problems = tuple(_checksums(s3, bucket, prefix, found.manifest))
        state = "wrong" if problems else state
    return BucketRevision(
        hub_id=hub_id,
        revision=revision,
        prefix=prefix,
        state=state,
        files=len(found.content),
        bytes=sum(found.content.values()),
        problems=problems,
    )


def _checksums(s3: Any, bucket: str, prefix: str, manifest: warm_up.Manifest) -> Iterator[str]:
    for entry in manifest.files:
        head = s3.head_object(Bucket=bucket, Key=f"{prefix}/{entry.path}")
        found = head["Metadata"].get("sha256", "none")
        if found != entry.sha256:
            yield f"{entry.path}: found sha256 {found}, expected {entry.sha256}"


def everything(s3: Any, bucket: str, plan: Plan, *, deep: bool = False) -> tuple[BucketRevision, ...]:
    """Every revision of the bucket and every one that the plan needs, those of one repository together."""
    root = f"{plan.cache.data_repository_path.strip('/')}/"
    users = users_of(plan)
    prefixes = {one.object_prefix for model in plan.models for one in model.weights.held}
    for organization in _folders(s3, bucket, root):
        for repository in _folders(s3, bucket, organization):
            prefixes |= {revision.rstrip("/") for revision in _folders(s3, bucket, repository)}
    found: list[BucketRevision] = []
    for prefix in sorted(prefixes):
        hub_id, _, revision = prefix.removeprefix(root).rpartition("/")
        one = look(s3, bucket, hub_id, revision, prefix, deep=deep)
        found.append(replace(one, needed_by=users.get(prefix, ())))
    return tuple(found)


def _folders(s3: Any, bucket: str, prefix: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]


def check_staged(s3: Any, bucket: str, plan: Plan) -> Iterator[Check]:
    """Whether every revision that models, drafts and adapters of the plan name is whole in the bucket.

    One that comes next is noted only: nothing waits for it yet.
    """
    users = users_of(plan)
    needed = {one.object_prefix: one for model in plan.models for one in model.weights.held}
    serving = {one.object_prefix for model in plan.models for one in model.weights.read}
    for prefix, one in needed.items():
        found = look(s3, bucket, one.hub_id, one.revision, prefix)
        name = f"weights {one.hub_id} at {one.revision[:12]}"
        who = ", ".join(users[prefix])
        if found.state == "staged":
            yield Check(name=name, status="ok", detail=f"{found.files} files, {found.bytes / 1e9:.1f} GB, for {who}")
            continue
        what = "; ".join(found.problems[:_NAMED]) or f"not in s3://{bucket}/{prefix}"
        yield Check(
            name=name,
            status="fail" if prefix in serving else "note",
            detail=f"{found.state}: {what}; pods of {who} would wait for it"
            if prefix in serving
            else f"{found.state}: {what}",
            fix=staged.stage_command(plan.stack, one.hub_id, found.state),
        )


def staged_checks(plan: Plan, region: str) -> Iterator[Check]:
    """The same for the stack's own bucket; MissingError where it cannot be told."""
    if not plan.cache.bucket:
        return
    bucket = stack_bucket(plan.stack)
    s3 = aws.client("s3", region)
    check_bucket(s3, bucket, region)
    yield from check_staged(s3, bucket, plan)


def nothing_staged(plan: Plan, region: str) -> bool:
    """Whether the stack's bucket has no whole revision of any repository: then nothing has ever served from it."""
    s3 = aws.client("s3", region)
    return not any(one.state == "staged" for one in everything(s3, stack_bucket(plan.stack), plan))


def show_bucket(stack: str, *, bucket: str | None, models: list[str] | None, deep: bool, as_json: bool) -> int:
    """Print what the bucket has; 1 where something that the stack needs is not whole."""
    plan = plan_of(stack)
    need_bucket(plan)
    region = region_of(plan)
    name = bucket or stack_bucket(stack)
    s3 = aws.client("s3", region)
    check_bucket(s3, name, region)
    wanted = {one.object_prefix for model in models_of(plan, models) for one in model.weights.held}
    try:
        found = everything(s3, name, plan, deep=deep)
    except aws.ERRORS as error:
        raise aws.explained(error, doing=f"bucket {name}") from error
    if models:
        found = tuple(one for one in found if one.prefix in wanted)
    bad = [one for one in found if one.state != "staged" and one.needed_by]
    if as_json:
        print_json({"stack": stack, "bucket": name, "ok": not bad, "revisions": found})
        return FINDINGS if bad else OK
    rows = [
        (one.hub_id, one.revision[:12], one.state, f"{one.bytes / 1e9:.1f}", ", ".join(one.needed_by) or "nobody")
        for one in found
    ]
    out.print(
        table(f"{stack}: revisions in {name}", ("repository", "revision", "state", "GB", "needed by"), rows, right=(3,))
    )
    for one in found:
        for problem in one.problems:
            out.print(f"{one.hub_id} at {one.revision[:12]}: {problem}", markup=False, soft_wrap=True)
    for hub_id in dict.fromkeys(one.hub_id for one in bad):
        out.print(
            f"  fix: python -m ops models stage --stack {stack} --repository {hub_id}", markup=False, soft_wrap=True
        )
    return FINDINGS if bad else OK
