"""`promote`: the commit that one stack runs, brought to another: compared, rehearsed, previewed, applied, smoked."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.prompt import Confirm

from ops.comparison import Difference, differences
from ops.console import OK, PROJECT_DIRECTORY, err, out, print_json, table
from ops.deploy import blockers
from ops.errors import FindingsError, OpsError, UsageError
from ops.project import Checkout, checkout
from ops.stack_engine import AutomationEngine, Deployed, PlannedChange, StackEngine
from planner import Plan, load_and_plan
from settings.load import stack_file
from settings.root import Settings

STATEFUL: Final[Mapping[str, str]] = {
    "aws:s3/bucket:Bucket": "holds the weights",
    "aws:kms/key:Key": "what it encrypted cannot be read again",
    "aws:fsx/lustreFileSystem:LustreFileSystem": "the cache would fill again, for hours, while models wait",
    "aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation": "its files leave the file system",
    "aws:eks/cluster:Cluster": "everything runs in it",
    "aws:ec2/vpc:Vpc": "the cluster and the file system are in it",
    "aws:ec2/subnet:Subnet": "nodes, file system and API endpoints have addresses in it",
    "kubernetes:core/v1:PersistentVolume": "names the place of the data",
    "kubernetes:core/v1:PersistentVolumeClaim": "its volume and data may go with it",
    "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition": "all objects of its kind would be deleted",
}
"""Types whose replacement or deletion loses what no `up` brings back, each with the reason."""

REPLACED: Final[Mapping[str, str]] = {
    "kubernetes:core/v1:Namespace": "everything in it would be deleted",
    "kubernetes:core/v1:Secret": "clients hold the generated keys",
}
"""Types that may go with the model or capability that they belong to, but not be made anew."""

_OPERATIONS: Final = ("create", "update", "replace", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteOptions:
    """What the command line says."""

    yes: bool
    dry_run: bool
    verify: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a promotion works with; tests bring their own."""

    engine: StackEngine
    checkout: Callable[[], Checkout]
    load: Callable[[str], tuple[Settings, Plan]]
    block: Callable[[Plan], Sequence[str]]
    """What no `up` of a plan survives, in words."""
    rehearse: Callable[[str], Sequence[str]]
    """Rehearses a stack; what it found, in words."""
    confirm: Callable[[str], bool]
    verify: Callable[[str], int]
    """Waits for a stack and smokes it; an exit code."""
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What a promotion did, or would."""

    source: str
    target: str
    commit: str
    differences: tuple[Difference, ...]
    changes: Mapping[str, int]
    applied: bool
    verified: bool | None


def show_promote(source: str, target: str, options: PromoteOptions, *, as_json: bool) -> int:
    """Promote and tell; every refusal is an error with its reason."""
    result = promote(source, target, options, real_tools(as_json=as_json))
    if as_json:
        print_json(result)
    else:
        done = "is at" if result.applied else "would come to"
        out.print(f"{target} {done} {result.commit[:12]}: {_words(result.changes)}", markup=False)
    return OK


def promote(source: str, target: str, options: PromoteOptions, tools: Tools) -> Promotion:
    """The whole promotion, cheapest refusals first.

    Raises:
        OpsError: something forbids it; nothing was changed, unless the update itself failed.
    """
    if source == target:
        raise UsageError("a stack is not promoted to itself", help="--from dev --to staging")
    found = differences(tools.load(source)[0], tools.load(target)[0])
    _, plan = tools.load(target)
    here = check_checkout(tools.checkout())
    check_deployed(source, tools.engine.deployed(source), here)
    tools.tell(f"{source} runs {here.commit[:12]}, this checkout; {len(found)} settings differ between the stacks")
    _tell_differences(found, source, target, tools.tell)
    blocked = list(tools.block(plan))
    if blocked:
        raise FindingsError(f"{target} cannot be updated: {'; '.join(blocked)}", help=f"make doctor STACK={target}")
    tools.tell(f"rehearsing {target}")
    problems = list(tools.rehearse(target))
    if problems:
        shown = "\n  ".join(problems[:10])
        raise FindingsError(
            f"the rehearsal of {target} found {len(problems)} problem(s)\n  {shown}",
            help=f"make rehearse STACK={target}",
        )
    tools.tell(f"previewing {target}")
    planned = tools.engine.preview(target)
    check_changes(target, planned)
    counts = Counter(change.operation for change in planned)
    changes = {operation: counts[operation] for operation in _OPERATIONS if counts[operation]}
    promotion = Promotion(
        source=source,
        target=target,
        commit=here.commit,
        differences=found,
        changes=changes,
        applied=False,
        verified=None,
    )
    if options.dry_run:
        return promotion
    if changes and not options.yes and not tools.confirm(f"{_words(changes)} in stack {target}. Go on?"):
        raise UsageError("not confirmed; nothing was changed")
    tools.engine.up(target, tools.tell)
    verified = None
    if options.verify:
        verified = tools.verify(target) == OK
        if not verified:
            raise FindingsError(
                f"{target} is at {here.commit[:12]}, and does not serve as it should",
                help=f"`python -m ops wait --stack {target}` tells what waits; to go back, check out the commit before",
            )
    return Promotion(
        source=source,
        target=target,
        commit=here.commit,
        differences=found,
        changes=changes,
        applied=True,
        verified=verified,
    )


def check_checkout(here: Checkout) -> Checkout:
    """Raises FindingsError where the files are not those of a commit."""
    if here.changes:
        more = f" and {len(here.changes) - 3} more" if len(here.changes) > 3 else ""
        raise FindingsError(
            f"this checkout differs from its commit: {', '.join(here.changes[:3])}{more}",
            help="commit, or promote from a clean clone: what is promoted must have a name",
        )
    return here


def check_deployed(stack: str, deployed: Deployed | None, here: Checkout) -> None:
    """Raises FindingsError where the source stack does not run exactly this commit."""
    again = f"check out the commit that {stack} runs, or `make up STACK={stack}` from this one first"
    if deployed is None or not deployed.commits:
        raise FindingsError(f"nothing tells which commit {stack} runs: its history has no full update", help=again)
    if len(deployed.commits) > 1:
        names = ", ".join(commit[:12] for commit in deployed.commits)
        raise FindingsError(
            f"{stack} runs parts of several commits ({names}): the last updates failed or were of a part",
            help=f"`make up STACK={stack}` in full",
        )
    if deployed.dirty:
        raise FindingsError(f"{stack} was updated from files that no commit has", help=f"`make up STACK={stack}` again")
    if here.commit not in deployed.commits:
        runs = "".join(deployed.commits)[:12]
        raise FindingsError(f"{stack} runs {runs}, this checkout is {here.commit[:12]}", help=again)


def check_changes(target: str, planned: Sequence[PlannedChange]) -> None:
    """Raises FindingsError where the update would lose something that no update brings back."""
    lines = "\n  ".join(
        f"{change.operation} {change.type} {change.urn.rsplit('::', 1)[1]}: {reason}"
        for change in planned
        if (reason := _loss(change)) is not None
    )
    if lines:
        raise FindingsError(
            f"the update of {target} would lose what cannot be made again\n  {lines}",
            help=f"read `make preview STACK={target}`; if it is meant, save the data and run `make up STACK={target}`",
        )


def _loss(change: PlannedChange) -> str | None:
    """What a change would lose; None where it loses nothing."""
    if change.operation == "replace":
        return STATEFUL.get(change.type) or REPLACED.get(change.type)
    return STATEFUL.get(change.type) if change.operation == "delete" else None


def real_tools(*, as_json: bool) -> Tools:
    """The user's stacks, this checkout, and a person at the terminal."""

    def load(stack: str) -> tuple[Settings, Plan]:
        return load_and_plan(stack_file(PROJECT_DIRECTORY, stack))

    def verify(stack: str) -> int:
        from ops.smoke import SmokeOptions, show_smoke  # noqa: PLC0415 - not for a dry run
        from ops.wait import WaitOptions, show_wait  # noqa: PLC0415

        waiting = WaitOptions(models=None, timeout_seconds=None, kubeconfig=None, context=None)
        smoking = SmokeOptions(models=None, url=None, key_env=None, timeout_seconds=300, kubeconfig=None, context=None)
        # Standard output is for the one JSON document.
        told = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        try:
            with told:
                return show_wait(stack, waiting, as_json=False) or show_smoke(stack, smoking, as_json=False)
        except OpsError as error:
            err.print(str(error), markup=False, soft_wrap=True)
            return error.exit_code

    def rehearse(stack: str) -> Sequence[str]:
        from ops.rehearse import problems_of  # noqa: PLC0415 - imports the whole rehearsal

        return problems_of(stack)

    return Tools(
        engine=AutomationEngine(),
        checkout=checkout,
        load=load,
        block=lambda plan: [f"{one.name}: {one.detail}" for one in blockers(plan)],
        rehearse=rehearse,
        confirm=_confirm,
        verify=verify,
        tell=lambda line: err.print(line, markup=False, soft_wrap=True),
    )


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask", help="--yes says that you mean it")
    return Confirm.ask(question, console=err, default=False)


def _tell_differences(found: Sequence[Difference], source: str, target: str, tell: Callable[[str], None]) -> None:
    if not found:
        return
    rows = [(one.path, one.source or "-", one.target or "-") for one in found]
    with err.capture() as captured:
        err.print(table("Settings that differ", ("setting", source, target), rows))
    tell(captured.get().rstrip())


def _words(changes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} to {operation}" for operation, count in changes.items()) or "nothing to change"
