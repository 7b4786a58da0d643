"""Evidence from all cells of a column together: what stops a run, and what must not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import DATETIMES, NO_DEADLINE, UTC, convert

import export_csv
from export_csv import ColumnEvidence, FieldMapping, column_evidence, make_converter


@dataclass
class Judgement:
    """What a column's evidence says."""

    reason: str
    hint: str
    is_settled: bool
    cells_read: int


def mapping_for(configured: str, name: str = "x_at") -> FieldMapping:
    """Return the mapping for `name = The cell : configured`, with a dummy converter."""
    type_name, _, date_format = configured.partition(" ")
    if configured == "not boolean":
        type_name, date_format = configured, ""
    is_attribute = name == "x_at"
    return FieldMapping(name, "The cell", type_name, date_format, is_attribute, str)


def evidence_for(
    configured: str, name: str = "x_at", decimal: str = "."
) -> ColumnEvidence:
    return column_evidence(mapping_for(configured, name), decimal, UTC)


def evaluate(
    configured: str, cells: Iterable[str], name: str = "x_at", decimal: str = "."
) -> Judgement:
    """Feed a column's cells to its evidence, as the preflight does."""
    mapping = mapping_for(configured, name)
    converter = make_converter(
        mapping.type_name,
        decimal=decimal,
        timezone=UTC,
        date_format=mapping.date_format,
        is_activity_time=name in export_csv.ACTIVITY_FIELDS,
    )
    evidence = evidence_for(configured, name, decimal)
    cells_read = 0
    for line, cell in enumerate(cells, 2):
        try:
            value = converter(cell)
        except ValueError as error:
            evidence.add_invalid(line, cell, str(error))
            continue
        if not evidence.is_settled:
            evidence.add_valid(line, cell, value)
            cells_read += 1
    return Judgement(
        evidence.reason_to_stop(), evidence.hint(), evidence.is_settled, cells_read
    )


def days(
    date_format: str, count: int = 30, step: int = 9, first: date = date(2026, 1, 5)
) -> list[str]:
    return [
        (first + timedelta(days=step * n)).strftime(date_format) for n in range(count)
    ]


JANUARY = [f"{month:02}/{day:02}/2025" for month in (1, 2) for day in range(1, 13)]
US_DATES = days("%m/%d/%Y")

# configured type, cells, and what the message must contain
STOPS: dict[str, tuple[str, list[str], list[str]]] = {
    "month first": (
        "timestamp %d/%m/%Y", US_DATES,
        ["'The cell'", "01/14/2026 on line 3", "x_at = The cell : timestamp %m/%d/%Y"],
    ),
    "one of many": (
        "timestamp %d/%m/%Y", [*JANUARY * 9, "01/14/2025"],
        ["01/14/2025 on line 218", "timestamp %m/%d/%Y"],
    ),
    "with junk and placeholders": (
        "timestamp %d/%m/%Y", ["n/a", "0000-00-00", "soon", *US_DATES, "later", "00/00/0000"],
        ["01/14/2026 on line 6", "timestamp %m/%d/%Y"],
    ),
    "with times": (
        "timestamp %d/%m/%Y %H:%M", [f"{day} 10:1{n % 10}" for n, day in enumerate(US_DATES)],
        ["timestamp %m/%d/%Y %H:%M"],
    ),
    "short years": (
        "timestamp %m/%d/%y", days("%d/%m/%y"), ["timestamp %d/%m/%y"],
    ),
    "day before month in ISO": (
        "timestamp", ["2026-01-02", "2026-02-03", "2026-13-05", "2026-04-06"],
        ["2026-13-05 on line 4", "timestamp %Y-%d-%m"],
    ),
    "decimal comma": (
        "float", ["4,125", "3,750", "4,5", "5"],
        ["4,5 on line 4", "[csv] decimal = ,"],
    ),
    "decimal comma in integers": (
        "integer", ["4,125", "3,750", "4,5", "5"], ["4,5 on line 4", "decimal = ,", ": float"],
    ),
    "decimal comma late": (
        "float", [*map(str, range(12_000)), "4,5", "4,125", "3,750"], ["4,5", "decimal = ,"],
    ),
    "hours": (
        "timestamp", days("%Y%m%d08", step=1), ["2026010508 on line 2", "timestamp %Y%m%d%H"],
    ),
    "minutes": ("timestamp", days("%y%m%d0815", step=1), ["timestamp %y%m%d%H%M"]),
    "half swapped": (
        "timestamp %m-%d-%Y",
        [f"{n:02}-10-1983" for n in range(1, 13)] + [f"9/{n}/88" for n in range(13, 25)],
        ["01-10-1983", "line 2", "9/13/88", "line 14", "spreadsheet", "export"],
    ),
}  # fmt: skip
# These first rows contain both kinds of dates, and don't show whether the notation has leading
# zeros. Only the rows after them do.
MIXED_START = ["25/10/1983", "10/11/1983"]
HALF_SWAPPED = [
    text
    for month in range(1, 13)
    for text in (f"{month}/7/1983", f"{month + 12:02}/09/1983")
]


