"""Runs export_csv.py with other constants: run_with_constants.py '{"NAME": value}' ARGUMENT...

Tests use it to shorten time limits of minutes to less than a second. The script itself is
unchanged.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path


def import_script() -> None:
    """Import the script with the same setup as when it is run directly."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.dont_write_bytecode = True  # no __pycache__ next to the script
    warnings.simplefilter("ignore")
    import export_csv  # noqa: F401


def run(constants: Mapping[str, object]) -> None:
    """Run the script with sys.argv and these constants, then exit the process."""
    import export_csv

    for name, value in constants.items():
        if not hasattr(export_csv, name):
            raise SystemExit(f"export_csv.py has no constant {name}")
        setattr(export_csv, name, value)
    export_csv.run_and_exit()


if __name__ == "__main__":
    import_script()
    run(json.loads(sys.argv.pop(1)))
