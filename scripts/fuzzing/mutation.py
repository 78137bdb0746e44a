"""Damaging bytes: at random, but where it hurts.

Everything is drawn from a `random.Random`, so that the same one makes the same damage.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

MAX_BYTES: Final = 3 * 1024 * 1024
"""Nothing grows beyond this: a little more than the largest body that is accepted."""

_NUMBERS: Final = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1,
                   2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**65, 10**30)  # fmt: skip
_TOKENS: Final = (
    b"", b"\x00", b"\xff", b"\x80", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    "\N{GRINNING FACE}".encode(), "\u202e".encode(), b"%", b"%00", b"%2f", b"%ff", b"%c0%af",
    b"../", b"/", b"//", b"?", b"&", b"=", b";", b",", b"+", b"\r\n", b"\n\n", b" ", b"\t",
    b"null", b"true", b"{}", b"[]", b'""', b"NaN", b"Infinity", b"-1", b"-0", b"1e400", b"1.5",
    b"0x10", b"\\ud800", b"\\u0000", b'"', b"\\", b"[" * 20, b'{"a":' * 20, b"}", b"]",
    b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x00", b"S2LT",
)  # fmt: skip


def varint(number: int) -> bytes:
    """Write a number as protobuf does."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Mutator:
    """Damages copies of seeds, and splices seeds into one another."""

    def __init__(self, rng: random.Random, seeds: Sequence[bytes]) -> None:
        self.rng = rng
        self.seeds = seeds
        self._ways: Sequence[Callable[[bytes], bytes]] = (
            self._flip, self._flip, self._set, self._truncate, self._delete, self._duplicate,
            self._splice, self._insert_token, self._insert_token, self._overwrite_number,
            self._change_digits, self._change_digits, self._insert_noise, self._swap,
        )  # fmt: skip

    def seed(self) -> bytes:
        """One of the seeds as it is."""
        return self.rng.choice(self.seeds)

    def damaged(self, data: bytes | None = None) -> bytes:
        """Damage some bytes, or a seed, in one place or in a few; one in twenty not at all."""
        data = self.seed() if data is None else data
        rng = self.rng
        if rng.random() < 0.05:
            return data
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 10))):
            data = rng.choice(self._ways)(data)
        if rng.random() < 0.001:
            data = self._blow_up(data)
        return data[:MAX_BYTES]

    def chunks(self, data: bytes) -> list[bytes]:
        """Cut bytes at random, into few pieces or into many."""
        rng = self.rng
        cuts = rng.choice((0, 0, 1, 3, min(len(data), 40)))
        places = sorted(rng.randrange(len(data) + 1) for _ in range(cuts))
        return [
            data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)
        ]

    def number(self) -> int:
        """A number at an edge, or next to one, or any."""
        near = self.rng.choice(_NUMBERS) + self.rng.choice((-1, 0, 0, 0, 1))
        return max(0, near) if self.rng.random() < 0.9 else self.rng.getrandbits(64)

    def token(self) -> bytes:
        """A short text that some parser stumbles over."""
        return self.rng.choice(_TOKENS)

    # --- the ways -------------------------------------------------------------------------

    def _place(self, data: bytes) -> int:
        """A place in the bytes, often one near the start, where the heads are."""
        if not data:
            return 0
        size = min(len(data), 32) if self.rng.random() < 0.4 else len(data)
        return self.rng.randrange(size)

    def _range(self, data: bytes) -> tuple[int, int]:
        start = self._place(data)
        return start, start + self.rng.choice((1, 1, 2, 4, 8, 30, 300, 10_000))

    def _flip(self, data: bytes) -> bytes:
        place = self._place(data)
        flipped = bytes([byte ^ 1 << self.rng.randrange(8) for byte in data[place : place + 1]])
        return data[:place] + flipped + data[place + 1 :]

    def _set(self, data: bytes) -> bytes:
        place = self._place(data)
        byte = self.rng.choice((0, 1, 0x7F, 0x80, 0xFF, self.rng.randrange(256)))
        return data[:place] + bytes([byte]) + data[place + 1 :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)] if self.rng.random() < 0.5 else data[self._place(data) :]

    def _delete(self, data: bytes) -> bytes:
        start, end = self._range(data)
        return data[:start] + data[end:]

    def _duplicate(self, data: bytes) -> bytes:
        start, end = self._range(data)
        times = self.rng.choice((1, 1, 1, 2, 10))
        return data[:end] + data[start:end] * times + data[end:]

    def _splice(self, data: bytes) -> bytes:
        other = self.seed()
        start, end = self._range(other)
        place = self._place(data)
        keep = self.rng.choice((0, end - start))
        return data[:place] + other[start:end] + data[place + keep :]

    def _insert_token(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self.token() + data[place + self.rng.choice((0, 0, 1, 4)) :]

    def _overwrite_number(self, data: bytes) -> bytes:
        place, number = self._place(data), self.number()
        size = self.rng.choice((1, 2, 3, 4, 8))
        order = "big" if self.rng.random() < 0.7 else "little"
        plain = (number % 2 ** (8 * size)).to_bytes(size, order)
        written = self.rng.choice((plain, varint(number)))
        return data[:place] + written + data[place + len(written) :]

    def _change_digits(self, data: bytes) -> bytes:
        """Replace a number that is written in decimal digits."""
        digits = [index for index, byte in enumerate(data[:4096]) if 0x30 <= byte <= 0x39]
        if not digits:
            return self._set(data)
        start = end = self.rng.choice(digits)
        while end < len(data) and 0x30 <= data[end] <= 0x39:
            end += 1
        number = str(self.number()).encode() * self.rng.choice((1, 1, 1, 1, 1, 1, 1, 300))
        return data[:start] + number + data[end:]

    def _insert_noise(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self.rng.randbytes(self.rng.choice((1, 2, 8, 64))) + data[place:]

    def _swap(self, data: bytes) -> bytes:
        start, end = self._range(data)
        size = end - start
        return data[:start] + data[end : end + size] + data[start:end] + data[end + size :]

    def _blow_up(self, data: bytes) -> bytes:
        """Repeat a short piece of it until it is as large as what comes in may be."""
        start = self._place(data)
        piece = data[start : start + self.rng.randint(1, 64)] or b"["
        size = self.rng.choice((10_000, 100_000, 2 * 1024 * 1024, MAX_BYTES))
        return data[:start] + piece * (size // len(piece)) + data[start:]
