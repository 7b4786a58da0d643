"""Reading CSV: records, lines, bytes, encodings, quotes, and files that aren't CSV."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import re
import subprocess
import sys
from typing import Any

import pytest
from conftest import SCRIPT, posix
from hypothesis import example, given
from hypothesis import strategies as st
from in_process import NO_DEADLINE

import export_csv
from export_csv import (
    CsvFormat,
    CsvReader,
    LenientGzipFile,
    Row,
    RunAborted,
    clean_cell,
    describe_foreign_format,
    normalize_heading,
    open_content,
)

MYSQL = CsvFormat(escape="\\")


def read(data: bytes, csv_format: CsvFormat = CsvFormat()) -> list[Row]:  # noqa: B008
    return list(CsvReader("users.csv", open_content(io.BytesIO(data)), csv_format))


def cells(text: str, csv_format: CsvFormat = CsvFormat()) -> list[list[str]]:  # noqa: B008
    rows = read(text.encode(csv_format.encoding), csv_format)
    assert [row.error for row in rows] == [""] * len(rows)
    return [row.cells for row in rows]


def check_bytes(data: bytes, rows: list[Row]) -> None:
    """Assert that the rows have all of the file's bytes, except for blank lines."""
    position = 0
    for row in rows:
        found = data.index(row.raw, position)
        assert not data[position:found].strip(b"\r\n\0 \t\"'")
        position = found + len(row.raw)


#### Lines, bytes and encodings


def test_each_record_has_its_line_and_its_bytes() -> None:
    data = b'a,b\r\n\r\n"x\ny",1\rz,2\n\n"",\n"""q""",3'
    rows = read(data)
    assert [(row.line, row.cells, row.line_count) for row in rows] == [
        (1, ["a", "b"], 1),
        (3, ["x\ny", "1"], 2),
        (5, ["z", "2"], 1),
        (7, ["", ""], 1),
        (8, ['"q"', "3"], 1),
    ]
    assert [row.raw for row in rows] == [
        b"a,b\r\n", b'"x\ny",1\r', b"z,2\n", b'"",\n', b'"""q""",3',
    ]  # fmt: skip


@pytest.mark.parametrize("size", [65535, 65536, 65537, 4095, 4096, 4097])
def test_a_line_may_end_at_the_end_of_a_block(size: int) -> None:
    first = b"a" * (size - 3) + b",b"
    for ending in (b"\r\n", b"\r", b"\n"):
        rows = read(first + ending + b'"x' + ending + b'y",2' + ending)
        assert [row.line for row in rows] == [1, 2]
        assert rows[0].raw == first + ending
        assert rows[1].raw == b'"x' + ending + b'y",2' + ending
        assert rows[1].cells == ["x" + ending.decode() + "y", "2"]


ENCODED = [
    ("cp932", b"\x87\x90\xed\x40,\x81\x5c"),
    ("big5", "許功蓋,能".encode("big5")),
    ("cp950", b"\xa1\xc3\xf9\xfe,\xa2\xcc"),
    ("euc_jp", b"\x8f\xa2\xb7,\xa1\xc1"),
    ("gb18030", "許,\U0001f600".encode("gb18030")),
    ("utf-7", b"Zo+AOs-,+AGEAYg-"),
    ("unicode_escape", rb"Zo\xeb,\x41\u00e9"),
    ("iso2022_jp", "日本,語".encode("iso2022_jp")),
    ("hz", "中,文".encode("hz")),
    ("cp1252", "Zoë,€".encode("cp1252")),
    ("johab", "가,나".encode("johab")),
]


@pytest.mark.parametrize(("encoding", "line"), ENCODED)
def test_the_bytes_of_a_record_are_kept_in_every_encoding(
    encoding: str, line: bytes
) -> None:
    data = b"name,x\n" + line + b"\r\n" + line + b"\n"
    rows = read(data, CsvFormat(encoding=encoding))
    assert [row.raw for row in rows] == [b"name,x\n", line + b"\r\n", line + b"\n"]
    assert ",".join(rows[1].cells) == line.decode(encoding)
    assert [row.error for row in rows] == ["", "", ""]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_utf_16_and_utf_32_are_read(encoding: str) -> None:
    text = 'a,b\r\n"Zo\u0a0aë\U0001f600\u0d0d\n",2\n' * 9000
    data = text.encode(encoding)
    reader = CsvReader(
        "x", open_content(io.BytesIO(data)), CsvFormat(encoding=encoding)
    )
    rows = list(reader)
    assert reader.bom + b"".join(row.raw for row in rows) == data
    assert rows[-1].cells == ["Zo\u0a0aë\U0001f600\u0d0d", "2"]
    assert rows[-1].line == 9000 * 3 - 1


