"""What a cell means: ids, types, what counts as empty, and what is omitted."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import DATETIMES, NO_DEADLINE, USER, UTC, convert, read

import export_csv
from export_csv import CellValue, identity_problem, make_converter

BERLIN = export_csv.load_timezone("Europe/Berlin") or UTC


def reason_for(
    cell: str, type_name: str, date_format: str = "", **options: object
) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        convert(cell, type_name, date_format, **options)  # type: ignore[arg-type]
    return str(error.value)


#### Cell types

INTEGERS = {
    "12": 12, "-5": -5, "+5": 5, "12.0": 12, "12.00": 12, "12.0000": 12, "007": 7, "1,000": 1000,
    "1 234": 1234, "1\xa0234\xa0567": 1234567, "1\u202f234": 1234, "1\u2009234": 1234,
    "1'234": 1234, "1\u2019234": 1234, "(12)": -12, "12-": -12, "\u221212": -12, "$12": 12,
    "12 \u20ac": 12, "-$12": -12, "$-12": -12, "($1,200)": -1200, "1,234.0": 1234, "-0": 0,
}  # fmt: skip
NOT_INTEGERS = [
    *(
        "1.000",
        "12.5",
        "12,0",
        "1,00",
        "1e3",
        "0x10",
        "1_000",
        "twelve",
        "1 2",
        "12 34",
        "inf",
    ),
    *(
        "\uff11\uff12",
        "\u0661\u0662",
        "12%",
        "1,2345",
        "0,123",
        "1 234,567",
        "--1",
        "(12",
        "12)",
    ),
    *(
        "-(12)",
        "(-12)",
        "$12$",
        "12\u20ac50",
        "EUR 12",
        "1  234",
        "-",
        "",
        "9" * 256,
        "1" * 5000,
    ),
    *("12.-", "1'234 567", "12-13", "5/1"),
]
FLOATS = {
    "12.5": 12.5, "-0.5": -0.5, "3": 3.0, ".5": 0.5, "12.": 12.0, "1,234.5": 1234.5, "1e3": 1000.0,
    "1.5E-3": 0.0015, "1,234,567": 1234567.0, "1 234.50": 1234.5, "12 345.5": 12345.5,
    "1'234.50": 1234.5, "(12.50)": -12.5, "12.50-": -12.5, "\u20ac12.50": 12.5, "12.50 \xa3": 12.5,
    "$(12.50)": -12.5, "\u20b9 1,234.00": 1234.0, "-0": 0.0,
}  # fmt: skip
NOT_FLOATS = [
    *("12,50", "1,23,456.0", "1.234,5", "1_0.0", "nan", "inf", "-Infinity", "1e999", "x", "12 34"),
    *("\uff11.5", "1.0e\uff13", "12%", "1.2.3", "(12.50", "12.50)", ".", "-.", "e3", "0x1p3"),
    "12.-",
]  # fmt: skip


@pytest.mark.parametrize(("cell", "value"), INTEGERS.items())
def test_an_integer_is_read(cell: str, value: int) -> None:
    assert convert(cell, "integer") == value
    assert type(convert(cell, "integer")) is int


@pytest.mark.parametrize("cell", NOT_INTEGERS)
def test_an_invalid_integer_is_rejected(cell: str) -> None:
    assert reason_for(cell, "integer") == "not an integer"


@pytest.mark.parametrize(("cell", "value"), FLOATS.items())
def test_a_float_is_read(cell: str, value: float) -> None:
    assert repr(convert(cell, "float")) == repr(value)


@pytest.mark.parametrize("cell", NOT_FLOATS)
def test_an_invalid_float_is_rejected(cell: str) -> None:
    assert reason_for(cell, "float").startswith("not a")


@pytest.mark.parametrize(
    ("type_name", "cell", "value"),
    [
        ("integer", "12,0", 12), ("integer", "1.000", 1000), ("integer", "1,000", None),
        ("float", "12,50", 12.5), ("float", "1.234,5", 1234.5), ("float", "1.234", 1234.0),
        ("float", "12.50", None), ("float", "1,234.5", None), ("float", "1 234,50 \u20ac", 1234.5),
    ],
)  # fmt: skip
def test_the_decimal_separator_may_be_a_comma(
    type_name: str, cell: str, value: CellValue | None
) -> None:
    if value is None:
        reason_for(cell, type_name, decimal=",")
    else:
        assert convert(cell, type_name, decimal=",") == value


TRUE = ["true", "T", "yes", "Y", "ON", "1", "1.0"]
FALSE = ["False", "f", "No", "n", "off", "0", "0.0"]


def test_booleans_and_their_opposites() -> None:
    for words, value in ((TRUE, True), (FALSE, False)):
        for word in words:
            assert convert(word, "boolean") is value
            assert convert(word, "not boolean") is not value


@pytest.mark.parametrize(
    "cell", ["1.00", "2", "-1", "10", "ja", "Yes.", "VRAI", "WAHR", "N/A"]
)
def test_an_invalid_boolean_is_rejected(cell: str) -> None:
    expected = "not a boolean (true/false, t/f, yes/no, y/n, on/off, 1/0)"
    assert reason_for(cell, "boolean") == reason_for(cell, "not boolean") == expected


TIMESTAMPS = {
    "1760000000": 1760000000, "1760000000.25": 1760000000, "1760000000,25": 1760000000,
    "-2208988800": -2208988800, "2026-11-24": 1795478400, "2026-11-24T09:05": 1795511100,
    "2026-11-24 9:05": 1795511100, "2026-11-24T9:05:07": 1795511107,
    "2026-11-24T09:05:07Z": 1795511107, "2026-11-24t09:05:07z": 1795511107,
    "2026-11-24 09:05:07 UTC": 1795511107, "2026-11-24 9:05 GMT": 1795511100,
    "2026-11-24T09:05:07+02:00": 1795503907, "2026-11-24T09:05:07+02": 1795503907,
    "2026-11-24T09:05:07-0530": 1795530907, "2026-11-24 09:05:07 +02:00": 1795503907,
    "2026-11-24T09:05:07.123456789Z": 1795511107, "2026-11-24T09:05:07,5+0000": 1795511107,
    "2026-11-24 09:05:07.1 UTC": 1795511107, "20261124T090507Z": 1795511107,
    "2026-11-24T24:00": 1795564800, "2026-11-24 24:00:00": 1795564800,
    "1900-01-01": -2208988800, "1969-12-31T23:00Z": -3600, "1970-01-01T00:00:01Z": 1,
    "2199-12-31T23:59:59Z": 7258118399, "1970-01-01": 0,
}  # fmt: skip
PLACEHOLDER_DATES = [
    *(
        "0",
        "0.0",
        "-1",
        "00000000",
        "0000-00-00 00:00:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31",
    ),
    *(
        "9999-12-31 23:59:59.9999999",
        "1899-12-30",
        "-62135596800",
        "253402300799",
        "2201-01-01",
    ),
    *(
        "1970-01-01T00:00:00Z",
        "1970-01-01 0:00",
        "1970-01-01T01:00:00+01:00",
        "99991231",
    ),
    *(
        "1969-12-31T23:59:59Z",
        "0000-00-00",
        "0001-01-01",
        "1899-12-31T23:59:59Z",
        "-2208988801",
    ),
]
NOT_TIMESTAMPS = {
    "20261124": "a date without dashes", "20261124090507": "a date without dashes",
    "24112026": "a date without dashes", "20261124.0": "a date without dashes",
    "46350": "a spreadsheet date serial number",
    "46350.375": "a spreadsheet date serial number", "2026": "a year",
    "1760000000000": "in milliseconds; Intercom expects seconds",
    "1795511107000000": "in microseconds; Intercom expects seconds",
    "1795511107000000000": "in nanoseconds; Intercom expects seconds",
    "2026-02-30": "not a date that exists", "2026-11-24T25:00": "not a date that exists",
    "2026-11-24T24:01": "not a date that exists",
    "2026-11-24T10:00+99:00": "not a date that exists",
    "24/11/2026": "not UNIX seconds or an ISO 8601 date",
    "2026-11-24 09:05:07 CET": "not UNIX seconds or an ISO 8601 date",
    "2026-11-24 9:05 PM": "not UNIX seconds or an ISO 8601 date",
    "2026-11-24-05:00": "not UNIX seconds or an ISO 8601 date",
    "yesterday": "not UNIX seconds or an ISO 8601 date",
    "\uff12\uff10\uff12\uff16-01-02": "not UNIX seconds or an ISO 8601 date",
    "1e9": "not UNIX seconds or an ISO 8601 date",
    "2026-W48-2": "not UNIX seconds or an ISO 8601 date",
    "1" * 300: "not UNIX seconds or an ISO 8601 date",
}  # fmt: skip


@pytest.mark.parametrize(("cell", "value"), TIMESTAMPS.items())
def test_a_timestamp_is_read(cell: str, value: int) -> None:
    assert convert(cell, "timestamp") == value


@pytest.mark.parametrize("cell", PLACEHOLDER_DATES)
def test_a_placeholder_date_is_refused(cell: str) -> None:
    assert reason_for(cell, "timestamp") == export_csv.PLACEHOLDER_DATE
    assert (
        reason_for(cell, "timestamp", is_activity_time=True)
        == export_csv.PLACEHOLDER_DATE
    )


@pytest.mark.parametrize(("cell", "reason"), NOT_TIMESTAMPS.items())
def test_the_reason_says_what_an_invalid_timestamp_is_instead(
    cell: str, reason: str
) -> None:
    assert reason_for(cell, "timestamp") == reason


def test_1970_01_01_may_be_a_birthday_but_not_an_activity_time() -> None:
    assert convert("1970-01-01", "timestamp") == 0
    assert convert("01/01/1970", "timestamp", "%d/%m/%Y") == 0
    for zone in (UTC, BERLIN):
        assert (
            reason_for("1970-01-01", "timestamp", "", zone=zone, is_activity_time=True)
            == export_csv.PLACEHOLDER_DATE
        )
        assert (
            reason_for(
                "01/01/1970", "timestamp", "%d/%m/%Y", zone=zone, is_activity_time=True
            )
            == export_csv.PLACEHOLDER_DATE
        )


def test_activity_is_never_more_than_a_day_in_the_future() -> None:
    soon = str(int(time.time()) + 80_000)
    later = datetime.fromtimestamp(time.time() + 90_000, UTC)
    assert convert(soon, "timestamp", is_activity_time=True) == int(soon)
    for cell, date_format in (
        (str(int(later.timestamp())), ""),
        (later.isoformat(), ""),
        (later.strftime("%d.%m.%Y %H:%M:%S"), "%d.%m.%Y %H:%M:%S"),
    ):
        reason = reason_for(cell, "timestamp", date_format, is_activity_time=True)
        assert reason == "more than a day in the future"
        convert(cell, "timestamp", date_format)


@pytest.mark.parametrize(
    ("cell", "date_format", "value"),
    [
        ("2026-12-01 12:00", "", 1796122800), ("2026-07-01", "", 1782856800),
        ("2026-10-25 02:30", "", 1792888200), ("2026-10-25 02:30:00", "", 1792888200),
        ("2026-10-25 02:30:00Z", "", 1792895400), ("2026-07-01 12:00 UTC", "", 1782907200),
        ("1760000000", "", 1760000000), ("24.11.2026 9:05", "%d.%m.%Y %H:%M", 1795507500),
        ("25.10.2026 02:30", "%d.%m.%Y %H:%M", 1792888200),
        ("2026-11-24T09:05+0200", "%Y-%m-%dT%H:%M%z", 1795503900),
        ("Tue, 24 Nov 2026 09:05:07 GMT", "%a, %d %b %Y %H:%M:%S GMT", 1795511107),
        ("1970-01-01 01:00:00", "", None), ("24.11.2026", "%d.%m.%Y %H:%M", None),
    ],
)  # fmt: skip
def test_dates_without_an_offset_are_in_the_time_zone_of_the_settings(
    cell: str, date_format: str, value: int | None
) -> None:
    if value is None:
        reason_for(cell, "timestamp", date_format, zone=BERLIN)
    else:
        assert convert(cell, "timestamp", date_format, zone=BERLIN) == value


def test_dates_in_a_format() -> None:
    assert convert("20261124", "timestamp", "%Y%m%d") == 1795478400
    assert convert("20261124 9:05", "timestamp", "%Y%m%d %H:%M") == 1795511100
    assert reason_for("2026111", "timestamp", "%Y%m%d") == "not in the format %Y%m%d"
    for cell in ("00/00/0000", "01/01/0001", "0000-00-00", "12/31/9999", "1/0/1900"):
        assert reason_for(cell, "timestamp", "%m/%d/%Y") == export_csv.PLACEHOLDER_DATE


def test_a_format_without_a_year_matches_nothing_and_emits_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_for("24/11", "timestamp", "%d/%m") == "not in the format %d/%m"


GOOD_EMAILS = [
    "ada@example.com",
    "o'di@example.com",
    "GUS+news@example.com",
    "root@localhost",
]
BAD_EMAILS = [
    *(
        "mailto:ada@example.com",
        "Bo <bo@example.com>",
        "a@x.eu, b@x.eu",
        "none",
        "@example.com",
    ),
    *(
        "ada@",
        "a@b@c",
        "'a@x.eu'",
        '"a@x.eu"',
        "<a@x.eu>",
        "a b@x.eu",
        "a@x.eu;b@x.eu",
        "(a@x.eu)",
    ),
    *("\u201ca@x.eu\u201d", "a\ufffd@x.eu", "a\x00@x.eu", "a" * 255 + "@x.eu"),
]


def test_emails() -> None:
    for cell in GOOD_EMAILS:
        assert convert(cell, "email") == cell
    for cell in BAD_EMAILS:
        assert reason_for(cell, "email") == "not an e-mail address"


def test_texts() -> None:
    for cell in ("x" * 255, "#1 Flo", "C#", "NULLER", "0012"):
        assert convert(cell, "string") == cell
    assert (
        reason_for("x" * 256, "string") == "256 characters long (Intercom's limit: 255)"
    )
    assert reason_for("#NAME?", "string") == "a spreadsheet error"
    assert "U+FFFD" in reason_for("Zo\ufffd", "string")


ERRORS = [
    *(
        "#N/A",
        "#NV",
        "#REF!",
        "#BEZUG!",
        "#VALEUR!",
        "#ERROR!",
        "####",
        "Loading...",
        "#NAME?",
    ),
    *(
        "#DIV/0!",
        "#NUM!",
        "#NULL!",
        "#SPILL!",
        "#CALC!",
        "#GETTING_DATA",
        "#FIELD!",
        "#WERT!",
    ),
    *(
        "#\xa1VALOR!",
        "#\xbfNOMBRE?",
        "#N/D",
        "#NOM?",
        "#RIF!",
        "#ZAHL!",
        "Err:502",
        "#VERW!",
    ),
    *(
        "Wird geladen...",
        "Chargement...",
        "#\u0421\u0421\u042b\u041b\u041a\u0410!",
        "#NOME?",
    ),
]
NOT_ERRORS = [
    "#1 Flo",
    "C#",
    "#42",
    "#",
    "#wow!",
    "Loading",
    "#N",
    "A#N/A",
    "Err: 502 beds",
    "#hash",
]


def test_spreadsheet_errors_are_recognized_in_every_language() -> None:
    assert [cell for cell in ERRORS if not export_csv.is_spreadsheet_error(cell)] == []
    assert [cell for cell in ERRORS if not export_csv.is_placeholder(cell)] == []
    assert [cell for cell in NOT_ERRORS if export_csv.is_spreadsheet_error(cell)] == []


def test_placeholders() -> None:
    words = [
        "null",
        "None",
        "NIL",
        "undefined",
        "NaN",
        "n/a",
        "-",
        "(null)",
        "--",
        "NaT",
    ]
    dates = [
        *("0000-00-00", "00/00/0000", "0000-00-00T00:00:00Z", "12/30/1899", "31.12.9999"),
        "1/0/1900",
        *("01-Jan-0001", "Mon, 01 Jan 0001 00:00:00 GMT", "Dec 31, 9999", "00:00:00 00/00/0000"),
        *("01/01/1970 00:00:00", "01.01.0001, 00:00", "1/1/1970 12:00:00 AM", "99991231"),
    ]  # fmt: skip
    assert [
        cell for cell in [*words, *dates] if not export_csv.is_placeholder(cell)
    ] == []
    genuine = [
        "0",
        "-1",
        "04/05/00",
        "01/01/1970",
        "May 4, 2023",
        "Thu, 04 May 2023 10:11 +0000",
    ]
    genuine += ["123-45-6789", "12-34-5678", "555 12 3456", "soon", "1.2.3", "10.0.0.1"]
    assert [cell for cell in genuine if export_csv.is_placeholder(cell)] == []
    assert export_csv.is_missing_word("N/A")
    assert not export_csv.is_missing_word("NA")


def test_cells_of_a_megabyte_are_not_kept() -> None:
    converters = [
        make_converter(name, decimal=".", timezone=UTC, date_format=text)
        for name in export_csv.CELL_TYPES
        for text in ("", "%d/%m/%Y")
    ]
    tracemalloc.start()
    for start in ("1", "(", "1,111", "a@", "2026-01-01", "#", "\xa0"):
        for number in range(8):
            cell = f"{start}{number}" + "1" * 2**20
            for converter in converters:
                with pytest.raises(ValueError, match=r"."):
                    converter(cell)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2**22


@NO_DEADLINE
@given(
    st.integers(-(10**15), 10**15),
    st.sampled_from([" ", "\xa0", "\u202f", "\u2009", "'", ","]),
)
def test_grouped_integers_round_trip(number: int, group: str) -> None:
    text = f"{number:,}".replace(",", group)
    assert convert(text, "integer") == number
    assert convert(f"{text}.0", "float") == float(number)


@NO_DEADLINE
@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(".,"))
def test_amounts_round_trip(amount: object, decimal: str) -> None:
    text = f"{amount:,.2f}"
    if decimal == ",":
        text = text.translate({ord("."): ",", ord(","): "."})
    value = float(str(amount))
    plain = text.removeprefix("-")
    written = [text, f"{text} \u20ac", f"${text}"]
    if text != plain:
        written += [f"({plain})", f"{plain}-", f"-${plain}", f"(${plain})"]
    for cell in written:
        assert convert(cell, "float", decimal=decimal) == value


@NO_DEADLINE
@given(
    DATETIMES,
    st.sampled_from(["", "Z", "+05:30", "-0800", " UTC", "+01"]),
    st.booleans(),
)
def test_iso_8601_agrees_with_datetime(
    moment: datetime, zone: str, has_blank: bool
) -> None:
    separator = "T"
    if has_blank:
        separator = " "
    offsets = {"+05:30": 330, "-0800": -480, "+01": 60}
    expected = moment.replace(tzinfo=timezone(timedelta(minutes=offsets.get(zone, 0))))
    cell = moment.isoformat(separator) + zone
    assert convert(cell, "timestamp") == int(expected.timestamp() // 1)


@NO_DEADLINE
@given(DATETIMES)
def test_local_time_agrees_with_datetime(moment: datetime) -> None:
    expected = int(moment.replace(tzinfo=BERLIN, microsecond=0, fold=0).timestamp())
    assert convert(moment.isoformat(" "), "timestamp", zone=BERLIN) == expected


@NO_DEADLINE
@given(st.text(), st.sampled_from(sorted(export_csv.CELL_TYPES)))
def test_any_text_is_converted_or_rejected_with_a_reason(
    cell: str, type_name: str
) -> None:
    reason = "none"
    try:
        convert(cell, type_name)
    except ValueError as error:
        reason = str(error)
    assert reason
    export_csv.is_placeholder(cell)
    export_csv.formats_for_shape(export_csv.shape_of(cell))


#### Ids

ID_PROBLEMS = {
    "reformatted": [
        *(
            "1.23E+05",
            "1,23457E+11",
            "1e+16",
            "1E-05",
            "1.2345E8",
            "-1.5e+10",
            "1001.0",
        ),
        *(
            "1001.00",
            "1001,0",
            "1,001",
            "1,234,567",
            "12,34,567",
            "1'001",
            "1\u2019001",
        ),
        *("1\xa0234", "1\u202f234\u202f567"),
    ],
    "lost": [
        *(
            "#N/A",
            "#NV",
            "#REF!",
            "#BEZUG!",
            "#VALEUR!",
            "#\xa1VALOR!",
            "#ERROR!",
            "####",
            "##",
        ),
        *(
            "#\u041d/\u0414",
            "#\u0394/\u03a5",
            "#NAME?",
            "#NOM?",
            "Err:502",
            "Loading...",
        ),
        *("Wird geladen...", "\u0417\u0430\u0433\u0440\u0443\u0437\u043a\u0430\u2026"),
        *("u\ufffd1", "\ufffd"),
    ],
    "placeholder": [
        *(
            "null",
            "None",
            "NIL",
            "undefined",
            "NaN",
            "n/a",
            "N/A",
            "-",
            "\u2013",
            "(null)",
        ),
    ],
    "ruled": ["--", "-------", "=====", "____", ":---:", "\u2500\u2500\u2500"],
    "markup": [
        *("ObjectId(6720f3a1b2c3d4e5f6071829)", 'ObjectId("67")', "new ObjectId('67')"),
        *(
            "BSON::ObjectId('67')",
            "UUID('7d3f1c52-9a0b-4e7d-8c11-2f6f0a9d1e55')",
            "b'u1'",
        ),
        *(
            'u"u1"',
            "['u1']",
            "[u1]",
            "[1, 2]",
            "[object Object]",
            "Optional[u1]",
            "Some(5)",
        ),
        *(
            '{"$oid": "67"}',
            "{u'$oid': u'67'}",
            "{'id': 5}",
            "{:id=>5}",
            "('u1',)",
            "('u1', 2)",
        ),
        *(
            "np.int64(7)",
            "np.str_('u1')",
            "NumberLong(7)",
            "Int64(7)",
            "HASH(0x55d5c8)",
        ),
        *(
            "<User: u1>",
            "#<User:0x1>",
            "\\x7531",
            '"u1"',
            "'u1'",
            "`u1`",
            "\u201cu1\u201d",
        ),
        *(
            "\xabu1\xbb",
            "'00123",
            "=1+1",
            '=HYPERLINK("x")',
            "=A1",
            '<a href="/u/9">9</a>',
        ),
        *("<br />", "</td>", "u<b>1</b>", "a\x07b", "a\tb", "a\nb", "a\x85b"),
    ],
    "too long": ["x" * 256, "1" * 2**20],
}
VALID_IDS = [
    *("17", "00123", "-5", "u1", "user-1", "user-1,5", "9e10", "12E5", "0x1F", "1.2.3", "v1.0"),
    *("1.5", "1,5", "1.001", "1-2-3", "12:30", "123 456 789", "0b9e6f9a-3c1d-4c57-9d54-0f5a3c1d"),
    *("{0b9e6f9a-3c1d-4c57-9d54-0f5a3c1d4c57}", "6720f3a1b2c3d4e5f6071829", "dGVzdA==", "a+b/c="),
    *("+4915112345", "@name", "#42", "#", "#1", "C#", "#hash", "ada@example.com", "o'di@x.eu"),
    *("a.b(c)", "(x)", "a<b", "x>y", "a < b > c", "a=b", "u|1", "50%", "$7", "O'Neil", 'u"1', "*"),
    *("NA", "Never", "None of us", "nan1", "Nullen", "ALL", "__init__", "urn:x:1", "\u540d", "."),
    *("CN=Ada,OU=Users", "a;b", "auth0|6720f3", "Loading dock", "Err: 502", "x" * 255, "\xe9t\xe9"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("category", "cell"),
    [(category, cell) for category, cells in ID_PROBLEMS.items() for cell in cells],
    ids=lambda text: repr(text[:30]),
)
def test_a_mangled_id_is_rejected(category: str, cell: str) -> None:
    problem = identity_problem(cell, ".")
    assert problem is not None
    assert category in problem.category or category in problem.detail
    with pytest.raises(export_csv.RowRejected) as rejection:
        export_csv.check_identity(cell)
    assert len(str(rejection.value)) < 250


def test_a_valid_id_is_kept_as_is() -> None:
    for cell in VALID_IDS:
        assert export_csv.check_identity(cell) == cell
        assert identity_problem(cell, ".") is None


def test_a_point_groups_thousands_if_the_decimal_separator_is_a_comma() -> None:
    assert identity_problem("1.001", ",") is not None
    assert identity_problem("1.2.3", ",") is None


@pytest.mark.parametrize("identity", ["user_id", "id"])
def test_a_row_with_a_wrong_id_is_not_imported_although_it_has_an_email(
    identity: str,
) -> None:
    found = read(
        f"{identity},email\n1001.0,a@x.eu\nu2,b@x.eu\n,c@x.eu\n",
        user={identity: identity, "email": "email"},
    )
    assert list(found.rejected) == [2]
    assert "1001.0" in found.rejected[2]
    assert found.users == [{identity: "u2", "email": "b@x.eu"}, {"email": "c@x.eu"}]


LABELS = ["Total", "TOTAL", "grand total", "Grand Total", "Subtotal", "sum", "Sum:"]


def test_the_label_of_a_summary_row_is_not_an_id_unless_the_row_has_an_email() -> None:
    rows = "".join(f"{label},,7\n" for label in LABELS)
    genuine = "Total,ada@x.eu,7\nsum,Ada <a@x.eu>,b@x.eu\nTotal Ltd,,7\nTotality,,7\nsummer,,7\n"
    found = read(f"user_id,email,orders\n{rows}{genuine}")
    assert list(found.rejected) == list(range(2, 2 + len(LABELS)))
    assert [user["user_id"] for user in found.users] == [
        *("Total", "sum", "Total Ltd", "Totality", "summer"),
    ]  # fmt: skip


#### Cells of a row


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a CSV with quoted cells. Python 3.10's csv.writer would reject NULs."""
    quoted = [
        ['"' + cell.replace('"', '""') + '"' for cell in row]
        for row in [headings, *rows]
    ]
    return "".join(",".join(row) + "\n" for row in quoted)