STOPS["half swapped, after a mixed start"] = (
    "timestamp %d/%m/%Y", [*MIXED_START, *HALF_SWAPPED], ["1/7/1983", "13/09/1983"],
)  # fmt: skip
STOPS["half swapped, the same dates again"] = (
    "timestamp %m-%d-%Y", ["07-10-1983", "08-10-1983", "9/19/88", "9/20/88"] * 5,
    ["07-10-1983 on line 2", "9/19/88 on line 4"],
)  # fmt: skip
STOPS["year first with two digits"] = (
    "timestamp %d/%m/%y", ["85/03/12", "26/03/12", "31/12/11", "05/06/07"],
    ["85/03/12 on line 2", "timestamp %y/%m/%d"],
)  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_a_column_that_would_be_misread_stops_the_run(case: str) -> None:
    configured, cells, words = STOPS[case]
    reason = evaluate(configured, cells).reason
    for word in words:
        assert word in reason
    assert len(reason.splitlines()) == 1


@pytest.mark.parametrize(
    "configured", ["timestamp", "timestamp %d/%m/%Y", "timestamp %m/%d/%Y"]
)
def test_no_format_is_suggested_for_dates_that_a_spreadsheet_has_half_swapped(
    configured: str,
) -> None:
    reason = evaluate(configured, HALF_SWAPPED).reason
    assert "export the file again" in reason
    assert "set " not in reason


# Written by spreadsheets, databases and services: an example, and the format to suggest.
NOTATIONS = {
    "May 4, 2023, 10:11 AM": "%b %d, %Y, %I:%M %p",
    "5/14/2023, 10:11:12 AM": "%m/%d/%Y, %I:%M:%S %p",
    "14.5.2023, 10:11:12": "%d.%m.%Y, %H:%M:%S", "14/05/2023 10:11": "%d/%m/%Y %H:%M",
    "Thu, 04 May 2023 10:11:12 +0000": "%a, %d %b %Y %H:%M:%S %z",
    "Thu, 04 May 2023 10:11:12 GMT": "%a, %d %b %Y %H:%M:%S GMT",
    "2023/05/14 10:11:12 +0000": "%Y/%m/%d %H:%M:%S %z", "20230501101112Z": "%Y%m%d%H%M%S%z",
    "20230501101112+0200": "%Y%m%d%H%M%S%z",
    "20230514101112": "%Y%m%d%H%M%S", "202305141011": "%Y%m%d%H%M", "20230514": "%Y%m%d",
    "20230514.0": "%Y%m%d.0", "04-May-23": "%d-%b-%y", "4 May 2023": "%d %b %Y",
    "4 June 2023": "%d %B %Y", "June 4, 2023": "%B %d, %Y", "Sep 4 2023": "%b %d %Y",
    "Thu May 04 10:11:12 2023": "%a %b %d %H:%M:%S %Y",
    "Thu May  4 10:11:12 UTC 2023": "%a %b %d %H:%M:%S UTC %Y",
    "Thu May 04 10:11:12 +0000 2023": "%a %b %d %H:%M:%S %z %Y",
    "Thursday, June 1, 2023": "%A, %B %d, %Y", "2023.05.14": "%Y.%m.%d", "05/14/23": "%m/%d/%y",
    "14/05/23": "%d/%m/%y", "2023-05-14 10:11 PM": "%Y-%m-%d %I:%M %p",
    "14-05-2023T10:11:12Z": "%d-%m-%YT%H:%M:%S%z", "04MAY2023:10:11:12": "%d%b%Y:%H:%M:%S",
    "04-MAY-23 10.11.12.000000 AM": "%d-%b-%y %I.%M.%S.%f %p",
    "04-MAY-23 10.11.12.000000000 AM": "%d-%b-%y %I.%M.%S.%f000 %p",
    "04/May/2023:10:11:12 +0000": "%d/%b/%Y:%H:%M:%S %z", "5/14/2023 4 PM": "%m/%d/%Y %I %p",
    "2023-05-14-10.11.12.123456": "%Y-%m-%d-%H.%M.%S.%f", "14.05.2023 10.11": "%d.%m.%Y %H.%M",
    "Thu May 04 2023 10:11:12 GMT+0000 (Coordinated Universal Time)":
        "%a %b %d %Y %H:%M:%S GMT%z (Coordinated Universal Time)",
    "10:11, 4 May 2023": "%H:%M, %d %b %Y", "14.05.2023, 10:11 Uhr": "%d.%m.%Y, %H:%M Uhr",
    "May 4, 2023 at 10:11 AM": "%b %d, %Y at %I:%M %p", "20230514-101112": "%Y%m%d-%H%M%S",
    "1/14/2026, 1:05:09\u202fAM": "%m/%d/%Y, %I:%M:%S %p", "04 May 2023 10:11:12:123":
        "%d %b %Y %H:%M:%S:%f",
}  # fmt: skip