def test_line_endings_are_recognized_in_any_encoding() -> None:
    for encoding in ("cp500", "cp037", "unicode_escape", "iso2022_kr"):
        text = "a,b\r\nZoe,1\nBo,2"
        if encoding == "iso2022_kr":
            text = "a,b\n가,나\n나,2"
        data = text.encode(encoding)
        rows = read(data, CsvFormat(encoding=encoding))
        assert len(rows) == 3, encoding
        assert b"".join(row.raw for row in rows) == data
        assert rows[1].raw == data[len(rows[0].raw) : -len(rows[2].raw)]
        assert ",".join(rows[1].cells) == text.splitlines()[1]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
def test_a_byte_order_mark_takes_precedence_over_the_setting(encoding: str) -> None:
    mark = "\ufeff".encode(encoding)
    data = mark + "name\nZoë\n".encode(encoding)
    reader = CsvReader(
        "x", open_content(io.BytesIO(data)), CsvFormat(encoding="cp1252")
    )
    rows = list(reader)
    assert (reader.bom, reader.encoding) == (mark, encoding)
    assert [row.cells for row in rows] == [["name"], ["Zoë"]]
    assert rows[0].raw == "name\n".encode(encoding)


def test_invalid_bytes_affect_only_their_own_row() -> None:
    rows = read(
        'a,b\n1,Zoë\n2,"Zo\n'.encode() + b"\xeb, x\n" + 'y"\n3,\ufffd\n4,x\n'.encode()
    )
    assert [row.error for row in rows] == [
        "", "", "contains bytes that are not valid utf-8; check [csv] encoding", "", "",
    ]  # fmt: skip
    assert (rows[2].line, rows[2].line_count) == (3, 3)
    assert rows[2].raw == b'2,"Zo\n\xeb, x\ny"\n'
    assert rows[3].cells == ["3", "\ufffd"]
    rows = read(b'a,b\n"\x81",1\n\x81,"\x87\x90"\n', CsvFormat(encoding="cp932"))
    assert [bool(row.error) for row in rows] == [False, True, True]
    lone_surrogate = "a,b\nx,Øy\n".encode("utf-16-le").replace(b"\xd8\0", b"\0\xd8")
    rows = read(lone_surrogate, CsvFormat(encoding="utf-16-le"))
    assert [row.error[:14] for row in rows] == ["", "contains bytes"]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("utf-7", b"a,b\n+/w-,\xff\n"),
        ("utf-16-le", "a,b\nc".encode("utf-16-le")[:-1]),
        ("utf-32-le", "a,b\n".encode("utf-32-le") + b"\xff\xff\xff\xff"),
        ("iso2022_jp", b"a,b\n\x1b$B\xff\xff\n"),
    ],
)
def test_invalid_bytes_stop_the_run_if_no_row_can_be_blamed(
    encoding: str, data: bytes
) -> None:
    with pytest.raises(RunAborted, match=f"not valid {encoding}; check .csv. encoding"):
        read(data, CsvFormat(encoding=encoding))


def test_nuls_and_boms_in_concatenated_files_are_dropped() -> None:
    assert cells('a,b\n\ufeffu\0003\0,"x\0 y"\n\0\n\ufeff"p",q\n') == [
        ["a", "b"], ["u3", "x y"], ["p", "q"],
    ]  # fmt: skip


#### Gzip


def test_data_after_a_gzip_stream_is_ignored_and_noted() -> None:
    one, two = gzip.compress(b"a,b\n1,2\n"), gzip.compress(b"3,4\n")
    content = open_content(io.BytesIO(one + two + b"\0" * 20))
    rows = list(CsvReader("x", content, CsvFormat()))
    assert [row.cells[0] for row in rows] == ["a", "1", "3"]
    assert isinstance(content, LenientGzipFile)
    assert not content.has_trailing_garbage
    for garbage in (b"\r\n", b"\0\0garbage", b"x"):
        content = open_content(io.BytesIO(one + two + garbage))
        assert len(list(CsvReader("x", content, CsvFormat()))) == 3
        assert isinstance(content, LenientGzipFile)
        assert content.has_trailing_garbage
    content = open_content(io.BytesIO(gzip.compress(b"") + b"\r\n"))
    assert list(CsvReader("x", content, CsvFormat())) == []


