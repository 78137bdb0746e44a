"""The table of cases: complete, and the one that the tests of this directory make."""

from pathlib import Path

import pytest

from s2lite import __version__
from tests.conformance.case_table import (
    FAILS,
    NOT_RUN,
    PASSES,
    TABLE,
    Recorder,
    Results,
    marked_tests,
    render,
    without_results,
)
from tests.conformance.cases import DATA_PLANE, KNOWN, NOT_TESTED

REMEDY = "run scripts/conformance-table"


def test_every_case_has_a_test_or_a_reason_for_having_none() -> None:
    tests = set(marked_tests())
    assert tests <= set(KNOWN)
    assert set(NOT_TESTED) == set(KNOWN) - tests


def test_the_cases_of_the_data_plane_are_numbered_without_gaps() -> None:
    numbers = [number for section in DATA_PLANE.values() for number in section]
    assert numbers == list(range(1, 181))


def test_the_table_is_that_of_these_tests() -> None:
    table = TABLE.read_text()
    assert without_results(table) == without_results(render(marked_tests(), Results())), REMEDY
    assert f"version {__version__}" in table, REMEDY


def test_no_case_in_the_table_fails() -> None:
    table = TABLE.read_text()
    rows = [line for line in table.splitlines() if "".join(line.split(" ")[1:2]) in KNOWN]
    assert len(rows) == len(KNOWN)
    assert [row for row in rows if FAILS in row or row.endswith(f"{NOT_RUN} |")] == []


def test_a_test_that_fails_once_fails() -> None:
    recorder = Recorder()
    for when, outcome, parameters in (
        ("call", "passed", "[http1]"),
        ("call", "failed", "[http2]"),
        ("call", "passed", "[http3]"),
        ("teardown", "passed", "[http3]"),
    ):
        report = pytest.TestReport(
            f"tests/conformance/test_x.py::test_y{parameters}",
            (str(Path(__file__)), 1, "test_y"),
            {},
            outcome,  # type: ignore[arg-type]  # one of those it may be
            None,
            when,  # type: ignore[arg-type]  # as above
        )
        recorder.pytest_runtest_logreport(report)
    recorder.results.note("test_x::test_z", PASSES)
    assert recorder.results.of(["test_x::test_y", "test_x::test_z"]) == FAILS
    assert recorder.results.of(["test_x::test_z"]) == PASSES
    assert recorder.results.of(["test_x::test_z", "test_x::missing"]) == NOT_RUN
