"""Files and responses that other importers got wrong, according to public bug reports.

Valid files that look similar are tested too: they must be imported without a warning.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import unicodedata
import zipfile
from typing import Any, NamedTuple

import pytest
from conftest import Project, assert_says, imported, line_of, sent, stop_message
from faults import NO_FAULT, Fault
from in_process import USER, Reading, read

H = "user_id,email,name\n"
A = "u1,a@x.eu,Ada\n"
B = "u2,b@x.eu,Bo\n"
ADA = "u1 a@x.eu Ada"
BO = "u2 b@x.eu Bo"
BOM = "\ufeff"
CUSTOM_HEADINGS = "Customer ID,E-mail address,Full name\n"
CUSTOM_USER = dict(zip(USER, CUSTOM_HEADINGS.strip().split(","), strict=True))
SEMICOLON = {"delimiter": ";"}
TAB = {"delimiter": "tab"}
Sections = dict[str, dict[str, Any]]


def gzipped(*texts: str) -> bytes:
    """Return a .gz with a member for each text."""
    return b"".join(gzip.compress(text.encode()) for text in texts)


def workbook(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, H + A)
    return file.getvalue()


class Case(NamedTuple):
    """A file and its expected result."""

    content: str | bytes
    users: list[str] | None = None  # as formatted by `shown`; None: not compared
    rejected: list[int] = []  # lines
    omitted: list[str] = []  # cells
    csv: dict[str, Any] = {}
    user: dict[str, Any] = USER
    attributes: dict[str, Any] = {}

    def read(self, name: str = "users.csv") -> Reading:
        sections: Sections = {"user": self.user, "csv": self.csv}
        sections["custom_attributes"] = self.attributes
        return read(self.content, name, **sections)


def shown(user: dict[str, Any]) -> str:
    """Return user_id, email and name, with - for a missing one, then the attributes."""
    values = [user.get(key, "-") for key in USER]
    values += user.get("custom_attributes", {}).values()
    return unicodedata.normalize("NFC", " ".join(map(str, values)))


PLAN = {"plan": "plan"}
ID_AND_NAME = {"user_id": "user_id", "name": "name"}
ID = {"user_id": "user_id"}
T = {"t": "t : timestamp"}
BOTH = [ADA, BO]

CASES = {
    # rust-csv#337
    "space-before-quote": Case('user_id, email, name\nu1, "a@x.eu", "Ada"\n', [ADA]),
    "space-before-comma": Case(H + 'u1,  "a@x.eu" , "Ada, née B" \n', ["u1 a@x.eu Ada, née B"]),
    "space-before-lines": Case(H + 'u1, "a@x.eu", "A ""\nB"""\n', ['u1 a@x.eu A "\nB"']),
    "space-after-tab": Case(
        'user_id\t "email"\tname\nu1\t "a@x.eu"\t "A\tB"\n', ["u1 a@x.eu A\tB"], csv=TAB
    ),
    # ruby/csv#93
    "excel-text-guard": Case(H + '="01",,Ada\n"=""02""",,Bo\n', ["01 - Ada", "02 - Bo"]),
    "guards-in-blanks": Case(H + ' ="u1" ,"=""a@x.eu""",=" Ada "\n="",b@x,B\n', [ADA, "- b@x B"]),
    "no-guards": Case(
        H + '1,,=1+2\n=2+3,,x\n2,,"=""a""&""b"""\n', ["1 - =1+2", '2 - ="a"&"b"'], [3]
    ),
    # pandas#28335
    "pandas-float-ids": Case(H + "1.0,a@x.eu,A\n1002.0,b@x.eu,B\n,b@x.eu,Bo\n", ["- b@x.eu Bo"],
                             [2, 3]),
    # react-csv#181
    "invisible-ends": Case(H + "u1\u200b,a@x.eu\u200b,Ada\nu2,\u202ab@x.eu\u202c,Bo\n", BOTH),
    "invisible-starts": Case(H + "\ufeffu1,a@x.eu,Ada\nu2\xad,b@x.eu,Bo\n", BOTH),
    "invisible-digits": Case(H + "0012\u200b,,E\n\x1f0013,,F\n", ["0012 - E", "0013 - F"]),
    "invisible-others": Case(H + "\u2060u1\u200e,\u2066a@x.eu\u2069,\xa0Ada\u3000\n", [ADA]),
    "invisible-alone": Case(H + "\u200f\u200d,b@x.eu,Bo\n", ["- b@x.eu Bo"]),
    "invisible-inside": Case(H + "1,,👩\u200d🚀 ❤\ufe0f\n", ["1 - 👩\u200d🚀 ❤\ufe0f"]),
    "invisible-heading": Case(BOM + "\u200buser_id\u200b, email\xa0,\xadname\n" + A, [ADA]),
    # s3-concat#3
    "repeated-heading": Case(H + A + H + B, BOTH),
    "repeated-with-bom": Case(BOM + H + A + "\n" + BOM + H + B + BOM + H, BOTH),
    "repeated-in-quotes": Case(H + A + '"user_id", "email","name",\n' + B, BOTH),
    "repeated-in-part": Case(H + A + "user_id,e@x,Bo\n", [ADA, "user_id e@x Bo"]),
    "repeated-utf-16": Case((H + A).encode("utf-16") + (H + B).encode("utf-16"), BOTH,
                            csv={"encoding": "utf-16"}),
    "repeated-two-blanks": Case("User  ID,name\nu1,Ada\nUser  ID,name\nu2,Bo\n",
                                ["u1 - Ada", "u2 - Bo"],
                                user={**ID_AND_NAME, "user_id": "User ID"}),
    "repeated-nbsp": Case("User\xa0ID,name\nu1,Ada\nUSER ID,NAME\n", ["u1 - Ada"],
                          user={**ID_AND_NAME, "user_id": "User ID"}),
    "repeated-nfd": Case("Nume\u0301ro,name\nu1,A\nNuméro,name\nNume\u0301ro,name\n", ["u1 - A"],
                         user={**ID_AND_NAME, "user_id": "Numéro"}),
    "repeated-soft-hyphen": Case("User\xadnummer,name\nu1,A\nUsernummer,name\n", ["u1 - A"],
                                 user={**ID_AND_NAME, "user_id": "Usernummer"}),
    "repeated-two-lines": Case('"User\nID",name\nu1,A\n"User\r\nID",name\nUser ID,name\n',
                               ["u1 - A"], user={**ID_AND_NAME, "user_id": "User ID"}),
    "repeated-blank-first": Case(",user_id,name\n0,u1,A\n,user_id,name\n1,u2,B\n",
                                 ["u1 - A", "u2 - B"], user=ID_AND_NAME),
    "multimember-heading": Case(gzipped(H + A, H + B), BOTH),
    "multimember-boms": Case(gzipped(BOM + H + A, BOM + H + B), BOTH),
    "multimember-anywhere": Case(gzipped(H[:9], H[9:] + A[:4], A[4:] + B), BOTH),
    # pimcore-data-definitions#276
    "set-and-in-file": Case(CUSTOM_HEADINGS + A, [ADA],
                            csv={"headings": CUSTOM_HEADINGS.strip().lower()},
                            user={key: name.lower() for key, name in CUSTOM_USER.items()}),
    "set-with-bom": Case(BOM + "CUSTOMER ID, E-Mail Address ,FULL NAME\n" + A, [ADA],
                         csv={"headings": CUSTOM_HEADINGS.strip()}, user=CUSTOM_USER),
    "set-in-members": Case(gzipped(CUSTOM_HEADINGS + A, CUSTOM_HEADINGS + B), BOTH,
                           csv={"headings": CUSTOM_HEADINGS.strip()}, user=CUSTOM_USER),
    "set-and-not-in-file": Case(A + B, BOTH, csv={"headings": H.strip()}),
    # SQL Server's bcp
    "bcp-nul": Case("user_id;email;name\nu1;a@x.eu;\0\n\0;b@x.eu;Bo\n",
                    ["u1 a@x.eu -", "- b@x.eu Bo"], csv=SEMICOLON),
    "nul-padded": Case(H + "u1\0\0\0,a@x.eu,Ada\0\0\n", [ADA]),
    "nul-around": Case(H + '\0u1\0,\0"a@x.eu"\0,A\0da\n\0\0,\0,Nobody\n', [ADA], [3]),
    # ClickHouse/clickhouse-go#157
    "sentinel-times": Case(
        "user_id,t\nu1,0001-01-01T00:00:00Z\nu2,9999-12-31\nu3,0000-00-00 00:00:00\nu4,1899-12-30\n"
        "u5,0\nu6,-1\nu7,1970-01-01\nu8,9999-12-31 23:59:59.9999999\nu9,-62135596800\n",
        [*(f"u{n} - -" for n in range(1, 7)), "u7 - - 0", "u8 - -", "u9 - -"],
        omitted=["0001-01-01T00:00:00Z", "9999-12-31", "0000-00-00 00:00:00", "1899-12-30", "0",
                 "-1", "9999-12-31 23:59:59.9999999", "-62135596800"],
        user=ID, attributes=T,
    ),
    # user-sync.py#180
    "bom-against-cp1252": Case(BOM + H + "u1,a@x.eu,Zoë Ünal\n", ["u1 a@x.eu Zoë Ünal"],
                               csv={"encoding": "cp1252"}),
    "bom-of-utf-16": Case((H + A).encode("utf-16"), [ADA]),
    "bom-of-utf-16-be": Case((BOM + H + A).encode("utf-16-be"), [ADA], csv={"encoding": "latin-1"}),
    # ArcReel#1578
    "nfd-heading": Case("user_id,email,Pre\u0301nom\nu1,a@x.eu,Zoe\u0308\n", ["u1 a@x.eu Zoë"],
                        user={**USER, "name": "Prénom"}),
    "nfd-of-the-config": Case("user_id,email,Prénom\n" + A, [ADA],
                              user={**USER, "name": "Pre\u0301nom"}),
    # aws-cli#6765, s3sync#79
    "gzip-named.csv": Case(gzipped(H + A), [ADA]),
    "plain.csv.gz": Case(H + A + B, BOTH),
    # duckdb#8231, ddeboer/data-import#33
    "trailing-comma": Case(H + "u1,a@x.eu,Ada,\nu2,b@x.eu,Bo,\n", BOTH),
    "short-rows": Case("user_id,email,name,notes\n" + A + "u2,b@x.eu,Bo,\n", BOTH),
    "shorter-rows": Case("user_id,email,name,a,b\n" + A + "u2,b@x.eu,Bo,x\n", BOTH),
    "short-mapped-rows": Case("user_id,email,name,plan\n" + A + "u2,b@x.eu\nu3,c@x.eu,Cy,pro\n",
                              [ADA, "u2 b@x.eu -", "u3 c@x.eu Cy pro"], attributes=PLAN),
    "heading-comma": Case("user_id,email,name,\n" + A + B, BOTH),
    "heading-commas": Case("user_id,email,name,,\nu1,a@x.eu,Ada,x,y\n" + B, BOTH),
    # sqlyog-community#1164
    "mysql-null": Case(H + "1,\\N,Ada\n\\N,b@x.eu,\\N\n\\N,\\N,Nobody\n",
                       ["1 - Ada", "- b@x.eu -"], [4], csv={"empty": r"\N"}),
    "other-nulls": Case(H + '1, NULL ,#N/A\n"NULL",,x\n3,,NULLER\n', ["1 - -", "3 - NULLER"], [3],
                        csv={"empty": "NULL, #N/A"}),
    # pandas#34859
    "boolean-1.0": Case("user_id,o\nu1,1.0\nu2,0.0\nu3,True\nu4,\nu5,VRAI\nu6,Yes.\nu7,off\n",
                        ["u1 - - True", "u2 - - False", "u3 - - True", "u4 - -", "u5 - -", "u6 - -",
                         "u7 - - False"],
                        omitted=["VRAI", "Yes."], user=ID, attributes={"o": "o : boolean"}),
    # files that only start like another format
    "not-zip": Case("PK,user_id,email,name\n7," + A, [ADA]),
    "not-json": Case("[id],user_id,email,name\n7," + A, [ADA]),
    "not-html": Case("<id>,user_id,email,name\n7," + A, [ADA]),
    # django-admin-csvexport#9, ganttproject#1024
    "thousands-ids": Case(H + 'u998,,\n999,,\n"1,000",c@x.eu,\n"12,345",d@x.eu,\n',
                          ["u998 - -", "999 - -"], [4, 5]),
    # mongo-express#761, pandas#9712
    "rendered-ids": Case(
        H + '7,,Ada\nObjectId(6720f3a1b2c3d4e5f6071829),b@x.eu,\n"{""$oid"": ""672""}",c@x.eu,\n'
        "b'u4',d@x.eu,\nUUID('7d3f'),e@x.eu,\n['u6'],f@x.eu,\n\"\"\"u7\"\"\",g@x.eu,\n"
        '"=HYPERLINK(""https://x.eu/8"",""8"")",h@x.eu,\n"<a href=""/u/9"">9</a>",i@x.eu,\n',
        ["7 - Ada"], list(range(3, 11)),
    ),
    "words-for-none": Case(H + "null,a@x.eu,\nNone,b@x.eu,\nNaN,c@x.eu,\nundefined,d@x.eu,\n"
                           "-,e@x.eu,\n,f@x.eu,Nan\n", ["- f@x.eu Nan"], [2, 3, 4, 5, 6]),
    # SQL Server's sqlcmd, psql, Markdown
    "sqlcmd": Case(H + f"-------,-----,----\n{A}{B}\n(2 rows affected)\n", BOTH, [2, 6]),
    "markdown": Case("|user_id|email|name|\n|:--|---|--:|\n|u1|a@x.eu|Ada|\n", [ADA], [2],
                     csv={"delimiter": "|"}),
    # Excel, Google Sheets
    "sheet-errors": Case(
        "user_id,email,name,plan\n#ERROR!,a@x.eu,A,p\n#NV,b@x.eu,B,p\n#BEZUG!,c@x.eu,C,p\n"
        "Loading...,d@x.eu,D,p\n5,e@x.eu,#NAME?,#REF!\n6,f@x.eu,#1 Flo,C#\n",
        ["5 e@x.eu -", "6 f@x.eu #1 Flo C#"], [2, 3, 4, 5], ["#NAME?", "#REF!"], attributes=PLAN,
    ),
    # class2go#1351, talim-ai#66
    "line-break": Case("user_id,plan,note\nu1,pro,first line\nsecond line\nu2,free,fine\nasap\n",
                       ["u1 - -", "u2 - -"], [3, 5], user=ID),
    # wca#10528, metrics-toolkit#90
    "unquoted-comma": Case(
        "user_id,name,plan,note\nu1,Ada,pro,x\nu2,Lovelace, Ada,pro,\nu3,Bo,free,\n",
        ["u1 - Ada pro", "u3 - Bo free"], [3], user=ID_AND_NAME, attributes=PLAN,
    ),
    "extra-cells": Case(H + A + "u3,c@x.eu,Cy,\n" + B + "u4,d@x.eu,Di,,,\n", BOTH, [3, 5]),
    "stray-quote": Case('user_id,name,email\nu1,"Ada,a@x.eu\nu2,Bo 5\'11",b@x.eu\nu3,Cy,c@x.eu\n',
                        ["u3 c@x.eu Cy"], [2]),
    # mysql -B, BigQuery
    "tsv-quotes": Case('user_id\tname\temail\nu1\t"Bob\tb@x.eu\nu2\tCy\tc@x.eu\n'
                       'u3\tTV 55"\td@x.eu\n'
                       "u4\tEd\te@x.eu\n", ["u4 e@x.eu Ed"], [2], csv=TAB),
    "tsv-no-quotes": Case('user_id\tname\temail\nu1\t"Bob\tb@x.eu\nu3\tTV 55"\td@x.eu\n',
                          ['u1 b@x.eu "Bob', 'u3 d@x.eu TV 55"'], csv={**TAB, "quote": "none"}),
    # MySQL's INTO OUTFILE
    "mysql-escapes": Case(
        'user_id,name,city\n1,"Ada \\"Ace\\" B",London\n2,Byron\\, Bo,\\N\n3,Cy,D:\\data\n',
        ['1 - Ada "Ace" B London', "2 - Byron, Bo", "3 - Cy D:\\data"],
        csv={"escape": "\\", "empty": r"\N"}, user=ID_AND_NAME, attributes={"city": "city"},
    ),
    # mailto links, address books
    "emails": Case(
        H + 'u1,mailto:a@x.eu,A\nu2,Bo <b@x.eu>,B\nu3,"c@x.eu, d@x.eu",C\nu4,none,D\n'
        ",@example.com,E\nu6,o'flo@x.eu,F\nu7,GUS+news@x.eu,G\n",
        ["u1 - A", "u2 - B", "u3 - C", "u4 - D", "u6 o'flo@x.eu F", "u7 GUS+news@x.eu G"],
        [6], ["mailto:a@x.eu", "Bo <b@x.eu>", "c@x.eu, d@x.eu", "none"],
    ),
    # edsl#683, qualtRics#187
    "survey": Case(
        'ResponseId,Mail,Q1\nResponse ID,Recipient,How likely?\n"{""ImportId"":""_id""}",'
        '"{""ImportId"":""mail""}","{""ImportId"":""QID1""}"\nR_1,a@x.eu,9\nR_2,b@x.eu,7\n',
        ["- a@x.eu - 9", "- b@x.eu - 7"], [2, 3], user={"email": "Mail"},
        attributes={"nps": "Q1 : integer"},
    ),
    "total-row": Case("user_id,email,orders\n1,a@x.eu,3\nTotal,,3\n", ["1 a@x.eu -"], [3],
                      user={"user_id": "user_id", "email": "email"}),
    "blank-rows": Case("user_id;email;name\nu1;a@x.eu;Ada\n;;\n; ;\n;;;;\n;\nu2;b@x.eu;Bo\n;;\n",
                       BOTH, csv=SEMICOLON),
    "lost-letters": Case(H + "u1,a@x.eu,Zo\ufffd M\ufffdller\nu\ufffd2,b@x.eu,B\nu3,c@x.eu,Zoë\n",
                         ["u1 a@x.eu -", "u3 c@x.eu Zoë"], [3], ["Zo\ufffd M\ufffdller"]),
    "number-groups": Case(
        "user_id;n\nu1;1 234.50\nu2;12\xa0345.5\nu3;1\u202f234\nu4;1'234.50\nu5;(12.50)\n"
        "u6;12.50-\n"
        "u7;€ 1,234.50\nu8;12 34\n",
        ["u1 - - 1234.5", "u2 - - 12345.5", "u3 - - 1234.0", "u4 - - 1234.5", "u5 - - -12.5",
         "u6 - - -12.5", "u7 - - 1234.5", "u8 - -"],
        omitted=["12 34"], csv=SEMICOLON, user=ID, attributes={"n": "n : float"},
    ),
    # Dolibarr#22450
    "php-warning": Case(
        H + A + "<br />\n<b>Fatal error</b>:  Allowed memory size of 134217728 bytes exhausted in "
        "<b>/srv/export.php</b> on line <b>9</b><br />\n<b>Warning</b>: fputcsv(a, b), line 9\n",
        ["u1 - -"], [3, 4, 5], user=ID,
    ),
    "future-dates": Case(
        "user_id,joined,t\nu1,2026-01-05,2199-01-05\nu2,2199-01-05,2199-01-06\n",
        ["u1 - - 7226928000", "u2 - - 7227014400"], omitted=["2199-01-05"],
        user={**ID, "signed_up_at": "joined"}, attributes=T),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_unusual_file_is_read_as_intended(name: str) -> None:
    case = CASES[name]
    found = case.read(name)
    assert found.reason == ""
    assert [shown(user) for user in found.users] == case.users
    assert list(found.rejected) == case.rejected
    assert [cell for cells in found.omitted.values() for cell in cells] == case.omitted
    assert not found.warnings


