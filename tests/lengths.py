"""Fails where export_csv.py outgrows what can be read: functions, and chapters between two ####."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "export_csv.py"
FUNCTION, CHAPTER = 50, 300  # lines at the most


def too_long(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > FUNCTION:
                yield f"{node.name} has {length} lines; {FUNCTION} are the most"
    title, start = "the head", 0
    lines = [*text.splitlines(), "#### "]
    for number, line in enumerate(lines):
        if line.startswith("#### "):
            if number - start > CHAPTER:
                yield f"{title!r} has {number - start} lines; {CHAPTER} are the most"
            title, start = line.removeprefix("#### "), number


found = list(too_long(SCRIPT.read_text("utf-8")))
for line in found:
    print(f"{SCRIPT.name}: {line}")
sys.exit(bool(found))
