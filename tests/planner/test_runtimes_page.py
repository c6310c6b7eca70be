"""The table of runtimes is what the planner answers."""

from __future__ import annotations

import pytest

from planner.engines import runtimes


def test_the_page_is_up_to_date() -> None:
    assert runtimes.PAGE.read_text(encoding="utf-8") == runtimes.page(), "run `python -m planner.engines.runtimes`"


def cells(row: str) -> dict[str, str]:
    """A row of the table, by column."""
    (line,) = [line for line in runtimes.page().splitlines() if line.startswith(f"| {row}")]
    return dict(zip(runtimes.COLUMNS, (cell.strip() for cell in line.split(" | ")[1:]), strict=True))


def test_an_option_that_a_runtime_has_not_is_told_with_the_reason() -> None:
    answers = cells("weights streamed from S3")
    assert answers["Deployment, vLLM"] == "yes"
    assert answers["RayService, vLLM"].startswith("no: Ray Serve")


@pytest.mark.parametrize("row", ["running requests end by", "a rollout", "liveness probe", "root file system"])
def test_every_runtime_has_its_word(row: str) -> None:
    assert all(cells(row).values())
    assert not {"none", "not at all"} & set(cells(row).values())


def test_a_check_finds_an_old_page(tmp_path, monkeypatch) -> None:
    old = tmp_path / "runtimes.md"
    old.write_text("old", encoding="utf-8")
    monkeypatch.setattr(runtimes, "PAGE", old)
    assert runtimes.main(["--check"]) == 1
    assert runtimes.main([]) == 0
    assert runtimes.main(["--check"]) == 0