@pytest.mark.parametrize(("cell", "date_format"), NOTATIONS.items())
def test_a_column_without_a_valid_date_stops_the_run_with_the_format_to_set(
    cell: str, date_format: str
) -> None:
    reason = evaluate("timestamp", [cell] * 10).reason
    assert f"(line 2: '{export_csv.Example(2, cell)}' is " in reason
    assert reason.endswith(f"; set x_at = The cell : timestamp {date_format}")
    convert(cell, "timestamp", date_format)


NONE_VALID = {
    "both orders fit": (
        "timestamp",
        ["01/02/2026", "3/4/2026"],
        ["%d/%m/%Y or ", "%m/%d/%Y"],
    ),
    "ISO": ("timestamp %d/%m/%Y", ["2026-11-24"], ["set x_at = The cell : timestamp"]),
    "UNIX": ("timestamp %d/%m/%Y", ["1760000000"], ["set x_at = The cell : timestamp"]),
    "hours": (
        "timestamp %d/%m/%Y",
        ["2026110108", "2026110209"],
        ["timestamp %Y%m%d%H"],
    ),
    "two orders": ("timestamp", ["31/12/2025", "12/31/2025"], ["export dates such as"]),
    "serial": ("timestamp", ["46350"], ["serial number", "export dates such as"]),
    "junk too": ("timestamp", ["31/12/2025", "soon", "n/a"], ["timestamp %d/%m/%Y"]),
    "comma": ("float", ["12,50", "3,5"], ["[csv] decimal = ,"]),
    "floats": ("integer", ["12.5", "3.25"], ["x_at = The cell : float"]),
    "words": ("integer", ["many"], ["none of its 10 values is an integer", "'many'"]),
    "French": ("boolean", ["VRAI", "FAUX"], ["export true or false"]),
    "not boolean": ("not boolean", ["VRAI"], ["is a boolean", "export true or false"]),
    "email": ("email", ["Bo <bo@example.com>"], ["an e-mail address"]),
}


@pytest.mark.parametrize("case", NONE_VALID)
def test_ten_values_none_of_which_is_valid_stop_the_run(case: str) -> None:
    configured, cells, words = NONE_VALID[case]
    count = 10
    if case == "junk too":
        count = 30
    taken = [cells[number % len(cells)] for number in range(count)]
    reason = evaluate(configured, taken).reason
    for word in words:
        assert word in reason
    assert reason.count(" : timestamp %") <= len(words)


