"""What there is to be fuzzed, and what it means to fail."""

from collections.abc import Callable
from typing import Protocol

import attrs

from scripts.fuzzing.mutation import Mutator


class Failure(AssertionError):
    """A decoder that did not refuse its input took it for something it is not."""


def expect(condition: bool, text: str) -> None:
    """Fail unless the condition holds."""
    if not condition:
        raise Failure(text)


class Check(Protocol):
    """Feeds one input, which it makes with the mutator, and raises whatever is wrong."""

    def __call__(self, mutator: Mutator) -> None:
        """Raise anything for an input that was handled in a way nobody declared."""


@attrs.frozen
class Target:
    """Some decoders, and valid input for them to start from.

    A check makes `inputs` inputs. `weight` is the target's share of the inputs of a whole run.
    """

    name: str
    about: str
    seeds: Callable[[], list[bytes]]
    check: Check
    inputs: int = 1
    weight: float = 1.0
