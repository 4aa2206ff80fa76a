"""Figures that papers, engines and people have printed, recomputed to the printed digit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from published import PAGE, Row, computed, model_of, page, prints_as, rows

REPRODUCED, UNEXPLAINED = rows("reproduced"), rows("unexplained")


@pytest.mark.parametrize("row", REPRODUCED, ids=lambda row: row["id"])
def test_figure_is_reproduced(row: Row) -> None:
    """The computed value, rounded to the decimals that were printed, is the printed value."""
    value = computed(row)
    assert prints_as(value, row["reported"]), f"{row['what']}: computed {float(value)}, printed {row['reported']}"


@pytest.mark.parametrize("row", [row for row in UNEXPLAINED if "how" in row], ids=lambda row: row["id"])
def test_unexplained_figure_stays_unexplained(row: Row) -> None:
    """A figure listed as not explained by the plain formula really differs from it."""
    assert not prints_as(computed(row), row["reported"])


def test_enough_figures() -> None:
    """At least 60 figures are reproduced, from at least 20 pages and 40 models; each row is complete and unique."""
    assert len(REPRODUCED) >= 60
    assert len({row["url"] for row in REPRODUCED}) >= 20
    assert len({row["name"] for row in REPRODUCED}) >= 40
    ids = [row["id"] for row in (*REPRODUCED, *UNEXPLAINED)]
    assert sorted(ids) == sorted(set(ids))
    for row in REPRODUCED:
        assert {"id", "url", "where", "name", "model", "what", "reported", "unit", "how"} <= set(row)
        assert row["url"].startswith("https://")
        assert type(row["reported"]) is str
    for row in UNEXPLAINED:
        assert row["reason"]


@pytest.mark.parametrize("row", REPRODUCED, ids=lambda row: row["id"])
def test_shapes_have_a_source(row: Row) -> None:
    """A model is a shipped one, or its shape is written out with the place where it was read."""
    assert isinstance(row["model"], str) or row["shape_source"]
    assert model_of(row["model"]).layers


@pytest.mark.parametrize(
    ("value", "printed", "expected"),
    [("15.625", "15.62", True), ("15.625", "15.63", True), ("15.6251", "15.62", False), ("15.6149", "15.62", False),
     ("4", "4", True), ("4.4", "4", True), ("4.6", "4", False), ("1166.625", "1166.62", True), ("0.995", "0.99", True)],
)  # fmt: skip
def test_rounding_is_exact(value: str, printed: str, expected: bool) -> None:
    """Only a correct rounding passes, whichever way a tie was rounded."""
    assert prints_as(Fraction(value), printed) is expected


def test_page_agrees_with_the_data() -> None:
    """docs/published.md holds the tables of the data and nothing older."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run: python tests/golden/published.py"


@pytest.mark.parametrize(
    ("row_id", "said"),
    [("hf31-405b-128k", "61.5"), ("dsv2-reduction-equal", "82.2"), ("isca-ratio-405b", "7.34"),
     ("v4-report-pro", "11.5"),
     ("v4-report-flash", "8.0"), ("whichllm-124", "11.17")],
)  # fmt: skip
def test_conclusions_quote_the_computed_figures(row_id: str, said: str) -> None:
    """The numbers on the page of wrong claims are the recomputed ones."""
    row = next(row for row in UNEXPLAINED if row["id"] == row_id)
    assert prints_as(computed(row), said)
    assert said in PAGE.with_name("articles.md").read_text(encoding="utf-8")
