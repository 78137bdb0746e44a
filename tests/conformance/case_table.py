"""Makes docs/conformance.md: every conformance case, the tests that show it, and how they went.

`scripts/conformance-table` runs the tests that are marked with a case and writes the table from
what came of it. It says nothing of when or how fast, so that the same results make the same file.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

import attrs
import pytest

from s2lite import __version__
from tests.conformance.cases import KNOWN, NOT_TESTED, PLANES

DIRECTORY: Final = Path(__file__).parent
TABLE: Final = DIRECTORY.parents[1] / "docs" / "conformance.md"

PASSES: Final = "passes"
FAILS: Final = "**fails**"
NOT_RUN: Final = "not run"
NOT_TESTED_YET: Final = "not tested"

INTRODUCTION: Final = """\
# Conformance

What the official clients and the published API ask of a server, case by case, and the test that
shows it: against a real server process, by raw HTTP/1.1 and HTTP/2, and with the official client.
Made by `scripts/conformance-table` from a run of these tests on version {version}, and not by hand.

`DP` are cases of the data plane: records, sessions, tails. Tests are in `tests/conformance/` and
name their cases with the marker `case`; `tests/conformance/cases.py` has the list.
"""

_ROWS: Final = tuple(f"| {plane}" for plane in PLANES)

Tests = Mapping[str, list[str]]
"""By case, the tests that are marked with it, as `module::function`."""


@attrs.frozen
class Results:
    """What a run says of each test, whatever its parameters were."""

    outcomes: dict[str, str] = attrs.field(factory=dict)

    def note(self, test: str, outcome: str) -> None:
        """A test passed, failed or was skipped; the worst of its parameters counts."""
        if self.outcomes.get(test) != FAILS:
            self.outcomes[test] = outcome

    def of(self, tests: list[str]) -> str:
        """What the tests of a case come to."""
        outcomes = {self.outcomes.get(test, NOT_RUN) for test in tests}
        return next(each for each in (FAILS, NOT_RUN, PASSES) if each in outcomes)


def marked_tests() -> Tests:
    """Find the tests of every case without running any."""
    found: dict[str, list[str]] = {}
    for path in sorted(DIRECTORY.glob("test_*.py")):
        if "case(" not in path.read_text():
            continue  # what is imported here might be imported for nothing else
        module = importlib.import_module(f"tests.conformance.{path.stem}")
        for test, numbers in _marked(module):
            for number in numbers:
                found.setdefault(number, []).append(f"{path.stem}::{test}")
    return found


def _marked(module: ModuleType) -> Iterator[tuple[str, set[str]]]:
    for name, value in vars(module).items():
        marks = getattr(value, "pytestmark", None)
        if name.startswith("test") and isinstance(marks, list):
            numbers: set[str] = set()
            for mark in marks:
                numbers |= set(_numbers(mark))
            yield name, numbers


def _numbers(mark: pytest.Mark) -> Iterator[str]:
    """The cases of a mark, and those of the parameters it stands for."""
    if mark.name == "case":
        yield from mark.args
    elif mark.name == "parametrize":
        for values in mark.args[1]:
            for inner in getattr(values, "marks", ()):
                yield from _numbers(getattr(inner, "mark", inner))


def render(tests: Tests, results: Results) -> str:
    """Write the table."""
    lines = [INTRODUCTION.format(version=__version__)]
    for plane, sections in PLANES.items():
        for title, section in sections.items():
            lines += [f"## {title}", "", "| case | what | tests | result |", "|---|---|---|---|"]
            for number, text in sorted(section.items()):
                lines.append(_row(f"{plane}{number}", text, tests, results))
            lines.append("")
    return "\n".join(lines)


def _row(number: str, text: str, tests: Tests, results: Results) -> str:
    mine = tests.get(number)
    if mine is None:
        reason = NOT_TESTED.get(number, "no test")
        return f"| {number} | {text} | | {NOT_TESTED_YET}: {reason} |"
    names = ", ".join(f"`{each}`" for each in mine)
    return f"| {number} | {text} | {names} | {results.of(mine)} |"


def without_results(table: str) -> str:
    """The table as it is before any test has run."""
    rows = []
    for line in table.splitlines():
        start, bar, result = line.removesuffix(" |").rpartition(" | ")
        ran = bar and line.startswith(_ROWS) and not result.startswith(NOT_TESTED_YET)
        rows.append(f"{start}{bar}{NOT_RUN} |" if ran else line)
    return "\n".join(rows)


class Recorder:
    """A pytest plugin that keeps the tests with a case, and notes how they go."""

    def __init__(self) -> None:
        self.results = Results()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what shows no case."""
        kept = [item for item in items if item.get_closest_marker("case")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A set-up, a call or a tear-down has ended."""
        path, _, name = report.nodeid.partition("::")
        test = f"{Path(path).stem}::{name.partition('[')[0]}"
        if report.failed:
            self.results.note(test, FAILS)
        elif report.when == "call":
            self.results.note(test, PASSES if report.passed else NOT_RUN)


def main(arguments: list[str]) -> int:
    """Run the tests and write the table; returns pytest's exit status."""
    recorder = Recorder()
    status = pytest.main([str(DIRECTORY), "-q", *arguments], plugins=[recorder])
    tests = marked_tests()
    TABLE.write_text(render(tests, recorder.results))
    shown = sum(recorder.results.of(tests[number]) == PASSES for number in KNOWN if number in tests)
    print(f"{TABLE}: {shown} of {len(KNOWN)} cases pass")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
