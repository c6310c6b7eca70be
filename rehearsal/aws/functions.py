"""What AWS would answer to the provider functions (invokes) that the program may call.

Only these are answered: a function that looks something up in a live account makes the same commit plan differently
tomorrow, so an unknown one is an error and not a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from rehearsal.aws.environment import Properties, SimulatedEnvironment

# Zones a new account sees; regions that are absent have a, b and c (AWS "Regions and Availability Zones", 2026-07).
_ZONES = {"us-east-1": "abcdef", "us-west-2": "abcd", "us-west-1": "ac", "ap-northeast-1": "acd", "ca-central-1": "abd"}


class UnknownFunction(Exception):  # noqa: N818 named for what happened, as the callers read it
    """The program called a provider function that the simulated account does not answer."""

    def __init__(self, token: str) -> None:
        super().__init__(
            f"{token}: the rehearsal does not answer this provider function; decide the value in the plan, "
            "or teach rehearsal/aws/functions.py what AWS answers"
        )
        self.token = token


def invoke(token: str, args: Mapping[str, Any], *, environment: SimulatedEnvironment) -> Properties:
    """Answers a provider function.

    Args:
        token: e.g. `aws:index/getRegion:getRegion`.
        args: camelCase arguments.
        environment: the account to answer for.

    Raises:
        UnknownFunction: nothing is known about this function.
    """
    answer = _FUNCTIONS.get(token)
    if answer is None:
        raise UnknownFunction(token)
    return answer(args, environment)


def _caller_identity(_args: Mapping[str, Any], environment: SimulatedEnvironment) -> Properties:
    arn = f"arn:{environment.partition}:sts::{environment.account}:assumed-role/rehearsal/rehearsal"
    return {
        "accountId": environment.account,
        "arn": arn,
        "id": environment.account,
        "userId": "AROAREHEARSAL:rehearsal",
    }


def _region(args: Mapping[str, Any], environment: SimulatedEnvironment) -> Properties:
    name = args.get("region") or args.get("name") or environment.region
    return {
        "id": name,
        "name": name,
        "region": name,
        "description": str(name),
        "endpoint": f"ec2.{name}.amazonaws.com",
    }


def _partition(_args: Mapping[str, Any], environment: SimulatedEnvironment) -> Properties:
    china = environment.partition == "aws-cn"
    suffix = "amazonaws.com.cn" if china else "amazonaws.com"
    return {
        "id": environment.partition,
        "partition": environment.partition,
        "dnsSuffix": suffix,
        "reverseDnsPrefix": ".".join(reversed(suffix.split("."))),
    }


def _availability_zones(args: Mapping[str, Any], environment: SimulatedEnvironment) -> Properties:
    region = str(args.get("region") or environment.region)
    letters = _ZONES.get(region, "abc")
    area, *_, direction, number = region.split("-")  # us-gov-west-1 has four parts
    excluded = set(cast(list[str], args.get("excludeNames") or []))
    zones = [
        (f"{region}{letter}", f"{area}{direction[0]}{number}-az{i}")
        for i, letter in enumerate(letters, 1)
        if f"{region}{letter}" not in excluded
    ]
    return {
        **args,
        "id": region,
        "names": [name for name, _ in zones],
        "zoneIds": [zone_id for _, zone_id in zones],
        "groupNames": [region],
        "region": region,
    }


def _addon_version(args: Mapping[str, Any], _environment: SimulatedEnvironment) -> Properties:
    # The shape is true, the number is not: the rehearsal cannot know today's builds. The stack pins its add-ons.
    return {**args, "id": args.get("addonName", ""), "version": "v1.0.0-eksbuild.1"}


def _secret_version(args: Mapping[str, Any], environment: SimulatedEnvironment) -> Properties:
    arn = str(args.get("secretId", ""))
    if not arn.startswith("arn:"):
        owner = f"{environment.region}:{environment.account}"
        arn = f"arn:{environment.partition}:secretsmanager:{owner}:secret:{arn}-a1b2c3"
    digest = hashlib.sha256(arn.encode()).hexdigest()
    version = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
    return {
        **args,
        "arn": arn,
        "secretArn": arn,
        "id": f"{arn}|AWSCURRENT",
        "secretString": f"rehearsal-stand-in-{digest[:16]}",
        "secretBinary": "",
        "versionId": version,
        "versionStage": "AWSCURRENT",
        "versionStages": ["AWSCURRENT"],
        "createdDate": "2026-01-01T00:00:00Z",
        "region": environment.region,
    }


def _policy_document(args: Mapping[str, Any], _environment: SimulatedEnvironment) -> Properties:
    document: Properties = {"Version": args.get("version") or "2012-10-17"}
    if args.get("policyId"):
        document["Id"] = args["policyId"]
    document["Statement"] = [_statement(s) for s in cast(list[Mapping[str, Any]], args.get("statements") or [])]
    text = json.dumps(document, indent=2)
    return {
        **args,
        "id": hashlib.sha256(text.encode()).hexdigest()[:10],
        "json": text,
        "minifiedJson": json.dumps(document, separators=(",", ":")),
    }


def _statement(given: Mapping[str, Any]) -> Properties:
    """One statement as the aws_iam_policy_document data source renders it: one-element lists become the element."""
    statement: Properties = {"Sid": given["sid"]} if given.get("sid") else {}
    statement["Effect"] = given.get("effect") or "Allow"
    for key, written in (
        ("actions", "Action"),
        ("notActions", "NotAction"),
        ("resources", "Resource"),
        ("notResources", "NotResource"),
    ):
        if given.get(key):
            statement[written] = _one_or_many(cast(list[str], given[key]))
    for key, written in (("principals", "Principal"), ("notPrincipals", "NotPrincipal")):
        principals = cast(list[Mapping[str, Any]], given.get(key) or [])
        if principals:
            merged: dict[str, list[str]] = {}
            for principal in principals:
                merged.setdefault(principal["type"], []).extend(principal["identifiers"])
            everyone = merged == {"*": ["*"]}
            statement[written] = "*" if everyone else {kind: _one_or_many(who) for kind, who in merged.items()}
    conditions: dict[str, Properties] = {}
    for condition in cast(list[Mapping[str, Any]], given.get("conditions") or []):
        conditions.setdefault(condition["test"], {})[condition["variable"]] = _one_or_many(condition["values"])
    if conditions:
        statement["Condition"] = conditions
    return statement


def _one_or_many(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


_FUNCTIONS: dict[str, Callable[[Mapping[str, Any], SimulatedEnvironment], Properties]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": _caller_identity,
    "aws:index/getRegion:getRegion": _region,
    "aws:index/getPartition:getPartition": _partition,
    "aws:index/getAvailabilityZones:getAvailabilityZones": _availability_zones,
    "aws:eks/getAddonVersion:getAddonVersion": _addon_version,
    "aws:secretsmanager/getSecretVersion:getSecretVersion": _secret_version,
    "aws:iam/getPolicyDocument:getPolicyDocument": _policy_document,
}