def test_an_empty_cell_leaves_its_field_out() -> None:
    empty = [
        "",
        " ",
        "NULL",
        r" \N",
        "#N/A",
        "\0",
        "\u200b\u200f",
        '=""',
        "\ufeff",
        "\xad",
    ]
    rows = [[f"u{n}", *[word] * 4] for n, word in enumerate(empty)]
    found = read(
        table(["user_id", "email", "name", "since", "n"], rows),
        csv={"empty": r"NULL, \N ,#N/A"},
        user={**USER, "signed_up_at": "since"},
        custom_attributes={"n": "n : integer"},
    )
    assert found.users == [{"user_id": f"u{n}"} for n in range(len(empty))]
    assert found.is_silent


def test_an_empty_word_matches_only_whole_cells_and_is_case_sensitive() -> None:
    found = read(
        "user_id,name\nu1,NULLER\nu2,null\nNULL,Ada\n", user=USER | {"email": "name"},
        csv={"empty": "NULL"},
    )  # fmt: skip
    assert [user.get("name") for user in found.users] == ["NULLER", "null"]
    assert list(found.rejected) == [4]


INVISIBLE = [
    "\u200b",
    "\u202a",
    "\u202c",
    "\ufeff",
    "\xad",
    "\u2060",
    "\xa0",
    "\0",
    "\x1f",
    "\t",
]


