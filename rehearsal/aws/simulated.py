"""What AWS would answer to the program's resources and functions, without AWS.

Every answer is a pure function of the resource's type, logical name and inputs, so that the unit tests, the in-process
engine and the stand-in provider of the real Pulumi engine agree, and a second run changes nothing. The facts (ids,
computed properties, what replaces) are data: `resource_types.yaml`. Nothing here imports pulumi.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from rehearsal.aws.environment import Properties, SimulatedEnvironment
from rehearsal.aws.functions import UnknownFunction, invoke

__all__ = [
    "Properties",
    "ResourceType",
    "SimulatedEnvironment",
    "UnknownFunction",
    "computed_outputs",
    "create",
    "invoke",
    "is_aws",
    "preview",
    "replaces_on",
    "replacing_changes",
    "resource_types",
    "unknown_types",
    "update",
]


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """One entry of `resource_types.yaml`; see there."""

    id: str
    name: str | None
    outputs: Mapping[str, Any]
    replaces: frozenset[str]


_GENERIC = ResourceType(
    id="{logical}-{hex8}",
    name=None,
    outputs={"arn": "arn:{partition}:unknown:{region}:{account}:{id}"},
    replaces=frozenset({"region"}),
)

unknown_types: set[str] = set()
"""AWS types answered generically since the process started (`resource_types.yaml` lacks them); tests fail on any."""


@cache
def resource_types() -> Mapping[str, ResourceType]:
    """The known AWS resource types by Pulumi type token."""
    raw = cast(dict[str, dict[str, Any]], yaml.safe_load(Path(__file__).with_name("resource_types.yaml").read_text()))
    return {
        token: ResourceType(
            id=entry["id"],
            name=entry.get("name"),
            outputs=entry.get("outputs", {}),
            replaces=frozenset({*entry.get("replaces", []), "region"}),
        )
        for token, entry in raw.items()
    }


def is_aws(type_token: str) -> bool:
    """Whether the simulated account answers for this type (the provider itself is not a resource of the account)."""
    return type_token.startswith("aws:")


def create(
    type_token: str, name: str, inputs: Mapping[str, Any], *, environment: SimulatedEnvironment
) -> tuple[str, Properties]:
    """Answers a create: the physical id and all outputs (the inputs and what only the provider knows).

    Args:
        type_token: e.g. `aws:ec2/vpc:Vpc`.
        name: the logical name; ids derive from it and from the type.
        inputs: resolved inputs, camelCase.
        environment: the account, region and cluster to answer for.
    """
    kind = _lookup(type_token)
    texts = _Texts(type_token, name, inputs, environment)
    known = dict(inputs)
    if kind.name is not None:
        known.setdefault(kind.name, texts.automatic_name(known.get(f"{kind.name}Prefix") or known.get("namePrefix")))
        texts.values["name"] = known[kind.name]
    physical_id = texts.fill(kind.id, "id")
    texts.values["id"] = physical_id
    outputs = _merge({key: texts.fill(value, key) for key, value in kind.outputs.items()}, known)
    if "tags" in inputs:
        outputs["tagsAll"] = inputs["tags"]
    return physical_id, outputs


def update(
    type_token: str,
    name: str,
    inputs: Mapping[str, Any],
    *,
    previous_outputs: Mapping[str, Any],
    environment: SimulatedEnvironment,
) -> Properties:
    """Answers an update in place: as `create`, and what AWS counts up goes up (a launch template's version)."""
    _, outputs = create(type_token, name, inputs, environment=environment)
    kind = _lookup(type_token)
    if kind.name is not None and kind.name not in inputs and kind.name in previous_outputs:
        outputs[kind.name] = previous_outputs[kind.name]
    if "latestVersion" in kind.outputs:
        outputs["latestVersion"] = int(previous_outputs.get("latestVersion", 0)) + 1
        if inputs.get("updateDefaultVersion"):
            outputs["defaultVersion"] = outputs["latestVersion"]
    return outputs


def preview(
    type_token: str, name: str, inputs: Mapping[str, Any], *, unknown: Any, environment: SimulatedEnvironment
) -> Properties:
    """The outputs as a preview of a create knows them: inputs and automatic names; everything computed is `unknown`.

    Args:
        type_token: as in `create`.
        name: as in `create`.
        inputs: as in `create`; may contain `unknown`.
        unknown: the marker to put where the value is known only after the create.
        environment: as in `create`.
    """
    kind = _lookup(type_token)
    outputs = dict(inputs)
    if kind.name is not None and kind.name not in outputs:
        outputs[kind.name] = _Texts(type_token, name, inputs, environment).automatic_name(outputs.get("namePrefix"))
    for path in sorted(computed_outputs(type_token)):
        top, _, field = path.partition(".")
        block = outputs.get(top)
        if not field or block is None:
            outputs.setdefault(top, unknown)
        elif isinstance(block, Mapping):
            outputs[top] = {field: unknown, **cast(Mapping[str, Any], block)}
    if "tags" in inputs:
        outputs["tagsAll"] = inputs["tags"]
    return outputs


def computed_outputs(type_token: str) -> frozenset[str]:
    """The outputs that no preview of a create knows; dotted where only a field of an input block is computed."""
    paths: set[str] = set()
    for key, value in _lookup(type_token).outputs.items():
        if isinstance(value, Mapping):
            paths.update(f"{key}.{field}" for field in cast(Mapping[str, Any], value))
        else:
            paths.add(key)
    return frozenset(paths)


def replaces_on(type_token: str) -> frozenset[str]:
    """The inputs (camelCase, dotted for a field of a block) whose change replaces the resource."""
    return _lookup(type_token).replaces


def replacing_changes(type_token: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    """Those of `replaces_on` that differ between two sets of inputs, and a shrunk FSx file system."""
    changed = {path for path in replaces_on(type_token) if _at(old, path) != _at(new, path)}
    if type_token == "aws:fsx/lustreFileSystem:LustreFileSystem":  # noqa: S105 a type token, not a secret
        before, after = old.get("storageCapacity"), new.get("storageCapacity")
        if isinstance(before, int | float) and isinstance(after, int | float) and after < before:
            changed.add("storageCapacity")  # lustre_file_system.go: resourceLustreFileSystemSchemaCustomizeDiff
    return frozenset(changed)


def _lookup(type_token: str) -> ResourceType:
    known = resource_types()
    # pulumi-aws 7 keeps `...V2` (and `...v2`) classes as second names of the same resource.
    found = known.get(type_token) or known.get(re.sub(r"[Vv]2(?=:|$)", "", type_token))
    if found is None:
        unknown_types.add(type_token)
        return _GENERIC
    return found


def _at(inputs: Mapping[str, Any], path: str) -> Any:
    value: Any = inputs
    for key in path.split("."):
        value = cast(Mapping[str, Any], value).get(key) if isinstance(value, Mapping) else None
    return value


def _merge(computed: Properties, given: Mapping[str, Any]) -> Properties:
    merged = {**computed, **given}
    for key, value in computed.items():
        other = given.get(key)
        if isinstance(value, dict) and isinstance(other, Mapping):
            merged[key] = _merge(cast(Properties, value), cast(Mapping[str, Any], other))
    return merged


class _Inputs(dict[str, Any]):
    """Inputs for `str.format`; one that is absent or unresolved reads as its own name, so that ids stay readable."""

    def __missing__(self, key: str) -> str:
        return key


class _Texts:
    """Fills the texts of `resource_types.yaml` for one resource."""

    def __init__(
        self, type_token: str, name: str, inputs: Mapping[str, Any], environment: SimulatedEnvironment
    ) -> None:
        self._seed = f"{type_token}/{name}"
        region = inputs.get("region")
        self.values: Properties = {
            "logical": name,
            "name": name,
            "in": _Inputs(inputs),
            "account": environment.account,
            "region": region if isinstance(region, str) else environment.region,
            "partition": environment.partition,
            "endpoint": environment.cluster_endpoint,
            "ca": environment.cluster_ca_data,
        }

    def automatic_name(self, prefix: object) -> str:
        """The name Pulumi would give: the logical name (or the prefix) and 7 digits."""
        digits = hashlib.sha256(self._seed.encode()).hexdigest()[:7]
        return f"{prefix}{digits}" if isinstance(prefix, str) else f"{self.values['logical']}-{digits}"

    def fill(self, value: Any, salt: str) -> Any:
        """Fills texts at any depth; `salt` keeps two hashes of one resource apart."""
        if isinstance(value, str):
            return value.format_map({**self.values, **self._digests(salt)})
        if isinstance(value, dict):
            return {k: self.fill(v, f"{salt}.{k}") for k, v in cast(Properties, value).items()}
        if isinstance(value, list):
            return [self.fill(v, f"{salt}[{i}]") for i, v in enumerate(cast(list[Any], value))]
        return value

    def _digests(self, salt: str) -> dict[str, str]:
        digest = hashlib.sha256(f"{self._seed}#{salt}".encode()).hexdigest()
        return {
            "hex": f"0{digest[:16]}",
            "hex6": digest[:6],
            "hex8": digest[:8],
            "hex32": digest[:32],
            "HEX17": digest[:17].upper(),
            "HEX32": digest[:32].upper(),
            "uuid": "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])),
        }
