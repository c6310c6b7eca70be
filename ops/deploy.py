"""`deploy` (`make up`, `make preview`): `pulumi` on the user's stack, after what would surely fail was looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ops import aws, doctor_aws, doctor_local, pulumi_cli
from ops.checks import Check, asked
from ops.console import FINDINGS, OK, PROJECT_DIRECTORY, err
from ops.project import plan_of
from ops.revisions import nothing_staged, staged_checks
from planner import Plan
from planner.plan import EksPlan
from settings.load import stack_file

Scope = Literal["all", "models", "images"]

MODEL_COMPONENTS: Final = ("ModelServer", "WarmUp", "ImagePull")
"""What `--scope models` touches: each model's own objects, the Jobs that make its weights ready, and what pulls its
image."""
IMAGE_COMPONENTS: Final = ("ImagePull",)
"""What `--scope images` touches: nodes pull what the stack file names now, and every replica goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """What the command line says."""

    preview: bool
    scope: Scope
    yes: bool
    skip_checks: bool


def deploy(stack: str, options: DeployOptions, *, run: Callable[[Sequence[str]], int] = pulumi_cli.run) -> int:
    """Check, then run `pulumi` on the terminal; 1 where a check or pulumi failed."""
    plan = plan_of(stack)
    pulumi_cli.find_pulumi()
    if not options.skip_checks:
        failed = blockers(plan)
        if not failed and options.scope != "images":
            failed = not_staged(plan)
        for one in failed:
            err.print(f"{one.name}: {one.detail}\n  fix: {one.fix}", markup=False, soft_wrap=True)
        if failed and not options.preview:
            err.print(
                "nothing was changed; `python -m ops doctor` looks deeper, --skip-checks goes on anyway", markup=False
            )
            return FINDINGS
    if options.scope == "images":
        err.print("images alone: nodes pull what the stack file names; replicas follow with SCOPE=models", markup=False)
    if options.scope == "models":
        err.print("models alone: alerts and dashboards of new models come with the next full `make up`", markup=False)
    code = run(arguments(plan, options))
    if code:
        return FINDINGS
    if not options.preview:
        err.print(
            f"next: python -m ops wait --stack {stack} && python -m ops smoke --stack {stack}\n"
            "Weights that are not in the bucket yet: python -m ops models stage",
            markup=False,
        )
    return OK


def arguments(plan: Plan, options: DeployOptions) -> list[str]:
    """The command line of pulumi, without pulumi."""
    command = ["preview" if options.preview else "up", "--stack", plan.stack]
    if options.scope != "all":
        for target in targets(plan, IMAGE_COMPONENTS if options.scope == "images" else MODEL_COMPONENTS):
            command += ["--target", target]
    elif isinstance(plan.target, EksPlan):
        # cluster-autoscaler owns the size of groups. EKS takes size and limits in one call: without a refresh a new
        # limit would be sent with the size of the last `up`, and running nodes would be terminated.
        command.append("--refresh")
    if options.yes and not options.preview:
        command.append("--yes")
    return command


def not_staged(plan: Plan) -> list[Check]:
    """Revisions that pods would wait for in vain. A changed one takes old pods down one by one: not before the new one
    is in the bucket. A stack without a bucket yet is not asked: it is made first; and until something is staged nothing
    holds up its next `make up`, such as one that goes on with a first that failed half-way."""
    region = plan.region
    if region is None or not plan.cache.bucket:
        return []
    checks = asked("weights", lambda: staged_checks(plan, region), permission="s3:ListBucket, s3:GetObject")
    missing = [one for one in checks if one.status == "fail"]
    if missing and nothing_staged(plan, region):
        err.print(
            "weights: the bucket has none yet, so nothing serves that could be lost, and this goes on. "
            f"Next: python -m ops models stage --stack {plan.stack}",
            markup=False,
            soft_wrap=True,
        )
        return []
    return missing


def targets(plan: Plan, components: Sequence[str] = MODEL_COMPONENTS) -> tuple[str, ...]:
    """URN globs of components and all below them: the component's type opens every such URN."""
    return tuple(f"urn:pulumi:{plan.stack}::{plan.project}::inference:index:{kind}**" for kind in components)


def blockers(plan: Plan) -> list[Check]:
    """What no `up` survives: placeholders, unset secrets, no credentials, a caller who will be locked out."""
    file = stack_file(PROJECT_DIRECTORY, plan.stack)
    checks = [*doctor_local.check_placeholders(file), *doctor_local.check_secrets(plan, file)]
    if isinstance(plan.target, EksPlan) and plan.region is not None:
        try:
            checks += doctor_aws.check_admin(doctor_aws.caller(plan.region), plan.target.admins)
        except aws.ERRORS as error:
            told = aws.explained(error)
            checks.append(Check(name="credentials", status="fail", detail=str(told.args[0]), fix=told.help))
    return [one for one in checks if one.status == "fail"]
