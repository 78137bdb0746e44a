"""Results of all rounds, as a table for people and as JSON."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from scripts.benchmark.drivers import Figure
from scripts.benchmark.machine import CpuTimes


@attrs.frozen
class Result:
    """What one round of one case gave on one target."""

    case: str
    target: str
    figures: Sequence[Figure]
    cpu: CpuTimes


@attrs.frozen
class _Summary:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Summary":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.low)}-{_number(self.high)})"


@attrs.frozen
class Report:
    """All results, in the order they came."""

    facts: Mapping[str, str]
    targets: Sequence[str]
    descriptions: Mapping[str, str]
    results: Sequence[Result]

    def table(self) -> str:
        """Make a Markdown table: a row per figure, a column per target, ratios to the first."""
        ratios = [f"{name} / {self.targets[0]}" for name in self.targets[1:]]
        head = ["case", "figure", *self.targets, *ratios]
        rows = [row for case in self._cases() for row in self._rows(case)]
        return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)])

    def costs(self) -> str:
        """Make a Markdown table of the processors used: by server, client and everybody else."""
        head = ["case", *self.targets]
        rows = [
            [case, *(self._cost(case, target) for target in self.targets)] for case in self._cases()
        ]
        return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)])

    def write_json(self, path: Path) -> None:
        """Write everything, each round by itself."""
        data = {
            "facts": dict(self.facts),
            "cases": dict(self.descriptions),
            "results": [attrs.asdict(result) for result in self.results],
        }
        path.write_text(json.dumps(data, indent=1) + "\n")

    def _cases(self) -> Iterable[str]:
        return dict.fromkeys(result.case for result in self.results)

    def _of(self, case: str, target: str) -> list[Result]:
        return [r for r in self.results if (r.case, r.target) == (case, target)]

    def _rows(self, case: str) -> Iterable[list[str]]:
        figures = dict.fromkeys(
            (figure.name, figure.unit)
            for result in self.results
            if result.case == case
            for figure in result.figures
        )
        for index, (name, unit) in enumerate(figures):
            summaries = [self._summary(case, target, name) for target in self.targets]
            cells = ["-" if summary is None else str(summary) for summary in summaries]
            ratios = [_ratio(summary, summaries[0]) for summary in summaries[1:]]
            yield [
                "" if index else f"`{case}`",
                f"{name}, {unit}" if unit else name,
                *cells,
                *ratios,
            ]

    def _summary(self, case: str, target: str, name: str) -> _Summary | None:
        values = [
            figure.value
            for result in self._of(case, target)
            for figure in result.figures
            if figure.name == name
        ]
        return _Summary.of(values) if values else None

    def _cost(self, case: str, target: str) -> str:
        costs = [result.cpu for result in self._of(case, target)]
        parts = [
            _share([cost.server for cost in costs]),
            _share([cost.client for cost in costs]),
            _share([cost.others for cost in costs]),
        ]
        return " / ".join(parts)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(one: _Summary | None, other: _Summary | None) -> str:
    return "-" if one is None or other is None else f"{one.median / other.median:.2f}"


def _share(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) * 100:.0f}%" if known else "?"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
