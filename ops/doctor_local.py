"""Is this machine ready: tools for what, disk and ports for the rehearsal, placeholders in the stack file."""

from __future__ import annotations

import ipaddress
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ops.checks import Check, Status
from planner import Plan
from planner.plan import EksPlan
from rehearsal.injections import planned_secrets
from settings.errors import Path as SettingsPath
from settings.errors import Problem
from settings.load import place, read
from settings.secrets import PulumiSecret

Ask = Callable[[list[str]], str | None]
"""Runs a command and returns what it printed; None where there is no such program or it failed."""

_PYTHON = (3, 11)
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_DOCUMENTATION_NETWORKS = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
"""RFC 5737: addresses that nobody has."""
_DOCUMENTATION_ACCOUNTS = ("111122223333", "123456789012", "444455556666")
"""Accounts of AWS' own documentation."""
_EXAMPLE_RESERVATION = "cr-0123456789abcdef0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program that something here runs."""

    name: str
    command: tuple[str, ...]
    purpose: str
    install: str
    oldest: tuple[int, int] | None = None
    for_eks: bool = False
    """Needed to deploy to AWS; else a convenience."""
    required: bool = False


# pulumi 3.206: the first CLI that hands events to the Automation API over gRPC. aws 2: `eks get-token` for the cluster.
_TOOLS = (
    Tool(
        name="git",
        command=("git", "--version"),
        purpose="promotion compares commits",
        install="install git from your system's packages",
    ),
    Tool(
        name="pulumi",
        command=("pulumi", "version"),
        purpose="`make up`, `make preview`, `promote`",
        install="https://www.pulumi.com/docs/iac/download-install/",
        oldest=(3, 206),
        required=True,
    ),
    Tool(
        name="aws",
        command=("aws", "--version"),
        purpose="kubectl, pulumi, `wait`, `smoke` and `drain` get their token for EKS from it",
        install="https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
        oldest=(2, 0),
        for_eks=True,
        required=True,
    ),
    Tool(
        name="kubectl",
        command=("kubectl", "version", "--client"),
        purpose="`smoke` forwards a port with it",
        install="https://kubernetes.io/docs/tasks/tools/",
    ),
    Tool(
        name="helm",
        command=("helm", "version", "--short"),
        purpose="looking at releases by hand; Pulumi and the rehearsal bring their own",
        install="https://helm.sh/docs/intro/install/",
    ),
)