def test_a_truncated_or_corrupt_gzip_stops_the_run() -> None:
    data = gzip.compress(
        "".join(f"u{i},{i * 7919 % 10007}\n" for i in range(50000)).encode()
    )
    with pytest.raises(
        RunAborted, match=r"users.csv: the file is truncated or corrupt after line \d+$"
    ):
        read(data[:-1000])
    with pytest.raises(RunAborted, match="truncated or corrupt after line 0"):
        read(data[:15])
    corrupt = bytearray(data)
    corrupt[-6] ^= 1
    with pytest.raises(RunAborted, match="truncated or corrupt after line 50000"):
        read(bytes(corrupt))
    with pytest.raises(RunAborted, match="truncated or corrupt after line 0"):
        read(b"\x1f\x8b\xff\xff\xff")
    two = gzip.compress(b"a\nb\n") + gzip.compress(b"c\nd\n")[:-9]
    with pytest.raises(RunAborted, match="truncated or corrupt"):
        read(two)


#### Quotes, blanks, escapes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"" ,x', ["", "x"]),
        ('"say ""hi""" ,x', ['say "hi"', "x"]),
        ('"A"\t,x', ["A", "x"]),
        ('\t"A, B",x', ["A, B", "x"]),
        ('u,\t"A, B" \t,"x" ', ["u", "A, B", "x"]),
        ('  "u1", "a,b"  ,c', ["u1", "a,b", "c"]),
        ('"a\n b" ,x', ["a\n b", "x"]),
        ('"a\n say ""hi"" , x" \t, "y"', ['a\n say "hi" , x', "y"]),
        ('5\'11", say "hi" , x', ["5'11\"", 'say "hi"', "x"]),
        ('x"" ,"y"', ['x""', "y"]),
        ('"" , """" ,"" ""', None),
        ('""" " , " """', ['"', '"']),
        ('"" \n', None),
    ],
)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\r"])
def test_blanks_around_a_quoted_cell_are_harmless(
    text: str, expected: Any, ending: str
) -> None:
    rows = read((text + ending).encode())
    if expected is None:
        assert not rows or rows[0].error
    else:
        assert [row.cells for row in rows] == [expected]
        assert rows[0].raw == (text + ending).encode()


def test_a_blank_that_is_the_delimiter_is_kept() -> None:
    tab = CsvFormat(delimiter="\t")
    assert cells('"a" \t "b"\t\t"c"  \n', tab) == [["a", "b", "", "c"]]
    assert cells('"u2"  "gold"\n', CsvFormat(delimiter=" ")) == [["u2", "", "gold"]]


def test_cells_may_have_other_quotes_or_none() -> None:
    single = CsvFormat(quote="'", delimiter=";")
    assert cells("'a;b' ;'it''s'; \"x\"\n", single) == [["a;b", "it's", '"x"']]
    none = CsvFormat(quote="", delimiter="\t")
    assert cells('"a\t"b" \t""\n', none) == [['"a', '"b"', '""']]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'1,"Ada \"Ace\" Byron",London', ["1", 'Ada "Ace" Byron', "London"]),
        (r"2,Byron\, Bo,\N", ["2", "Byron, Bo", r"\N"]),
        (r"3,Cy,D:\data", ["3", "Cy", r"D:\data"]),
        (r"3,Cy,D:\data" + "\\", ["3", "Cy", "D:\\data\\"]),
        (r"3,\"Cy\" D,D:\\", ["3", '"Cy" D', "D:\\"]),
        (r'"\"a\"" , "b\\" ,"c"', ['"a"', "b\\", "c"]),
        (r'"a ""b"" \" ,",c\n', ['a "b" " ,', r"c\n"]),
        ('"a\\\nb",c', ["a\nb", "c"]),
        ('"a\\\\\nb" ,c', ["a\\\nb", "c"]),
        (r'"C:\temp\\" ,x', ["C:\\temp\\", "x"]),
        (r"\\\\server,\\\,", ["\\\\server", "\\,"]),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_an_escape_character_escapes_quotes_delimiters_and_itself(
    text: str, expected: Any, ending: str
) -> None:
    data = (text + ending).encode()
    rows = read(data + b"u,v,w" + ending.encode(), MYSQL)
    assert [row.cells for row in rows] == [expected, ["u", "v", "w"]]
    assert rows[0].raw == data


