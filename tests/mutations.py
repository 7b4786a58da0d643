"""Mutation testing: change export_csv.py in random places, one at a time, and run the tests.

python -m pip install -r tests/mutation-requirements.txt -c tests/constraints.txt
python tests/mutations.py 100 --seed 7
python tests/mutations.py 20 --only parse_mappings,find_newest

Print each change that no test detects: either a test is missing, or the change makes no difference.
Cosmic Ray makes the changes, in a copy of this repository. Testing a change takes a few seconds, or
as long as the whole test suite if no test detects it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "export_csv.py"
TIMEOUT = 600  # seconds; a change that makes the tests hang counts as detected
# These don't test export_csv.py.
EXCLUDED_TESTS = {"tests/test_setup.py", "tests/test_sandbox.py"}

# Operators whose changes make no difference: `a | b` is mostly in annotations, and equal short
# strings are mostly identical.
IGNORED_OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_BitOr_|.*_Eq_Is$|.*_NotEq_IsNot$)"
)

# The tests most likely to detect a change to each chapter. They run first to save time.
LIKELY_TESTS = {
    "Secrets and redaction": "redaction settings logs notices",
    "Intercom fields": "rows contacts settings",
    "Cell types": "cells rows cases",
    "Ids": "cells rows cases",
    "Settings": "settings check",
    "Reading config.ini": "settings check",
    "Finding the input file": "files s3",
    "Reading CSV": "csv_reader rows cases reject_file",
    "Mapping rows to users": "rows cells contacts",
    "Evidence about columns": "columns preflight cases",
    "Preflight": "preflight cases rows",
    "HTTP": "http_client responses interruption notices",
    "Intercom API": "responses contacts check",
    "Sync state": "state contacts",
    "Logging and notices": "logs notices redaction",
    "Progress": "logs command_line",
    "Row counts and reject file": "reject_file interruption responses",
    "Sending": "sending concurrency rate_limit responses interruption state",
    "Summary": "notices logs reject_file",
    "Running an import": "interruption command_line reject_file",
    "--dry-run and --check": "check dry_run settings contacts",
    "Command line": "command_line interruption",
}


def find_mutations(database_path: Path) -> list[MutationSpec]:
    """Return every change that Cosmic Ray can make to the script in the current folder."""
    with use_db(str(database_path)) as database:
        init([Path(SCRIPT)], database, {})
        mutations = [item.mutations[0] for item in database.work_items]
    return [it for it in mutations if not IGNORED_OPERATORS.match(it.operator_name)]


def choose_mutations(
    mutations: Iterable[MutationSpec], count: int, seed: int
) -> list[MutationSpec]:
    """Choose `count` places at random, and one of the possible changes at each."""
    by_place = defaultdict(list)
    for mutation in mutations:
        by_place[mutation.start_pos].append(mutation)
    count = min(count, len(by_place))
    generator = random.Random(seed)
    chosen = []
    for place in generator.sample(sorted(by_place), count):
        candidates = sorted(by_place[place], key=lambda it: str(it.operator_name))
        chosen.append(generator.choice(candidates))
    return chosen


def find_chapter(line_number: int) -> str:
    """Return the title of the chapter that the line is in."""
    title = ""
    lines = Path(SCRIPT).read_text("utf-8").splitlines()
    for line in lines[:line_number]:
        if line.startswith("#### "):
            title = line.removeprefix("#### ")
    return title


def make_test_command(chapter: str) -> str:
    """Return the command that runs the tests, the most likely ones first."""
    files = [f"tests/test_{name}.py" for name in LIKELY_TESTS.get(chapter, "").split()]
    files = [file for file in files if Path(file).exists()]
    others = {str(path) for path in Path("tests").glob("test_*.py")} - {
        *EXCLUDED_TESTS,
        *files,
    }
    files += sorted(others)
    return f"{sys.executable} -m pytest -c tests/pytest.ini -x -n 2 {' '.join(files)}"


def try_mutations(mutations: list[MutationSpec]) -> None:
    """Run the tests with each of the changes and print those that no test detects."""
    survivors = 0
    for number, mutation in enumerate(mutations, start=1):
        command = make_test_command(find_chapter(mutation.start_pos[0]))
        result = mutate_and_test([mutation], command, TIMEOUT)
        print(f"{number}/{len(mutations)}", file=sys.stderr)
        if not result.is_killed:
            survivors += 1
            print(f"\n{mutation.definition_name}\n{result.diff}", flush=True)
    print(f"{len(mutations) - survivors} of {len(mutations)} changes were detected")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", nargs="?", type=int, default=100, help="default: 100")
    parser.add_argument(
        "--seed", type=int, default=0, help="a different seed chooses different changes"
    )
    parser.add_argument(
        "--only", metavar="NAME,NAME", help="change only these functions"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy = shutil.copytree(
            ROOT, folder / "copy", ignore=shutil.ignore_patterns(".*")
        )
        os.chdir(copy)
        outcome, output = run_tests(make_test_command(""), TIMEOUT)
        if outcome != TestOutcome.SURVIVED:
            sys.exit(f"{output}\nThe tests fail without any change; fix that first.")
        mutations = find_mutations(folder / "mutations.sqlite")
        if arguments.only:
            names = arguments.only.split(",")
            mutations = [it for it in mutations if it.definition_name in names]
        try_mutations(choose_mutations(mutations, arguments.count, arguments.seed))
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
