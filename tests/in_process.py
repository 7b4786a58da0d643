"""Reads CSV files in this process as a run does, for tests with many cases.

Starting a child process for each case would take too long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import IO, Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import export_csv
from export_csv import CellValue, make_converter

UTC = timezone.utc
# For property tests: on a busy machine, being slow is not an error.
NO_DEADLINE = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
DATETIMES = st.datetimes(datetime(1971, 1, 1), datetime(2199, 12, 31))
IDENTITY = {"user_id": "user_id"}
USER = {**IDENTITY, "email": "email", "name": "name"}


@dataclass
class Reading:
    """What a run would make of a file."""

    reason: str = ""  # why the run would stop before its first user
    users: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)  # reasons by line
    omitted: dict[int, list[str]] = field(default_factory=dict)  # cells by line
    omitted_text: str = ""  # the lines that report them
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # not shown with --quiet

    @property
    def is_silent(self) -> bool:
        """Whether every row is imported and --quiet prints nothing."""
        return not (self.reason or self.rejected or self.omitted_text or self.warnings)


def load_settings(**sections: Mapping[str, object]) -> export_csv.Settings:
    """Return the settings of a config.ini with these sections; it must be valid."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}" for key, value in keys.items()]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.ini")
        config.write_text("\n".join(lines) + "\n", "utf-8")
        arguments = export_csv.parse_arguments(["--config", str(config), "--dry-run"])
        settings, problems = export_csv.load_settings(config, arguments)
    assert not problems, problems
    return settings


def read(
    content: str | bytes, name: str = "users.csv", **sections: Mapping[str, object]
) -> Reading:
    """Read a file as a run with this config would.

    Only user_id is mapped, unless a `user` section is given.
    """
    loaded = load_settings(**{"user": IDENTITY, **sections})
    data = content if isinstance(content, bytes) else content.encode()
    with tempfile.TemporaryFile() as copy:
        copy.write(data)
        copy.flush()
        file = export_csv.InputFile(
            name, name, cast(IO[bytes], copy), datetime.now(UTC)
        )
        try:
            report = export_csv.Preflight(file, loaded, lambda: False).run(
                is_from_command_line=True
            )
        except export_csv.RunAborted as error:
            return Reading(str(error))
        reading = Reading(report.reason, warnings=report.warnings, notes=report.notes)
        reading.omitted_text = "\n".join(report.omitted_lines())
        if not report.reason:
            read_rows(reading, file, loaded, report.table.accepted_width)
    return reading


def read_rows(
    reading: Reading,
    file: export_csv.InputFile,
    settings: export_csv.Settings,
    accepted_width: int,
) -> None:
    """Add the outcome of each row."""
    table = export_csv.open_csv(file, settings)
    table.accepted_width = accepted_width
    for row in table.rows():
        try:
            mapped = export_csv.map_row(row, table)
        except export_csv.RowRejected as rejection:
            reading.rejected[row.line] = str(rejection)
            continue
        reading.users.append(mapped.user)
        if mapped.omitted:
            reading.omitted[row.line] = [cell.cell for cell in mapped.omitted]


def convert(
    cell: str,
    type_name: str,
    date_format: str = "",
    decimal: str = ".",
    zone: tzinfo = UTC,
    is_activity_time: bool = False,
) -> CellValue:
    """Convert one cell to a type; raise ValueError with the reason if it isn't of that type."""
    converter = make_converter(
        type_name,
        decimal=decimal,
        timezone=zone,
        date_format=date_format,
        is_activity_time=is_activity_time,
    )
    return converter(cell)
