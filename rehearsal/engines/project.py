"""The user's Pulumi project as the in-process engine runs it: its name, configuration and `__main__.py`."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from rehearsal.engines.contract import EngineError, EngineInputs
from rehearsal.engines.program import Answers, Log, run_program


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project and one of its stacks.

    Attributes:
        name: project name.
        stack: stack name.
        main: the program's file.
        root: the project's folder.
        config: `namespace:key` to text, objects as JSON.
        environment: variables the program sees besides the process's own.
    """

    name: str
    stack: str
    main: Path
    root: Path
    config: Mapping[str, str]
    environment: Mapping[str, str]

    @classmethod
    def read(cls, inputs: EngineInputs) -> Project:
        """Reads `Pulumi.yaml` and the stack file.

        Raises:
            EngineError: a file is missing or no YAML mapping, or the stack file holds encrypted values.
        """
        about = _mapping(inputs.project_dir / "Pulumi.yaml")
        stack = _mapping(inputs.stack_file)
        name = str(about.get("name"))
        folder = inputs.project_dir / str(about.get("main") or ".")
        config = {**_defaults(name, about), **_config(inputs.stack_file, stack)}
        return cls(
            name=name,
            stack=inputs.stack,
            main=folder / "__main__.py" if folder.is_dir() else folder,
            root=inputs.project_dir,
            config=config,
            environment={**inputs.environment, "KUBECONFIG": str(inputs.kubeconfig)},
        )

    def run(self, answers: Answers, *, preview: bool) -> Log:
        """Runs the program as `pulumi` would: in its folder, its modules importable, `__name__` being `__main__`."""
        with _environment(self.environment), contextlib.chdir(self.main.parent), _importable(self.main):
            return run_program(
                lambda: runpy.run_path(str(self.main), run_name="__main__"),
                answers=answers,
                project=self.name,
                stack=self.stack,
                preview=preview,
                config=self.config,
                root_directory=str(self.root),
            )


def _mapping(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise EngineError(f"{path}: cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise EngineError(f"{path}: must hold a mapping")
    return cast(dict[str, Any], loaded)


def _config(path: Path, stack: Mapping[str, Any]) -> dict[str, str]:
    given = cast(dict[str, Any], stack.get("config") or {})
    for key, value in given.items():
        if isinstance(value, dict) and "secure" in value:
            raise EngineError(f"{path}: {key} is encrypted; a rehearsal takes stand-in values, never the user's own")
    return {key: _text(value) for key, value in given.items()}


def _defaults(project: str, about: Mapping[str, Any]) -> dict[str, str]:
    """Values that `Pulumi.yaml` gives to every stack."""
    found: dict[str, str] = {}
    for key, value in cast(dict[str, Any], about.get("config") or {}).items():
        if isinstance(value, dict):
            declared = cast(dict[str, Any], value)
            value = declared.get("value", declared.get("default"))  # noqa: PLW2901 the declaration's own value
        if value is not None:
            found[key if ":" in key else f"{project}:{key}"] = _text(value)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """The process's variables without any that lead to the user's accounts, and with those given."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("AWS_", "PULUMI_", "KUBE")):
            del os.environ[name]
    os.environ.update({"AWS_EC2_METADATA_DISABLED": "true", **variables})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _importable(main: Path) -> Generator[None]:
    path, arguments = sys.path[:], sys.argv[:]
    sys.path.insert(0, str(main.parent))
    sys.argv = [str(main)]
    try:
        yield
    finally:
        sys.path[:], sys.argv[:] = path, arguments