def test_invisible_characters_at_the_ends_of_a_cell_are_stripped() -> None:
    rows = [
        [f"{character}u{n}{character}", f"{character} Ada{character}Bo {character}"]
        for n, character in enumerate(INVISIBLE)
    ]
    rows.append([' ="00123" ', '="a ""b"""'])
    found = read(
        table(["user_id", "name"], rows), user={"user_id": "user_id", "name": "name"}
    )
    names = [f"Ada{character}Bo".replace("\0", "") for character in INVISIBLE]
    assert found.users == [
        *({"user_id": f"u{n}", "name": name} for n, name in enumerate(names)),
        {"user_id": "00123", "name": 'a "b"'},
    ]


def test_a_value_that_is_not_of_its_type_is_omitted_and_its_user_is_sent() -> None:
    found = read(
        "user_id,n,since,e,plan\nu1,many,20261124,none,#REF!\nu2,2,2026-11-24,a@x.eu,C#\n",
        user={"user_id": "user_id", "email": "e", "signed_up_at": "since"},
        custom_attributes={"n": "n : INTEGER", "plan": "plan"},
    )
    assert found.users[0] == {"user_id": "u1"}
    assert found.users[1]["custom_attributes"] == {"n": 2, "plan": "C#"}
    assert sorted(found.omitted[2]) == ["#REF!", "20261124", "many", "none"]
    for word in (
        "'n'",
        "many",
        "an integer",
        "20261124",
        "without dashes",
        "an e-mail address",
    ):
        assert word in found.omitted_text


def test_a_text_of_any_length_may_be_a_field_but_not_an_attribute() -> None:
    found = read(
        f"user_id,name,plan\nu1,{'x' * 300},{'y' * 256}\nu2,Bo,{'y' * 255}\n",
        user={"user_id": "user_id", "name": "name"},
        custom_attributes={"plan": "plan"},
    )
    assert found.users[0] == {"user_id": "u1", "name": "x" * 300}
    assert found.users[1]["custom_attributes"] == {"plan": "y" * 255}
    assert "256 characters" in found.omitted_text
