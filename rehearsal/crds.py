"""Custom resource definitions: upstream's own where they are given, permissive stand-ins elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from catalog.types import CrdKind
from rehearsal.controlplane.api import Api
from rehearsal.controlplane.errors import ControlPlaneError

_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_THREADS = 4
_ESTABLISHED_SECONDS = 60.0
_POLL_SECONDS = 0.2

# The text of a definition goes to the API server as it is: parsing 20 MB of YAML here would take longer than all else.
_DOCUMENT = re.compile(r"^---.*$", re.MULTILINE)
_IS_DEFINITION = re.compile(r"^kind: *[\"']?CustomResourceDefinition[\"']?\s*$", re.MULTILINE)
_NAME = re.compile(r"^metadata:\s*\n(?:(?:[ \t].*)?\n|#.*\n)*?  name: *[\"']?([a-z0-9.-]+)", re.MULTILINE)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads the bare `=` that the prometheus-operator definitions list as a value."""


def _bare_equals(_loader: Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


Loader.add_constructor("tag:yaml.org,2002:value", _bare_equals)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A definition's name, such as `rayclusters.ray.io`, and its YAML text."""

    name: str
    text: str


def load(paths: Iterable[Path]) -> list[Definition]:
    """Read the definitions in files and folders (`*.yaml`, at any depth); other documents there are passed over.

    Raises:
        ControlPlaneError: a path that does not exist, or a definition without a name.
    """
    found: dict[str, Definition] = {}
    for path in paths:
        if not path.exists():
            raise ControlPlaneError(f"There is no {path} to read CRDs from.", "Mend CRD_DIR, or unset it.")
        for file in sorted(path.rglob("*.yaml")) if path.is_dir() else [path]:
            for text in _DOCUMENT.split(file.read_text()):
                if _IS_DEFINITION.search(text):
                    name = _name(text, file)
                    found.setdefault(name, Definition(name=name, text=text))
    return list(found.values())


def stand_in(kind: CrdKind) -> Definition:
    """A definition that takes any content: objects are stored and scaled, but nothing of them is checked."""
    subresources: dict[str, Any] = {"status": {}} if kind.status else {}
    if kind.scale is not None:
        paths = {
            "specReplicasPath": kind.scale.spec_replicas,
            "statusReplicasPath": kind.scale.status_replicas,
            "labelSelectorPath": kind.scale.label_selector,
        }
        subresources["scale"] = {name: path for name, path in paths.items() if path is not None}
    name = f"{kind.plural}.{kind.group}"
    metadata: dict[str, Any] = {"name": name}
    if kind.group.endswith((".k8s.io", ".kubernetes.io")):
        # Kubernetes refuses definitions in its own groups without a word about their review.
        metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, a stand-in for rehearsals"}
    document = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": kind.group,
            "scope": kind.scope,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": list(kind.short_names),
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == kind.version,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    "subresources": subresources,
                }
                for version in kind.versions
            ],
        },
    }
    return Definition(name=name, text=yaml.safe_dump(document, sort_keys=False))


def install(api: Api, definitions: Sequence[Definition]) -> None:
    """Apply definitions to the API server, several at a time, and wait until each is Established.

    Raises:
        ApiError: the API server refused one.
        ControlPlaneError: some were not Established in time; names them.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        done = [pool.submit(api.apply, f"{_COLLECTION}/{one.name}", one.text) for one in definitions]
        for future in done:
            future.result()
    wanted = {one.name for one in definitions}
    until = time.monotonic() + _ESTABLISHED_SECONDS
    while missing := wanted - established(api):
        if time.monotonic() > until:
            raise ControlPlaneError(
                f"Not Established after {_ESTABLISHED_SECONDS:.0f} s: {', '.join(sorted(missing))}.",
                "Look at the status of these CustomResourceDefinitions.",
            )
        time.sleep(_POLL_SECONDS)


def established(api: Api) -> set[str]:
    """The names (`plural.group`) of the custom and aggregated kinds that the API server serves now."""
    # Discovery lists a custom kind once it is Established; the definitions themselves are megabytes of schemas.
    groups = cast("list[dict[str, Any]]", (api.get("/apis", accept=_DISCOVERY) or {}).get("items", []))
    return {
        f"{resource['resource']}.{group['metadata']['name']}"
        for group in groups
        for version in group.get("versions", [])
        for resource in version.get("resources", [])
    }


def _name(text: str, file: Path) -> str:
    if (found := _NAME.search(text)) is not None:
        return found.group(1)
    document = yaml.load(text, Loader)  # noqa: S506 (a safe loader)
    try:
        return str(document["metadata"]["name"])
    except (TypeError, KeyError) as error:
        raise ControlPlaneError(f"{file} holds a CRD without a name.", "Mend or remove that file.") from error