def test_escape_characters_work_without_quotes() -> None:
    mysqldump = CsvFormat(delimiter="\t", quote="", escape="\\")
    text = '1\tfirst\\\nsecond\t\\N\n2\ta\\\tb\tC:\\\\\n3\t"x\\"\t\\\r\\\n!\n4\tx\\\r\ny\tz\n'
    rows = read(text.encode(), mysqldump)
    assert [row.cells for row in rows] == [
        ["1", "first\nsecond", "\\N"],
        ["2", "a\tb", "C:\\"],
        ["3", '"x"', "!"],
        ["4", "x\r\ny", "z"],
    ]
    rows = read(b"1\ta\n2\tb\\\n", mysqldump)
    assert (
        rows[-1].error == "the file ends with an escape character before a line break"
    )
    assert read(b"1\ta\n2\tb\\", mysqldump)[-1].cells == ["2", "b\\"]


def test_text_after_a_closing_quote_affects_only_its_own_row() -> None:
    data = b'a,b\nu1,x\n"a"b,c\nu2,y\n'
    rows = read(data)
    assert [row.error for row in rows] == [
        "", "", "malformed quotes: text after a closing quote", "",
    ]  # fmt: skip
    assert rows[2].raw == b'"a"b,c\n'
    assert rows[3] == Row(4, b"u2,y\n", ["u2", "y"])


def test_a_quote_that_is_never_closed_affects_only_its_own_row() -> None:
    data = b'a,b\nu1,"Ada\nu2,"Bo\nX" ,\n u3, "C"\nu4,"D\nu5,E\n "u6" , F\nu7,\xff"\n'
    rows = read(data)
    assert [(row.line, row.cells, row.error[:34]) for row in rows] == [
        (1, ["a", "b"], ""),
        (2, [], "malformed quotes: an opening quote"),
        (3, ["u2", "Bo\nX", ""], ""),
        (5, ["u3", "C"], ""),
        (6, [], "malformed quotes: an opening quote"),
        (8, ["u6", "F"], ""),
        (9, ["u7", '\ufffd"'], "contains bytes that are not valid "),
    ]
    assert b"".join(row.raw for row in rows) == data
    rows = read(b'a,b\nu1,"Dear Ada,\nthanks" x,y\nu3,z\n')
    assert [(row.line, row.line_count, bool(row.error)) for row in rows] == [
        (1, 1, False), (2, 2, True), (4, 1, False),
    ]  # fmt: skip


def test_an_unclosed_quote_or_an_oversized_record_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        RunAborted, match="unclosed quote: opened on line 3, not closed by the end"
    ):
        read(b'a,b\n"x\n y","z\nu,v\n')
    monkeypatch.setattr(export_csv, "MAX_RECORD_SIZE", 2**12)
    with pytest.raises(
        RunAborted, match="opened on line 7, not closed within 4,096 characters"
    ):
        read(b'"a\n\nb",c\n' * 2 + b'"' + b"x,y\n" * 2**15)
    with pytest.raises(
        RunAborted, match=r"users\.csv: line 2 is longer than 4,096 characters"
    ):
        read(b"a,b\n" + b"x" * 2**12 + b",1\n")
    with pytest.raises(RunAborted, match="record that begins on line 2 is longer than"):
        read(b"a,b\n" + b'"x\ny",' * 2**15 + b"\n")
    assert len(read(b"a,b\n" + b"x" * (2**12 - 1) + b"\nc,d")) == 3
    assert len(read(b'a,b\n"' + "ž\n".encode() * (2**11 - 3) + b'"\nc,d')) == 3