#### What stops a run

HTML = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please</body></html>"
SWAPPED = [
    "01/05/2026",
    "01/14/2026",
    "01/23/2026",
    "02/01/2026",
    "02/10/2026",
    "02/19/2026",
]
JOINED = {**ID, "signed_up_at": "joined"}
RATING = {"rating": "rating : float"}


def lines(heading: str, row: str, cells: list[Any]) -> str:
    """Return a file with a row for each cell; in `row`, {n} is its number and {c} the cell."""
    rows = [row.format(n=number, c=cell) for number, cell in enumerate(cells)]
    return "\n".join([heading, *rows]) + "\n"


COMMA_DATES = [
    f"{n % 12 + 1}/{n * 2 + 3}/2026, {n % 12 + 1}:05:09 PM" for n in range(12)
]
HOURS = [f"20261101{n:02}" for n in range(8, 19)]
PLANS = ["team", "free", "pro"]
ROUNDED = [1084217483926130000 + 70000 * n for n in range(12)]
STOPS: dict[str, tuple[Case, list[str]]] = {
    # aws-cli#6765
    "xlsx": (Case(workbook("xl/workbook.xml")), ["Excel"]),
    "xlsx.gz": (Case(gzip.compress(workbook("xl/workbook.xml"))), ["Excel"]),
    "xls": (Case(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)), ["Excel"]),
    "double": (Case(gzip.compress(gzipped(H + A))), ["gzip"]),
    "zip": (Case(workbook("users.csv")), [r"\bzip\b"]),
    "pdf": (Case("%PDF-1.7\n%âãÏÓ\n1 0 obj <</Type /Catalog>> endobj\n"), ["PDF"]),
    "html": (Case(HTML), ["HTML"]),
    "html-blank": (Case("\r\n\r\n  \n" + BOM + "<html lang=en>\n" + HTML), ["HTML"]),
    "html.gz": (Case(gzipped(HTML)), ["HTML"]),
    "xml": (Case('<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n'), ["XML"]),
    "json": (Case('[{"user_id": "u1", "email": "a@x.eu"},\n {"user_id": "u2"}]\n'), ["JSON"]),
    "utf-16-no-bom": (Case((H + "u1,a@x.eu,Zoë\n").encode("utf-16-le")), ["utf-16"]),
    # spatie/simple-excel#38
    "sep-line": (Case("sep=;\r\nuser_id;email;name\r\nu1;a@x.eu;Ada\r\n"),
                 [r"\b2\b", "delimiter = ;"]),
    "sep-tab": (Case(BOM + '"sep=\t"\nuser_id\temail\tname\nu1\ta@x\tb\n'),
                [r"\b2\b", "delimiter = tab"]),
    "sep-bar": (Case("SEP=|\nuser_id|email|name\nu1|a@x|b\n"), [r"\b2\b", r"delimiter = \|"]),
    "sep-comma": (Case("sep=,\n" + H + A), [r"\b2\b"]),
    "title-line": (Case("User export of November\n\n" + H + A), [r"\b3\b"]),
    "title-lines": (Case("ACME,,\nUsers,,\n" + '"of\nNovember",,\n' + H + A), [r"\b5\b"]),
    # rudder-transformer#227
    "one-id-for-all": (Case(lines(H[:-1], "0,u{n}@x.eu,{c}", ["N"] * 300)), ["300", "user_id=0"]),
    "most-rows-name-one-user": (
        Case(lines("user_id", "{c}", ["x"] * 6 + list("abcde")), user=ID), ["6 of 11"],
    ),
    # may#250, submersion#1828
    "swapped-dates": (
        Case(lines("user_id,joined", "u{n},{c}", SWAPPED),
             user={**ID, "signed_up_at": "joined : timestamp %d/%m/%Y"}),
        ["'joined'", "01/14/2026 on line 3", "signed_up_at = joined : timestamp %m/%d/%Y$"],
    ),
    # German exports
    "three-decimals": (
        Case(lines("user_id;rating", "u{n};{c}", ["4,125", "3,750", "4,5", "5"]), csv=SEMICOLON,
             user=ID, attributes=RATING),
        ["'rating'", "4,5 on line 4", r"set \[csv\] decimal = ,$"],
    ),
    # exports that write YYYYMMDDHH
    "hours-as-seconds": (
        Case(lines("user_id,seen", "u{n},{c}", HOURS), user=ID,
             attributes={"seen_at": "seen : timestamp"}),
        ["'seen'", "2026110108 on line 2", "seen_at = seen : timestamp %Y%m%d%H$"],
    ),
    # JavaScript's toLocaleString
    "comma-dates": (
        Case(lines("user_id,joined", 'u{n},"{c}"', COMMA_DATES), user=JOINED),
        ["'joined'", "line 2", "joined : timestamp %m/%d/%Y, %I:%M:%S %p$"],
    ),
    # odoo#24668, baserow#459
    "utf8-as-cp1252": (Case(H + "1,a@x.eu,Zoë\n2,b@x.eu,Noël\n", csv={"encoding": "cp1252"}),
                       ["encoding = utf-8"]),
    "cp1252-as-utf8": (Case(lines(H[:-1], "{n},,{c}", ["Zoë"] * 10).encode("cp1252")),
                       ["encoding = cp1252"]),
    # osTicket#2123, snipe-it#541
    "other-headings": (Case("uid,mail,fullname\n" + A + B, csv={"headings": H.strip()}),
                       ["uid, mail, fullname", "headings"]),
    # a slip in config.ini
    "plan-as-id": (
        Case(lines("plan,mail", "{c},u{n}@x.eu", [PLANS[n * 7 % 3] for n in range(40)]),
             user={"user_id": "plan", "email": "mail"}),
        ["40 rows", "3 users"],
    ),
    # orangelight#2695
    "rounded-ids": (
        Case(lines("user_id", "{c}", ROUNDED), user=ID), ["spreadsheet", "rounded", "15 digits"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_a_file_that_is_wrong_as_a_whole_stops_the_run_with_the_cause(
    name: str,
) -> None:
    case, words = STOPS[name]
    found = case.read()
    assert found.reason.startswith("users.csv")
    assert_says(found.reason.removeprefix("users.csv"), *words)


def test_the_settings_that_a_message_suggests_work() -> None:
    dates, _ = STOPS["swapped-dates"]
    found = dates._replace(
        user={**ID, "signed_up_at": "joined : timestamp %m/%d/%Y"}
    ).read()
    assert (len(found.users), found.is_silent) == (6, True)
    decimals, _ = STOPS["three-decimals"]
    found = decimals._replace(csv={**SEMICOLON, "decimal": ","}).read()
    assert [user["custom_attributes"]["rating"] for user in found.users] == [
        4.125,
        3.75,
        4.5,
        5,
    ]
    hours, _ = STOPS["hours-as-seconds"]
    found = hours._replace(attributes={"seen_at": "seen : timestamp %Y%m%d%H"}).read()
    assert (len(found.users), found.is_silent) == (11, True)
    comma_dates, _ = STOPS["comma-dates"]
    setting = {**ID, "signed_up_at": "joined : timestamp %m/%d/%Y, %I:%M:%S %p"}
    assert len(comma_dates._replace(user=setting).read().users) == 12


def test_a_stop_before_the_first_user_is_reported_everywhere_and_saves_no_rows(
    project: Project,
) -> None:
    case, words = STOPS["swapped-dates"]
    project.enable_notices()
    project.configure(user=case.user)
    project.write(case.content)
    check = project.run("--check")
    assert check.status == 1
    assert_says(check.out, words[0], words[1])
    project.services.requests.clear()
    assert_says(stop_message(project, project.run()), *words)
    assert project.services.hipchat[-1]["color"] == "red"
    assert not (project.folder / "not_imported").exists()


#### Valid files that look suspicious

VALID_CSV = (
    "user_id,email,name,note,joined,renews,visits\n"
    '0b9e6f9a-3c1d-4c57-9d54-0f5a3c1d4c57,ada@x.eu,Nan,"Dear Ada,\nthank you, and see you, soon, '
    'Bo",03/04/2025,1893456000,3\n9e10,bo@x.eu,"Null, Bo","one, two, three, four, five, six\n'
    'seven, eight, nine, ten, eleven, twelve",04/03/2025,1924992000,1\n'
    "00123,cy@x.eu,Total,,12/01/2025,1956528000,2\n"
    '"user-1,5",o\'di@x.eu,Sum Total Ltd,#1,01/12/2025,1988150400,4\n'
    "#42,ed@x.eu,C#,-,02/02/2025,2019686400,5\ndGVzdA==,flo@x.eu,=),ok,05/06/2025,2051222400,6\n"
)
VALID_CASE = Case(
    VALID_CSV,
    user={**USER, "signed_up_at": "joined : timestamp %d/%m/%Y"},
    attributes={
        "note": "note",
        "renews_at": "renews : timestamp",
        "visits": "visits : integer",
    },
)
UNIX = [1793000000 + 86_413 * n for n in range(40)]
ISO = [f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T09:00:00Z" for n in range(40)]
LOOK_ALIKES = {
    "valid": VALID_CASE,
    "words": Case(H + "u1,a@x.eu,Null\nu2,,None of us\nna,c@x.eu,Loading\nnan1,d@x.eu,#wow!\n"),
    "labels": Case(H + "Total,a@x.eu,x\nsummer,,y\ntotality,,z\nSum Inc,,w\n"),
    "ids": Case(lines("user_id", "{c}", [
        "1.2.3", "user-1.5", "12E5", "9e10", "+49151123", "@ada", "{uuid}", "a.b(c)", "#42", "a=b=",
        "123 456 789", "-7", "C#", "x<y", "o'neil", "{0b9e6f9a-3c1d}", "10.0.0.1", "*", "0x1F"]),
        user=ID),
    "emails": Case(
        H + "1,root@localhost,\n2,o'flo@x.eu,\n3,a+b_c.d@sub.x-y.eu,\n4,ÜBER@exämple.de,\n"),
    "trimmed last cells": Case("user_id,email,name,plan,n\nu1,a@x.eu,Ada,pro,1\nu2,b@x.eu\nu3,,C\n",
                               attributes={"plan": "plan", "n": "n : integer"}),
    "blank rows of any width": Case(H + A + ",,,,,,\n,\n" + B + ",,,\n" * 30),
    "a blank cell too many in nine of ten": Case(H + A + "".join(f"{n},,,\n" for n in range(9))),
    "one heading": Case("user_id\nu1\nsecond line\n", user=ID),
    "one heading and a comma": Case("user_id,\nu1\nu2,\n", user=ID),
    "lines in a cell": Case('user_id,email,name\nu1,a@x.eu,"Ada\nBo, Cy\nDi"\nu2,,"\n\n"\n'),
    "addresses in lines": Case('user_id,email,name\nu1,a@x.eu,"7, b@x.eu, Bo\n8, c@x.eu, Cy"\n'),
    "quotes in a cell": Case(H + 'u1,,5\'11"\nu2,,a "quoted" word\nu3,,"say ""hi"""\n'),
    "a heading's word": Case("name,user_id,email\nname,u1,\nNAME,u2,\n"),
    "headings set, first row a user": Case(A + B, csv={"headings": H.strip()}),
    "headings set, no e-mail at first": Case("ada,,Ada\n" + B, csv={"headings": H.strip()}),
    "cp1252": Case((H + "u1,,Zoë\nu2,,naïve\n").encode("cp1252"), csv={"encoding": "cp1252"}),
    "shift_jis": Case((H + "u1,,表示\n").encode("shift_jis"), csv={"encoding": "shift_jis"}),
    "ASCII under cp1252": Case(H + A, csv={"encoding": "cp1252"}),
    "few rows of one user": Case(lines("user_id", "{c}", ["u1"] * 9), user=ID),
    "half of the rows of one user": Case(
        lines("user_id", "{c}", ["x"] * 5 + list("abcde")), user=ID),
    "ten users of twenty rows": Case(lines("user_id", "{c}", list("abcdefghij") * 2), user=ID),
    "each user has one address": Case(
        lines("user_id,email", "{c},{c}@x.eu", list("ab") * 20), user={**ID, "email": "email"}),
    "long ids": Case(
        lines("user_id", "{c}", [1084217483926130001 + 70000 * n for n in range(12)]), user=ID),
    "long ids of one kind": Case(
        lines("user_id", "{c}", [f"{n + 1:014}1000" for n in range(12)]), user=ID),
    "nine rounded ids": Case(lines("user_id", "{c}", ROUNDED[:9]), user=ID),
    "UNIX seconds": Case(lines("user_id,t", "u{n},{c}", UNIX), user=ID, attributes=T),
    "ISO 8601": Case(lines("user_id,t", "u{n},{c}", ISO), user=ID, attributes=T),
    "birthdays": Case(lines("user_id,t", "u{n},{c}", ["1970-01-01"] * 12), user=ID, attributes=T),
    "first days of months": Case(
        lines("user_id,t", "u{n},{c}", [f"0{n}/01/2026" for n in range(1, 10)] * 3), user=ID,
        attributes={"t": "t : timestamp %d/%m/%Y"}),
    "numbers": Case(lines("user_id,n", 'u{n},"{c}"', ["1,234", "5", "3.75", "(2.50)", "$7", "1e3"]),
                    user=ID, attributes={"n": "n : float"}),
    "constants": Case(H + A, user={**USER, "name": "'Ada L'"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_valid_file_is_imported_without_a_warning(name: str) -> None:
    found = LOOK_ALIKES[name].read()
    assert found.is_silent, found
    assert found.users


def test_a_quiet_run_of_a_valid_file_prints_nothing(project: Project) -> None:
    project.configure(user=VALID_CASE.user, custom_attributes=VALID_CASE.attributes)
    project.write(VALID_CSV)
    result = project.run("--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    users = sent(project)
    ids = [
        "0b9e6f9a-3c1d-4c57-9d54-0f5a3c1d4c57",
        "9e10",
        "00123",
        "user-1,5",
        "#42",
        "dGVzdA==",
    ]
    assert imported(project) == ids
    names = ["Nan", "Null, Bo", "Total", "Sum Total Ltd", "C#", "=)"]
    assert [user["name"] for user in users] == names
    assert users[0]["custom_attributes"] == {
        "note": "Dear Ada,\nthank you, and see you, soon, Bo", "renews_at": 1893456000, "visits": 3,
    }  # fmt: skip


#### Compression

# parsedmarc#429
TRAILING_DATA = {"CRLF": b"\r\n", "text": b"and what else", "byte": b"\x1f"}


@pytest.mark.parametrize("rest", TRAILING_DATA.values(), ids=TRAILING_DATA)
def test_data_after_a_gzip_stream_is_ignored_with_a_warning(rest: bytes) -> None:
    found = read(gzipped(H + A, B) + rest, "users.csv.gz", user=USER)
    assert [shown(user) for user in found.users] == BOTH
    assert_says("\n".join(found.warnings), r"users\.csv\.gz", "ignor")
    # Zero padding, as on tapes, needs no warning.
    assert read(gzipped(H + A, B) + bytes(512), "users.csv.gz", user=USER).is_silent


def test_a_file_name_that_does_not_match_the_compression_is_noted() -> None:
    assert_says("\n".join(read(gzipped(H + A), "users.csv").notes), "gzip")
    assert_says("\n".join(read(H + A, "users.csv.gz").notes), "not compressed")
    assert (
        read(gzipped(H + A), "users.csv.gz").notes
        == read(H + A, "users.csv").notes
        == []
    )


#### Unexpected responses

PAGE = b"<html><title>Web filter</title>Access to this site is blocked by policy</html>"
NOT_A_USER = [
    PAGE,
    b"",
    b"ok",
    b"{}",
    b'"user"',
    b'{"type": "list"}',
    b'[{"type": "user"}]',
]
MESSAGE = "email is invalid"
ERRORS: list[object] = [
    *([MESSAGE], MESSAGE, {"email": MESSAGE}, [{"message": MESSAGE}]),
    *([{"code": None, "message": MESSAGE}], [None, {"message": MESSAGE}]),
]
BLOCKED = b"<!DOCTYPE html><title>Attention Required!</title><h1>Sorry, you have been blocked</h1>"
BLOCKS = [BLOCKED, b"", b'{"error": "forbidden"}']


# intercom-ruby#502
def test_a_response_without_a_user_does_not_count_as_accepted(project: Project) -> None:
    """The row is retried, then not imported, and not remembered as sent."""
    project.configure(intercom={"retries": 1, "skip_unchanged": "true"})
    for body in NOT_A_USER:
        # A user in between is accepted: otherwise the run would stop for an outage.
        project.services.faults += [Fault(status=200, body=body)] * 2 + [NO_FAULT]
    project.users(2 * len(NOT_A_USER))
    result = project.run()
    assert (result.status, result.counts()) == (
        1,
        (len(NOT_A_USER), 0, len(NOT_A_USER)),
    )
    assert len(project.services.requests) == 3 * len(NOT_A_USER)
    assert project.run().counts() == (len(NOT_A_USER), len(NOT_A_USER), 0)


def test_an_error_list_of_any_shape_gives_its_message(project: Project) -> None:
    project.services.faults = [NO_FAULT]
    for errors in ERRORS:
        content = {"type": "error.list", "request_id": "r1", "errors": errors}
        project.services.faults.append(
            Fault(status=400, body=json.dumps(content).encode())
        )
    project.users(len(ERRORS) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(ERRORS)))
    for number in range(2, len(ERRORS) + 2):
        line = line_of(result.error_log, f"u{number}: ")
        assert MESSAGE in line
        assert not re.search(r"None|null", line)


# WhatWaf#1566
def test_a_row_that_a_firewall_blocks_is_not_imported(project: Project) -> None:
    project.services.faults = [
        NO_FAULT,
        *(Fault(status=403, body=body) for body in BLOCKS),
    ]
    project.users(len(BLOCKS) + 2)
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, len(BLOCKS)))


@pytest.mark.parametrize("body", BLOCKS, ids=repr)
def test_a_block_of_the_very_first_row_stops_the_run(
    project: Project, body: bytes
) -> None:
    project.services.faults = [Fault(status=403, body=body)]
    project.users(2)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 2))
    assert len(project.services.requests) == 1


# intercom-node#58
@pytest.mark.parametrize("where", ["users_url", "contacts_url"])
def test_user_ids_mapped_to_id_stop_the_run(project: Project, where: str) -> None:
    project.configure(intercom={"user_url": getattr(project.services, where)})
    project.write(
        "id,email,name\n" + "".join(f"{n},{n}@x.eu,N\n" for n in range(17, 137))
    )
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 120))
    upserts = [request for request in project.services.requests if request.is_upsert]
    assert len(upserts) == 100
    assert_says(result.err, r"\bid\b.*Intercom's")