ACCEPTED_COLUMNS: dict[str, tuple[str, list[str]]] = {
    "days of early January": ("timestamp %d/%m/%Y", JANUARY),
    "with placeholders": ("timestamp %d/%m/%Y", [*JANUARY, "00/00/0000", "n/a", "0000-00-00", "-"]),
    "29 February of short years": (
        "timestamp %d/%m/%y", ["28/02/26", "29/02/26", "31/04/26", "01/02/26", "03/04/26"],
    ),
    "30 February of hours": ("timestamp %Y%m%d%H", [*days("%Y%m%d08", step=1), "2026023008"]),
    "30 February of packed dates": ("timestamp %y%m%d", [*days("%y%m%d"), "260230"]),
    "short years first": ("timestamp %y-%m-%d", ["26-02-03", "26-02-30", "26-03-04"]),
    "with a typo": ("timestamp %d/%m/%Y", [*JANUARY, "soon", "31/02/2025"]),
    "proven order": ("timestamp %d/%m/%Y", ["25/12/2025", *JANUARY, "01/14/2025"]),
    "nine words": ("timestamp", ["soon"] * 9),
    "ten placeholders": ("timestamp", ["0000-00-00", "n/a", "#N/A", "NULL", "1899-12-30"] * 4),
    "one valid": ("timestamp", ["soon"] * 30 + ["2026-11-24"]),
    "ISO": ("timestamp", days("%Y-%m-%d %H:%M:%S")),
    "ISO of one day": ("timestamp", ["2026-01-05", *["2026-01-05T10:11:12Z"] * 40, "soon"]),
    "UNIX seconds": ("timestamp", [str(1893456000 + 86400 * n) for n in range(40)]),
    "birthdays in 1970": ("timestamp", ["1970-01-01"] * 20),
    "nine hours": ("timestamp", days("%Y%m%d08", 9, step=1)),
    "one hour": ("timestamp", ["2026110108"] * 30),
    "hours and seconds": ("timestamp", [*days("%Y%m%d08", step=1), "1760000000"]),
    "half stars": ("integer", [*map(str, range(10)), "3.5", "4.5"]),
    "half stars with a comma": ("integer", [*map(str, range(10)), "3,5"]),
    "groups": ("float", ["1,234", "5", "3.75", "4,5"]),
    "groups alone": ("float", ["1,234", "12,345", "5"]),
    "plain integers": ("integer", [*map(str, range(100)), "many"]),
    "both shapes, both kinds": (
        "timestamp", [*days("%Y-%m-%d"), *days("%d/%m/%Y"), *days("%m-%d-%y")],
    ),
    "nine in one shape": (
        "timestamp %m-%d-%Y",
        [f"{n:02}-10-1983" for n in range(1, 10)] + [f"9/{n}/88" for n in range(13, 25)],
    ),
    "days without zeros": (
        "timestamp %d/%m/%Y", [f"{n}/{n % 12 + 1}/2025" for n in range(1, 29)],
    ),
    "booleans": ("boolean", ["yes", *["maybe"] * 40]),
    "emails": ("email", ["ada@example.com", *["none@"] * 40]),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED_COLUMNS)
def test_an_accepted_column_does_not_stop_the_run(case: str) -> None:
    configured, cells = ACCEPTED_COLUMNS[case]
    assert evaluate(configured, cells).reason == ""
    assert evaluate(configured, cells[::-1]).reason == ""


SETTLED = {
    "ISO": ("timestamp", days("%Y-%m-%dT%H:%M:%SZ")),
    "day first": ("timestamp %d/%m/%Y", days("%d/%m/%Y")),
    "plain UNIX seconds": ("timestamp", [str(1760000000 + n) for n in range(12_000)]),
    "decimals": ("float", ["1", "2.5", "3.75"]),
    "booleans": ("boolean", ["1", "0", "yes"]),
    "emails": ("email", ["ada@example.com"] * 3),
    "texts": ("string", ["a", "b"]),
    "plain integers": ("integer", [*map(str, range(12_000))]),
    "plain floats": ("float", [*map(str, range(12_000))]),
}


@pytest.mark.parametrize("case", SETTLED)
def test_a_valid_column_is_settled_early(case: str) -> None:
    configured, cells = SETTLED[case]
    found = evaluate(configured, cells)
    assert found.is_settled
    limit = 10
    if case.startswith("plain"):
        limit = export_csv.ENOUGH_VALID + 1
    assert found.cells_read <= limit
    assert not found.reason
    assert not found.hint