MEMORY = {
    "no line ending": "(b'x' * 2**16 for _ in range(2**14))",
    "a million quoted cells": "iter([b'\"x\",' * 10**4] * 100)",
    "many large cells": "iter([b'u1,' + b'x' * 10**6 + b'\\n'] * 20)",
}
READ_PIECES = """
import io, json, resource, sys
from export_csv import CsvFormat, CsvReader, RunAborted


class Pieces(io.RawIOBase):
    def __init__(self, pieces):
        self.pieces = pieces
        self.rest = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        self.rest = self.rest or next(self.pieces, b"")
        size = min(len(buffer), len(self.rest))
        buffer[:size] = self.rest[:size]
        self.rest = self.rest[size:]
        return size


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


before = peak()
try:
    for row in CsvReader("x", io.BufferedReader(Pieces(eval(sys.argv[1])), 2**16), CsvFormat()):
        pass
except RunAborted:
    pass
print(peak() - before)
"""


@posix("the resource module isn't available on Windows")
@pytest.mark.parametrize("case", MEMORY)
def test_memory_stays_flat(case: str) -> None:
    result = subprocess.run(
        [sys.executable, "-B", "-c", READ_PIECES, MEMORY[case]],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parent,
    )
    assert not result.stderr
    assert int(result.stdout) < 60  # MB


#### Other kinds of files


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"PK\x03\x04...", "Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        (b" <!DOCTYPE html><html>", "HTML"),
        (b"\xef\xbb\xbf<html lang=en>", "HTML"),
        (b"<table border=1><tr><td>", "HTML"),
        ("<html>\n".encode("utf-16"), "HTML"),
        (b'<?xml version="1.0"?>', "XML"),
        (b"<users>\n  <user>", "XML"),
        (b'{"users": [{"id": 1, "name": "Ad', "JSON"),
        (b'\n[{"id": 1}, {"id": tr', "JSON"),
        (b'[1, 2, "a', "JSON"),
        (b'{"id": 1}\n{"id": 2}\n', "JSON"),
        (b"[" * 60000, "JSON"),
        (b"[]", "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08", "gzip"),
        (bz2.compress(b"a,b"), "compressed"),
        (b"\xfd7zXZ\0\0\x04", "compressed"),
        (b"\x28\xb5\x2f\xfd\x04", "compressed"),
        (b"7z\xbc\xaf\x27\x1c", "compressed"),
        (b"PAR1\x15\x04", "binary"),
        (b"Obj\x01\x04", "binary"),
        (b"SQLite format 3\0", "binary"),
        ("user_id,name".encode("utf-16-le"), "encoding = utf-16-le"),
        ("user_id,name".encode("utf-16-be"), "encoding = utf-16-be"),
        ("user_id,name".encode("utf-32-le"), "encoding = utf-32-le"),
    ],
)
def test_a_file_that_is_not_csv_is_identified(head: bytes, word: str) -> None:
    assert word in describe_foreign_format(head, "users.csv")


@pytest.mark.parametrize(
    "head",
    [
        b"PK,user_id", b"<id>,user_id\n1,2", b"BZh1,user_id", b"BZh,x", b"[id],user_id,email",
        b"{x},b", b"{}x,b", b"PAR1,x", b"ORC,x", b"Obj,x", b"<head>,x", b"<title>;x",
        b"SQLite format 3,x",
        b"", b"a", b"u1\0\0\0,b\0\0", b"7z,x", b"[\"a\" b],c", b"<a>,<b>\n", b"%PDF,x", b"{a,b\n",
        b"[t],u",
        b"-1,2", b'"{""a"": 1}",x', b"[nope],x",
    ],
)  # fmt: skip
def test_headings_that_look_like_another_format_are_headings(head: bytes) -> None:
    assert describe_foreign_format(head, "users.csv") == ""


def test_utf_16_without_a_bom_is_fine_if_it_is_configured() -> None:
    head = "user_id,name".encode("utf-16-le")
    assert describe_foreign_format(head, "users.csv", "utf-16-le") == ""


#### Cells and headings


def test_a_cell_is_cleaned() -> None:
    assert clean_cell("\u200b u1\u202c\u00a0\0") == "u1"
    assert clean_cell("\x1f0013\u00ad") == "0013"
    assert clean_cell('="00123"') == "00123"
    assert clean_cell(' ="a ""b""" ') == 'a "b"'
    assert clean_cell('="a"&"b"') == '="a"&"b"'
    assert clean_cell('="') == '="'
    assert clean_cell('=""') == ""
    assert clean_cell("=)") == "=)"


