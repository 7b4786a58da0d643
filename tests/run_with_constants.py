"""Runs export_csv.py with other constants: run_with_constants.py '{"NAME": value}' ARGUMENT...

Tests use it to wait out a time limit of minutes within a second. The script itself stays as it is.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
warnings.simplefilter("ignore")  # as the script does when it is run by itself

import export_csv  # noqa: E402 - its folder has to be on the path first

constants = json.loads(sys.argv.pop(1))
for name, value in constants.items():
    if not hasattr(export_csv, name):
        raise SystemExit(f"export_csv.py has no constant {name}")
    setattr(export_csv, name, value)
export_csv.run_and_exit()
