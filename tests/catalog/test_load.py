"""The catalog as a whole: provenance, laziness, speed, what it imports."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import pytest

from catalog import Catalog, load
from catalog.assumptions import assumptions
from catalog.types import Sourced

SECTIONS = ("instances", "gpus", "models", "engines", "crds", "regions", "versions", "prices")
REPOSITORY = Path(__file__).parents[2]


def sourced(value: object, path: str) -> Iterator[tuple[str, Sourced]]:
    """Every entry below a value that carries provenance, with its path."""
    if isinstance(value, Sourced):
        yield path, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from sourced(item, f"{path}.{key}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from sourced(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple):
        for item in value:
            yield from sourced(item, f"{path}[]")


def test_every_entry_has_a_source_and_a_date(catalog: Catalog) -> None:
    found = [entry for name in SECTIONS for entry in sourced(getattr(catalog, name), name)]
    found += sourced(assumptions(), "assumptions")
    assert len(found) > 200
    wrong = [
        path for path, entry in found if len(entry.source) < 10 or not date(2023, 1, 1) <= entry.as_of <= date.today()
    ]
    assert wrong == []


def test_unknown_keys_raise_key_error(catalog: Catalog) -> None:
    for table in (catalog.instances, catalog.gpus, catalog.models, catalog.engines, catalog.regions, catalog.crds):
        with pytest.raises(KeyError):
            table["no-such-thing"]


def test_load_gives_the_same_object() -> None:
    assert load() is load()


def test_a_file_is_read_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text((REPOSITORY / "catalog" / "gpus.yaml").read_text())
    partial = Catalog(tmp_path)
    assert "H100" in partial.gpus
    with pytest.raises(FileNotFoundError):
        _ = partial.models


def test_entries_cannot_be_changed(catalog: Catalog) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog.gpus["H100"].memory_mib = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        catalog.gpus["H100"] = catalog.gpus["H200"]  # type: ignore[index]


def test_the_whole_catalog_loads_in_60_ms() -> None:
    def once() -> float:
        start = time.process_time()  # processor time: other work on the machine does not count
        fresh = Catalog()
        for name in SECTIONS:
            getattr(fresh, name)
        return time.process_time() - start

    assert min(once() for _ in range(5)) < 0.060


def test_loading_imports_no_sdk() -> None:
    program = (
        "import sys, catalog; c = catalog.load(); "
        f"[getattr(c, name) for name in {SECTIONS!r}]; "
        "print([m for m in ('pulumi', 'boto3', 'botocore', 'kubernetes', 'pydantic', 'moto') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