def run_tool(command: list[str]) -> str | None:
    """What a program prints; None where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout or done.stderr) if done.returncode == 0 else None


def check_tools(plan: Plan, ask: Ask = run_tool) -> Iterator[Check]:
    """Python and the programs that verbs run."""
    version = sys.version_info[:2]
    yield Check(
        name="python",
        status="ok" if version >= _PYTHON else "fail",
        detail=platform.python_version(),
        fix=None if version >= _PYTHON else "make setup PYTHON=python3.12",
    )
    for tool in _TOOLS:
        if tool.for_eks and not isinstance(plan.target, EksPlan):
            continue
        yield _tool(tool, plan, ask)


def _tool(tool: Tool, plan: Plan, ask: Ask) -> Check:
    lacking: Status = "fail" if tool.required else "note"
    said = ask(list(tool.command))
    if said is None:
        return Check(
            name=tool.name, status=lacking, detail=f"not found; {tool.purpose}", fix=f"install: {tool.install}"
        )
    found = _VERSION.search(said)
    if found is None:
        return Check(name=tool.name, status="note", detail=f"tells no version: {said.strip()[:60]}", fix=tool.install)
    version = (int(found[1]), int(found[2]))
    if tool.oldest is not None and version < tool.oldest:
        oldest = ".".join(map(str, tool.oldest))
        return Check(
            name=tool.name, status=lacking, detail=f"{found[0]} is older than {oldest}", fix=f"update: {tool.install}"
        )
    if tool.name == "kubectl":
        return _kubectl(tool, found[0], version, plan)
    return Check(name=tool.name, status="ok", detail=found[0])


def _kubectl(tool: Tool, text: str, version: tuple[int, int], plan: Plan) -> Check:
    """Kubernetes supports a kubectl one minor version away from the API server."""
    minor = int(plan.target.kubernetes_version.split(".")[1])
    if abs(version[1] - minor) > 1:
        return Check(
            name="kubectl",
            status="note",
            detail=f"{text} is more than one minor version from Kubernetes {plan.target.kubernetes_version}",
            fix=f"install {plan.target.kubernetes_version}: {tool.install}",
        )
    return Check(name="kubectl", status="ok", detail=text)


def check_machine(cache: Path, needed_bytes: int, *, has_go: bool, has_programs: bool) -> Iterator[Check]:
    """What a rehearsal takes.

    Args:
        cache: where the control plane's programs are kept.
        needed_bytes: what getting them writes.
        has_go: whether a Go compiler is on PATH.
        has_programs: whether they are there already.
    """
    if not has_programs:
        there = next(folder for folder in (cache, *cache.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        enough = free >= needed_bytes
        yield Check(
            name="disk",
            status="ok" if enough else "fail",
            detail=f"{free / 1e9:.0f} GB free at {there}; the first rehearsal takes up to {needed_bytes / 1e9:.0f} GB",
            fix=None if enough else "make room, or set XDG_CACHE_HOME to a folder on a larger disk",
        )
        yield Check(
            name="go",
            status="ok",
            detail="on PATH" if has_go else "not on PATH: the rehearsal downloads its programs, or Go, by itself",
        )
    else:
        yield Check(name="rehearsal", status="ok", detail=f"control plane's programs are in {cache}")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Check(name="ports", status="ok", detail="free ports on the loopback interface")
    except OSError as error:
        yield Check(
            name="ports",
            status="fail",
            detail=f"no port on 127.0.0.1: {error.strerror}",
            fix="bring the loopback interface up (`ip link set lo up`), or leave the sandbox that forbids it",
        )


def check_placeholders(stack_file: Path) -> Iterator[Check]:
    """Values of the examples that are still in a stack file: they rehearse, and fail or lock you out on real AWS."""
    document = read(stack_file)
    problems = [
        Problem(path=path, message=message, help=fix)
        for path, value in _leaves((), document.platform)
        for message, fix in _placeholder(value)
    ]
    if not problems:
        yield Check(name="placeholders", status="ok", detail=f"none in {stack_file.name}")
    for problem in place(problems, document):
        where = f"{document.file}:{problem.position.line}" if problem.position else document.file
        yield Check(
            name="placeholders",
            status="fail",
            detail=f"{where} {problem.dotted()}: {problem.message}",
            fix=problem.help,
        )


def check_secrets(plan: Plan, stack_file: Path) -> Iterator[Check]:
    """Secrets that the plan reads from Pulumi's configuration: `up` ends where one is not set."""
    document = read(stack_file)
    names = sorted({one.source.name for one in planned_secrets(plan) if isinstance(one.source, PulumiSecret)})
    for name in names:
        if {f"{plan.project}:{name}", name} & set(document.config_keys):
            yield Check(name="secrets", status="ok", detail=f"`{name}` is set")
        else:
            yield Check(
                name="secrets",
                status="fail",
                detail=f"{document.file} has no secret `{name}`",
                fix=f"pulumi config set --secret {name} --stack {plan.stack}",
            )


def _placeholder(value: str) -> Iterator[tuple[str, str]]:
    for account in _DOCUMENTATION_ACCOUNTS:
        if re.search(rf"(?<!\d){account}(?!\d)", value):
            yield f"{account} is an account of AWS' documentation", "put your own account and principal in its place"
    if value == _EXAMPLE_RESERVATION:
        yield (
            f"{value} is the example of a capacity reservation",
            "buy a block (`aws ec2 describe-capacity-block-offerings`) and name its reservation, or remove the rung",
        )
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return
    if isinstance(network, ipaddress.IPv4Network) and any(network.subnet_of(one) for one in _DOCUMENTATION_NETWORKS):  # pyright: ignore[reportArgumentType]
        yield (
            f"{value} is reserved for documentation: nobody could reach the API server",
            "put the address range of your office, VPN or runner in its place",
        )


def _leaves(path: SettingsPath, value: Any) -> Iterator[tuple[SettingsPath, str]]:
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from _leaves((*path, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _leaves((*path, index), item)
    elif isinstance(value, str):
        yield path, value
