"""Where Helm is told to look for a chart."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pytest

from components._charts import ChartSource, source, source_for_injected_repository
from planner.plan import ChartPlan


def chart(**changes: str | None) -> ChartPlan:
    fields: dict[str, str | None] = {
        "name": "keda",
        "version": "2.20.2",
        "namespace": "keda",
        "chart": "keda",
        "repository": None,
        "directory": None,
    }
    return ChartPlan(**(fields | changes))  # type: ignore[arg-type]


def put(folder: Path, form: str) -> None:
    """Makes one of the three forms in which a mirror directory holds a chart."""
    folder.mkdir(exist_ok=True)
    if form.endswith(".tgz"):
        (folder / form).write_bytes(b"")
    else:
        (folder / form).mkdir()
        (folder / form / "Chart.yaml").write_text("name: keda\n")


def test_upstream_and_oci_charts_are_named_as_they_are() -> None:
    upstream = chart(repository="https://kedacore.github.io/charts")
    assert source(upstream) == ChartSource(chart="keda", repository="https://kedacore.github.io/charts")
    oci = chart(chart="oci://registry.example.com/charts/keda")
    assert source(oci) == ChartSource(chart="oci://registry.example.com/charts/keda", repository=None)
    assert source_for_injected_repository(oci) == source(oci)


@pytest.mark.parametrize("form", ["keda-2.20.2.tgz", "keda-2.20.2", "keda"])
def test_a_directory_holds_a_chart_in_three_forms(form: str, tmp_path: Path) -> None:
    put(tmp_path / "charts", form)
    assert source(chart(directory="charts"), tmp_path) == ChartSource(chart=f"charts/{form}", repository=None)
    injected = source_for_injected_repository(chart(directory="charts"), tmp_path)
    assert injected == ChartSource(chart=form, repository="./charts")


def test_an_archive_of_the_pinned_version_wins(tmp_path: Path) -> None:
    put(tmp_path / "charts", "keda")
    put(tmp_path / "charts", "keda-2.20.2.tgz")
    assert source(chart(directory="./charts"), tmp_path).chart == "charts/keda-2.20.2.tgz"


def test_an_absolute_directory_stays_so_but_not_where_it_would_be_taken_for_a_url(tmp_path: Path) -> None:
    project, mirror = tmp_path / "project", tmp_path / "charts"
    project.mkdir()
    put(mirror, "keda")
    assert source(chart(directory=str(mirror)), project).chart == str(mirror / "keda")
    injected = source_for_injected_repository(chart(directory=str(mirror)), project)
    assert injected == ChartSource(chart="keda", repository="../charts")


def test_a_missing_chart_names_what_was_looked_for_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "charts" / "keda").mkdir(parents=True)  # without Chart.yaml it is no chart
    with pytest.raises(pulumi.RunError) as caught:
        source(chart(directory="charts"), tmp_path)
    text = str(caught.value)
    for part in ("keda-2.20.2.tgz", "keda-2.20.2/Chart.yaml", "keda/Chart.yaml", "helm pull", "charts.mirror"):
        assert part in text
