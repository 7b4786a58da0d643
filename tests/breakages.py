"""Breaks export_csv.py in random places, one at a time, and shows what no test finds."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "export_csv.py").read_bytes()  # bytes, as ast counts them
STARTS = [0, *(match.end() for match in re.finditer(b"\n", SOURCE))]
LIKELY = {  # by chapter, the tests to be tried first
    "What may be|Telling|The end": "logs notices answers settings interruption cases",
    "What was sent|Intercom's": "state contacts settings rows",
    "What a|Rows|Reading the file|Looking": "first_reading rows cases cells not_imported state",
    "What can|Reading the settings|The run|A dry|The com": "settings command_line first_reading",
    "Finding": "files s3 first_reading",
    "Talking|Sending|What becomes": "answers contacts not_imported concurrency rate_limit state",
}
OTHERS = {"<": "<=", ">": ">=", "==": "!=", "in": "not in", "is": "is not", "and": "or", "+": "-"}
OTHERS |= {"+=": "-=", "|": "&", "min": "max", "any": "all", "startswith": "endswith"}
OTHERS |= {right: left for left, right in OTHERS.items()}
STATEMENTS = (ast.Assign, ast.Raise, ast.Return, ast.Continue, ast.Break, ast.Delete)
Change = tuple[int, int, str]  # a span of the source, and what is to stand there


def instead(node: Any, *texts: object) -> list[Change]:
    start = STARTS[node.lineno - 1] + node.col_offset
    end = STARTS[node.end_lineno - 1] + node.end_col_offset
    return [(start, end, str(text)) for text in texts]


def other_operators(*operands: ast.AST) -> Iterator[Change]:
    for left, right in pairwise(operands):
        start, end = instead(left, "")[0][1], instead(right, "")[0][0]
        if found := re.search(rb"(not |is )?[^\s()]+", SOURCE[start:end]):
            other = OTHERS.get(found[0].decode(), "-")
            yield start + found.start(), start + found.end(), other


def other_constants(node: ast.Constant) -> list[Change]:
    value: Any = node.value
    if isinstance(value, int | float):
        return instead(node, *[not value] if isinstance(value, bool) else [value - 1, value + 1])
    return [] if not value or re.search(r"\w,? \w", str(value)) else instead(node, repr(value[:0]))


def part(node: ast.AST, pattern: str, other: str = "") -> Iterator[Change]:
    """What the pattern finds of the node's text, as something else."""
    for start, end, _ in instead(node, ""):
        for found in re.finditer(pattern.encode(), SOURCE[start:end]):
            yield start + found.start(), start + found.end(), other


WAYS: dict[type[ast.AST], Callable[[Any], Iterable[Change]]] = {
    ast.Compare: lambda it: other_operators(it.left, *it.comparators),
    ast.BoolOp: lambda it: other_operators(*it.values),
    ast.BinOp: lambda it: other_operators(it.left, it.right),
    ast.UnaryOp: lambda it: part(it, r"\Anot "),
    ast.Constant: other_constants,
    ast.Name: lambda it: part(it, rf"\A{it.id}\Z", OTHERS[it.id]) if it.id in OTHERS else [],
    ast.Attribute: lambda it: part(it, r"(?<=\.)startswith\Z", "endswith"),
    ast.Call: lambda it: part(it, r"\.\w+\(\)\Z"),
    ast.keyword: lambda it: instead(it, "**{}"),
    ast.comprehension: lambda it: [change for test in it.ifs for change in instead(test, "True")],
    ast.Expr: lambda it: [] if isinstance(it.value, ast.Constant) else instead(it, "pass"),
    ast.AugAssign: lambda it: [*instead(it, "pass"), *other_operators(it.target, it.value)],
    **dict.fromkeys((ast.If, ast.IfExp, ast.While), lambda it: instead(it.test, "True", "False")),
    **dict.fromkeys(STATEMENTS, lambda it: instead(it, "pass")),
}


def breakages(node: ast.AST, where: str = "") -> Iterator[tuple[str, Change]]:
    """Each function and what may be changed in it, wording and annotations aside."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".strip(".")
        node.decorator_list = []
    yield from ((where, change) for change in WAYS.get(type(node), lambda _: ())(node))
    for child in ast.iter_child_nodes(node):
        # Before Python 3.12, what stands in an f-string has no place of its own.
        annotations = getattr(node, "annotation", None), getattr(node, "returns", None)
        if child not in annotations and not isinstance(child, ast.JoinedStr):
            yield from breakages(child, where)


def tests_for(place: int) -> list[str]:
    """The files of tests, those first that are the likeliest to see what is broken there."""
    chapter = re.findall(rb"(?m)^#### (.+)|\A", SOURCE[:place])[-1].decode()
    likely = " ".join(LIKELY[it] for it in LIKELY if re.match(it, chapter)).split()
    names = {path.stem.removeprefix("test_") for path in ROOT.glob("tests/test_*.py")}
    return [*likely, *sorted(names - {*likely, "setup", "sandbox"})]


def is_found(source: bytes, tests: list[str]) -> bool:
    """Whether one of the tests fails, or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(ROOT, f"{folder}/copy", ignore=shutil.ignore_patterns(".*"))
        Path(copy, "export_csv.py").write_bytes(source)
        how: Any = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        how |= {"cwd": copy, "env": os.environ | {"TMPDIR": folder}, "start_new_session": True}
        for name in tests:
            command = f"-m pytest -c tests/pytest.ini -x -n 2 tests/test_{name}.py".split()
            process = subprocess.Popen([sys.executable, *command], **how)
            try:
                if process.wait(300):
                    return True
            except subprocess.TimeoutExpired:
                return True
            finally:
                with process, contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100, help="breakages (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=".*", help="NAME,NAME: these functions or classes")
    given = parser.parse_args()
    is_wanted = re.compile(rf"({given.only.replace(',', '|')})(\..*)?").fullmatch
    every = [(where, it) for where, it in breakages(ast.parse(SOURCE)) if is_wanted(where)]
    chosen = random.Random(given.seed).sample(every, min(given.count, len(every)))
    survivors = 0
    for where, (start, end, text) in chosen:
        line_ends = b" \\\n" * SOURCE.count(b"\n", start, end)  # so that lines stay in place
        source = SOURCE[:start] + text.encode() + line_ends + SOURCE[end:]
        if not is_found(source, tests_for(start)):
            survivors += 1
            texts = SOURCE.decode().split("\n"), source.decode().split("\n")
            print(where, *[*unified_diff(*texts, n=0, lineterm="")][2:], sep="\n", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} were found")


if __name__ == "__main__":
    main()
