"""Regional offerings: generated, current, and consistent with what is known otherwise."""

from __future__ import annotations

import pytest

from catalog import Catalog
from catalog.load import DIRECTORY
from catalog.tools import offerings


def test_the_file_is_what_the_script_writes() -> None:
    assert (DIRECTORY / "offerings.yaml").read_text() == offerings.render()


def test_check_tells_a_current_file_from_a_stale_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offerings.main(["--check"]) == 0
    monkeypatch.setattr(offerings, "HEADER", "# Another header than the file's.\n")
    assert offerings.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err


def zones(catalog: Catalog, region: str, instance: str) -> str:
    """Letters of the zones that offer a type."""
    return "".join(name[-1] for name in catalog.regions[region].offerings.get(instance, ()))


def test_known_offerings(catalog: Catalog) -> None:
    assert zones(catalog, "us-east-1", "p5.48xlarge") == "abcdef"
    assert zones(catalog, "us-east-1", "p4d.24xlarge") == "abcd"
    assert zones(catalog, "us-east-1", "p5en.48xlarge") == "ac"
    assert zones(catalog, "us-east-1", "p6-b200.48xlarge") == "c"
    assert zones(catalog, "us-east-2", "p5e.48xlarge") != ""
    assert zones(catalog, "us-west-2", "p5e.48xlarge") == "c"
    assert zones(catalog, "us-west-2", "p5.48xlarge") == "abcd"
    assert zones(catalog, "eu-west-1", "p4d.24xlarge") == "c"
    assert zones(catalog, "eu-central-1", "p4d.24xlarge") != ""
    assert zones(catalog, "eu-central-1", "p5.48xlarge") == ""
    assert zones(catalog, "eu-north-1", "p5.48xlarge") == "abc"


def test_offerings_name_catalog_types_and_zones_of_the_region(catalog: Catalog) -> None:
    for region in catalog.regions.values():
        names = {zone.name for zone in region.zones}
        assert set(region.offerings) <= set(catalog.instances)
        assert all(set(offered) <= names for offered in region.offerings.values())
        assert all(zone.name.startswith(region.name) for zone in region.zones)
        assert len({zone.zone_id for zone in region.zones}) == len(region.zones) >= 2


def test_every_region_sells_gpus_and_system_nodes(catalog: Catalog) -> None:
    for region in catalog.regions.values():
        assert any(catalog.instances[name].gpus for name in region.offerings), region.name
        system = [name for name in region.offerings if not catalog.instances[name].gpus]
        assert any(len(region.offerings[name]) >= 2 for name in system), region.name


def test_zones_without_a_control_plane(catalog: Catalog) -> None:
    excluded = {zone.zone_id for region in catalog.regions.values() for zone in region.zones if not zone.control_plane}
    assert "use1-az3" in excluded
    assert excluded <= {"use1-az3", "usw1-az2", "cac1-az3"}
    for region in catalog.regions.values():
        assert sum(zone.control_plane for zone in region.zones) >= 2, region.name
