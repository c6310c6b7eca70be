"""Panels of a Grafana dashboard and their places, in Grafana's JSON model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
"""The data source that kube-prometheus-stack provisions (`grafana.sidecar.datasources.uid`)."""
GRID_COLUMNS = 24
PANEL_WIDTH, PANEL_HEIGHT = 8, 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A time series panel: queries with their legends, and the unit in Grafana's words."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    description: str = ""
    maximum: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A headed group of panels."""

    title: str
    panels: tuple[Panel, ...]


def placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows from top to bottom, their panels three abreast."""
    top, number = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        top += 1
        abreast = GRID_COLUMNS // PANEL_WIDTH
        for index, panel in enumerate(row.panels):
            number += 1
            x, y = index % abreast * PANEL_WIDTH, top + index // abreast * PANEL_HEIGHT
            yield _time_series(panel, number, {"x": x, "y": y, "w": PANEL_WIDTH, "h": PANEL_HEIGHT})
        top += -(-len(row.panels) // abreast) * PANEL_HEIGHT


def _time_series(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }
