from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import actors

README = Path(actors.__file__).with_name("README.md")


@pytest.mark.slow
def test_the_example_in_the_readme_prints_what_the_readme_says() -> None:
    text = README.read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (output,) = re.findall(r"It prints:\n\n```\n(.*?)```", text, re.DOTALL)
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=README.parent.parent,
        check=False,
    )
    assert (finished.stdout, finished.stderr) == (output, "")


def test_every_name_in_the_table_of_the_readme_is_public() -> None:
    table = re.findall(r"^\| `.*$", README.read_text(), re.MULTILINE)
    names = {
        name
        for row in table
        for name in re.findall(r"`([A-Za-z_]+)", row.split("|")[1])
        if name != "actors"
    }
    assert names
    assert names <= set(actors.__all__)