def test_headings_that_look_alike_are_equal() -> None:
    assert normalize_heading("\ufeffUser\u00a0 \n ID\u200b") == "User ID"
    assert (
        normalize_heading("Pre\u0301nom")
        == normalize_heading("Pr\u00e9\u00adnom")
        == "Prénom"
    )
    assert normalize_heading('="user_id"') == "user_id"


#### Random tables


@st.composite
def dialects(draw: st.DrawFn) -> CsvFormat:
    quote = draw(st.sampled_from(['"', "'", ""]))
    escape = draw(st.sampled_from(["", "\\"]))
    return CsvFormat(
        delimiter=draw(st.sampled_from([",", ";", "\t", "|", " "])),
        quote=quote,
        escape=escape or ("\\" * (quote == "")),
        encoding=draw(
            st.sampled_from(
                ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-be", "utf-32", "cp932",
                 "gb18030", "euc_jp", "utf-7", "iso2022_jp"]
            )
        ),
    )  # fmt: skip


CHARACTERS = st.one_of(
    st.sampled_from("\"',;\t| \\\r\n\0\ufeffëž€\U0001f600="),
    st.sampled_from("ab1"),
    st.characters(exclude_categories=["Cs"]),
)
TABLES = st.lists(
    st.lists(st.text(CHARACTERS, max_size=6), min_size=2, max_size=4), max_size=6
)


@NO_DEADLINE
@given(TABLES, dialects(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
@example([["\n", "x"]], CsvFormat(quote="", escape="\\"), "\n", False)
def test_a_random_table_survives_a_round_trip(
    table: list[list[str]], csv_format: CsvFormat, line_ending: str, quote_all: bool
) -> None:
    # NULs and byte-order marks are dropped on purpose, and iso2022_jp can't encode ESC.
    table = [[re.sub("[\0\ufeff\x1b]", "", cell) for cell in row] for row in table]
    encoding = csv_format.encoding
    table = [
        [cell.encode(encoding, "ignore").decode(encoding) for cell in row]
        for row in table
    ]
    if not (csv_format.quote and quote_all):
        # Before Python 3.13, csv.writer quotes only the line ending that it writes itself.
        for other in {"\r", "\n"} - set(line_ending):
            table = [[cell.replace(other, "") for cell in row] for row in table]
    buffer = io.StringIO(newline="")
    options: dict[str, Any] = {
        "quotechar": csv_format.quote,
        "quoting": csv.QUOTE_MINIMAL,
    }
    if quote_all:
        options["quoting"] = csv.QUOTE_ALL
    if not csv_format.quote:
        options = {"quoting": csv.QUOTE_NONE}
    writer = csv.writer(
        buffer,
        delimiter=csv_format.delimiter,
        escapechar=csv_format.escape or None,
        doublequote=not csv_format.escape,
        lineterminator=line_ending,
        **options,
    )
    for row in table:
        writer.writerow(row)
    text = buffer.getvalue()
    data = text.encode(encoding)
    stream = io.BufferedReader(io.BytesIO(data))
    reader = CsvReader("x", stream, csv_format)
    rows = list(reader)
    assert [row.error for row in rows] == [""] * len(rows)
    assert [row.cells for row in rows] == [
        [clean_cell(cell) for cell in row] for row in table
    ]
    assert reader.bom + b"".join(row.raw for row in rows) == data
    line = 1
    for found in rows:
        assert found.line == line
        line += found.line_count


@NO_DEADLINE
@given(
    st.binary(max_size=60), st.sampled_from(["utf-8", "cp932", "utf-16-le", "utf-7"])
)
def test_any_bytes_yield_rows_or_an_error(data: bytes, encoding: str) -> None:
    with contextlib.suppress(RunAborted):
        check_bytes(
            data.removeprefix(codecs.BOM_UTF8), read(data, CsvFormat(encoding=encoding))
        )


@NO_DEADLINE
@given(
    st.text(st.sampled_from('"", \tab\n\\'), max_size=30), st.sampled_from(["", "\\"])
)
def test_line_numbers_are_right_whatever_the_quotes(text: str, escape: str) -> None:
    data = text.encode()
    try:
        rows = read(data, CsvFormat(escape=escape))
    except RunAborted:
        return
    lines = data.splitlines(keepends=True)
    end = 0
    for row in rows:
        assert row.line > end
        end = row.line + row.line_count - 1
        assert row.raw == b"".join(lines[row.line - 1 : end])
