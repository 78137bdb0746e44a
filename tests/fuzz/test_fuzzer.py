"""A short run of the fuzzer, and proof that it finds what it is for."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fuzzing.__main__ import TARGETS, plan
from scripts.fuzzing.mutation import Mutator
from scripts.fuzzing.runner import FailedCase, rng_of, run
from scripts.fuzzing.target import Target, expect

PROJECT = Path(__file__).parents[2]
SEED = 2026


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as its users do."""
    command = [sys.executable, str(PROJECT / "scripts" / "fuzz"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_no_decoder_fails_on_damaged_input() -> None:
    result = fuzz("--count", "4000", "--seed", str(SEED))
    assert result.returncode == 0, result.stdout
    for name in TARGETS:
        assert f"\n{name} " in f"\n{result.stdout}"


def test_every_seed_is_handled_undamaged() -> None:
    class Undamaged(Mutator):
        def damaged(self, data: bytes | None = None) -> bytes:
            return self.seed() if data is None else data

    for target in TARGETS.values():
        if target.name != "requests":
            seeds = target.seeds()
            for case in range(3 * len(seeds)):
                target.check(Undamaged(rng_of(target.name, SEED, case), seeds))


def test_the_same_case_makes_the_same_damage() -> None:
    seeds = [b"some bytes", b"and some others"]

    def damage(case: int) -> list[bytes]:
        mutator = Mutator(rng_of("any", SEED, case), seeds)
        return [mutator.damaged() for _ in range(20)]

    assert damage(1) == damage(1) != damage(2)


def _raise_on_nul(mutator: Mutator) -> None:
    if b"\0" in mutator.damaged():
        raise KeyError("a defect")


def _believe(mutator: Mutator) -> None:
    expect(mutator.damaged() == b"seed", "it is whole")


def _hang(mutator: Mutator) -> None:
    while mutator.seed():
        pass


def _hoard(mutator: Mutator) -> None:
    size = 1 + sum(mutator.damaged()) * 2**21
    assert len(bytearray(b"x") * size) == size


def _run(check: object) -> FailedCase | None:
    target = Target("planted", "a defect", lambda: [b"seed"], check)  # type: ignore[arg-type]  # a check
    return run(target, SEED, 0, 500, lambda _: None)


def test_an_undeclared_exception_is_found() -> None:
    failed = _run(_raise_on_nul)
    assert failed is not None
    assert "KeyError: 'a defect'" in failed.what
    assert failed.reproduction.endswith(f"--seed {SEED} --first {failed.case} --count 1")


def test_what_is_taken_for_whole_and_is_not_is_found() -> None:
    failed = _run(_believe)
    assert failed is not None
    assert "Failure: it is whole" in failed.what


def test_the_plan_covers_every_case_once() -> None:
    for jobs in (1, 3):
        planned = plan(TARGETS.values(), 10_000, SEED, 100, jobs)
        for name, target in TARGETS.items():
            cases = [
                case
                for job in planned
                if job.target == name
                for case in range(job.first, job.first + job.cases)
            ]
            assert sorted(cases) == list(range(100, 100 + len(cases)))
            assert len(cases) * target.inputs >= 500 * target.weight


@pytest.mark.slow
@pytest.mark.parametrize("check", [_hang, _hoard])
def test_what_takes_too_much_is_found(check: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.fuzzing.runner.CASE_CPU_SECONDS", 0.3)
    failed = _run(check)
    assert failed is not None
    assert "it took" in failed.what