def test_each_day_of_a_thousand_timestamps_is_compared_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Days up to 12 never settle a column, so a million timestamps must not be slow."""
    compared: list[str] = []

    def read(self: object, cell: str, reason: str = "") -> dict[str, int]:
        compared.append(cell)
        return {"%m/%d/%Y %H:%M": 0}

    monkeypatch.setattr(export_csv.OtherDates, "read", read)
    evidence = evidence_for("timestamp %d/%m/%Y %H:%M")
    for line in range(1000):
        evidence.add_valid(line, f"05/0{line % 9 + 1}/2026 10:{line % 60:02}", 1)
    assert len(compared) == 9
    assert not evidence.is_settled


def test_the_warning_about_omitted_values_names_the_format_that_fits_them() -> None:
    found = evaluate(
        "timestamp", ["2026-11-24", *days("%d.%m.%Y", 20), "n/a", "0000-00-00"]
    )
    assert (found.reason, found.hint) == ("", "x_at = The cell : timestamp %d.%m.%Y")
    found = evaluate("integer", ["5", "2.5", "3.5", "4.5"])
    assert (found.reason, found.hint) == ("", "x_at = The cell : float")
    late = [*["2026-11-24", "2026-11-05"] * 8, *days("%d.%m.%Y", 20)]
    assert evaluate("timestamp", late).hint == "x_at = The cell : timestamp %d.%m.%Y"
    late[:0] = ["2026-11-24", "2026-11-05"] * 8
    assert evaluate("timestamp", late).hint == ""
    assert evaluate("timestamp", ["2026-11-24", *["soon"] * 20]).hint == ""
    assert (
        evaluate("timestamp", ["2026-11-24", *["soon"] * 20, "31/12/2025"]).hint == ""
    )
    assert (
        evaluate("timestamp", ["2026-11-24", *["31/12/2025", "12/31/2025"] * 9]).hint
        == ""
    )


FORMATS = sorted(set(NOTATIONS.values()))


@NO_DEADLINE
@given(st.sampled_from(FORMATS), st.lists(DATETIMES, min_size=10, max_size=30))
def test_dates_in_a_known_format_are_read_back_by_the_suggestion(
    date_format: str, moments: list[datetime]
) -> None:
    aware = [
        moment.replace(tzinfo=UTC, year=moment.year % 60 + 2000) for moment in moments
    ]
    cells = [moment.strftime(date_format) for moment in aware]
    found = evaluate("timestamp", cells)
    suggested = [
        line.partition(" : timestamp ")[2]
        for line in found.reason.partition("set ")[2].split(" or ")
    ]
    assert (
        date_format in suggested
        or date_format.replace("%b", "%B") in suggested
        or (date_format.replace("%B", "%b") in suggested)
    )
    for text in suggested:
        for cell in cells:
            convert(cell, "timestamp", text)


@NO_DEADLINE
@given(
    st.sampled_from(
        ["", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d.%m.%y", "%d %b %Y", "%Y%m%d"]
    ),
    st.lists(DATETIMES, min_size=1, max_size=60),
    st.lists(
        st.sampled_from(["n/a", "0000-00-00", "00/00/0000", "", "soon", "#REF!"]),
        max_size=5,
    ),
)
def test_valid_columns_never_stop_a_run(
    date_format: str, moments: list[datetime], others: list[str]
) -> None:
    written = date_format or "%Y-%m-%dT%H:%M:%S"
    cells = [
        moment.replace(year=moment.year % 60 + 2000).strftime(written)
        for moment in moments
    ]
    found = evaluate(
        f"timestamp {date_format}".rstrip(), [*cells, *filter(None, others)]
    )
    assert (found.reason, found.hint) == ("", "")


@NO_DEADLINE
@given(
    st.lists(st.text(max_size=20)),
    st.sampled_from(["timestamp", "float", "integer", "boolean"]),
)
def test_evidence_accepts_any_cell(cells: list[str], configured: str) -> None:
    evaluate(configured, filter(None, cells))


def test_evidence_does_not_keep_long_cells() -> None:
    for configured in ("timestamp", "float", "string", "timestamp %d/%m/%Y"):
        evidence = evidence_for(configured)
        tracemalloc.start()
        for line in range(50):
            evidence.add_invalid(line, str(line) + "1" * 2**20, "too long")
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 2**18
        assert evidence.reason_to_stop().count("1") < 200
