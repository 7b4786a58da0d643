"""Files and answers that fooled other importers, after their public bug reports, and their kin."""

from __future__ import annotations

import gzip
import io
import json
import re
import unicodedata
import zipfile
from typing import Any

import pytest
from conftest import NAME, Project, imported, line_of, refusal
from sandbox import NO_FAULT, Fault

H = "user_id,email,name\n"
A, B = "u1,a@x.eu,Ada\n", "u2,b@x.eu,Bo\n"
ADA, BO = "u1 a@x.eu Ada", "u2 b@x.eu Bo"
MARK = "\ufeff"
OWN = "Customer ID,E-mail address,Full name\n"
ITSELF = {name: name for name in H.strip().split(",")}


def packed(*texts: str) -> bytes:
    """A member of a .gz for each."""
    return b"".join(gzip.compress(text.encode()) for text in texts)


# content, how many rows are not imported, and the users, with a - for what is left out
RIGHT: dict[str, tuple[Any, ...]] = {
    # rust-csv#337
    "space-before-quote": ('user_id, email, name\nu1, "a@x.eu", "Ada"\n', 0, ADA),
    "space-before-comma": (H + 'u1,  "a@x.eu" , "Ada, née B" \n', 0, "u1 a@x.eu Ada, née B"),
    "space-before-lines": (H + 'u1, "a@x.eu", "A ""\nB"""\n', 0, 'u1 a@x.eu A "\nB"'),
    "space-behind-tab": ('user_id\t "email"\tname\nu1\t "a@x.eu"\t "A\tB"\n', 0, "u1 a@x.eu A\tB"),
    # ruby/csv#93
    "excel-text-guard": (H + '="01",,Ada\n"=""02""",,Bo\n', 0, "01 - Ada", "02 - Bo"),
    "guards-in-blanks": (H + ' ="u1" ,"=""a@x.eu""",=" Ada "\n="",b,B\n', 0, ADA, "- b B"),
    "no-guards": (H + '1,=1+2,"a =""x"""\n2,,"=""a""&""b"""\n', 0, '1 =1+2 a ="x"', '2 - ="a"&"b"'),
    # pandas#28335
    "pandas-float-ids": (H + "1.0,a@x.eu,Ada\n1002.0,b@x.eu,Bo\n,b@x.eu,Bo\n", 2, "-" + BO[2:]),
    # react-csv#181
    "invisible-ends": (H + "u1\u200b,a@x.eu\u200b,Ada\nu2,\u202ab@x.eu\u202c,Bo\n", 0, ADA, BO),
    "invisible-starts": (H + "\ufeffu1,a@x.eu,Ada\nu2\xad,b@x.eu,Bo\n", 0, ADA, BO),
    "glued-in-quotes": (H + MARK + '"u1","a@x.eu","Ada"\n', 0, ADA),
    "invisible-digits": (H + "0012\u200b,,E\n\x1f0013,,F\n", 0, "0012 - E", "0013 - F"),
    "invisible-others": (H + "\u2060u1\u200e,\u2066a@x.eu\u2069,\xa0Ada\u3000\n", 0, ADA),
    "invisible-alone": (H + "\u200f\u200d,b@x.eu,Bo\n", 0, "-" + BO[2:]),
    "invisible-inside": (H + "1,,👩\u200d🚀 ❤\ufe0f\n", 0, "1 - 👩\u200d🚀 ❤\ufe0f"),
    "invisible-heading": (MARK + "\u200buser_id\u200b, email\xa0,\xadname\n" + A, 0, ADA),
    # s3-concat#3
    "repeated-heading": (H + A + H + B, 0, ADA, BO),
    "repeated-with-mark": (MARK + H + A + "\n" + MARK + H + B + MARK + H, 0, ADA, BO),
    "repeated-in-quotes": (H + A + '"user_id", "email","name",\n' + B, 0, ADA, BO),
    "repeated-in-part": (H + A + "user_id,email,Bo\n", 0, ADA, "user_id email Bo"),
    "repeated-utf-16": ((H + A).encode("utf-16") + (H + B).encode("utf-16"), 0, ADA, BO),
    "multimember-heading.gz": (packed(H + A, H + B), 0, ADA, BO),
    "multimember-marks.gz": (packed(MARK + H + A, MARK + H + B), 0, ADA, BO),
    "multimember-anywhere.gz": (packed(H[:9], H[9:] + A[:4], A[4:] + B), 0, ADA, BO),
    # pimcore-data-definitions#276
    "set-but-there": (OWN + A, 0, ADA),
    "set-with-mark": (MARK + "CUSTOMER ID, E-Mail Address ,FULL NAME\n" + A, 0, ADA),
    "set-in-members.gz": (packed(OWN + A, OWN + B), 0, ADA, BO),
    "set-and-not-there": (A + B, 0, ADA, BO),
    # SQL Server's bcp
    "bcp-nul": ("user_id;email;name\nu1;a@x.eu;\0\n\0;b@x.eu;Bo\n", 0, "u1 a@x.eu -", "-" + BO[2:]),
    "nul-padded": (H + "u1\0\0\0,a@x.eu,Ada\0\0\n", 0, ADA),
    "nul-around": (H + '\0u1\0,\0"a@x.eu"\0,A\0da\n\0\0,\0,Nobody\n', 1, ADA),
    # user-sync.py#180
    "bom-against-cp1252": (MARK + H + "u1,a@x.eu,Zoë Ünal\n", 0, "u1 a@x.eu Zoë Ünal"),
    "bom-of-utf-16": ((H + A).encode("utf-16"), 0, ADA),
    "bom-of-utf-16-be": ((MARK + H + A).encode("utf-16-be"), 0, ADA),
    "bom-against-cp1252.gz": (packed(MARK + H + "u1,a@x.eu,Zoë\n"), 0, "u1 a@x.eu Zoë"),
    # ArcReel#1578
    "nfd-heading": ("user_id,email,Pre\u0301nom\nu1,a@x.eu,Zoe\u0308\n", 0, "u1 a@x.eu Zoë"),
    "nfd-of-the-config": ("user_id,email,Prénom\n" + A, 0, ADA),
    # duckdb#8231, ddeboer/data-import#33
    "trailing-comma": (H + "u1,a@x.eu,Ada,\nu2,b@x.eu,Bo,\n", 0, ADA, BO),
    "trailing-commas": (H + 'u1,a@x.eu,Ada,,,,\nu2,b@x.eu,Bo, ,"",\0\nu3,,Cy,,x\n', 1, ADA, BO),
    "short-rows": ("user_id,email,name,notes\n" + A + "u2,b@x.eu,Bo,\n", 0, ADA, BO),
    "shorter-rows": ("user_id,email,name,a,b\n" + A + "u2,b@x.eu,Bo,x\n", 0, ADA, BO),
    "too-short-rows": ("user_id,email,a,name\nu1,a@x.eu,x\nu2,b@x.eu,,Bo\nu3\n", 2, BO),
    "heading-comma": ("user_id,email,name,\n" + A + B, 0, ADA, BO),
    "heading-commas": ("user_id,email,name,,\nu1,a@x.eu,Ada,x,y\n" + B, 0, ADA, BO),
    # sqlyog-community#1164
    "mysql-null": (H + "1,\\N,Ada\n\\N,b@x.eu,\\N\n\\N,\\N,Nobody\n", 1, "1 - Ada", "- b@x.eu -"),
    "other-nulls": (H + '1, NULL ,#N/A\n"NULL",,x\n3,,NULLER\n', 1, "1 - -", "3 - NULLER"),
    "null-as-text": (H + "u1,a@x.eu,\\N\n", 0, "u1 a@x.eu \\N"),
    # what only begins like another kind of file
    "no-zip": ("PK,user_id,email,name\n7," + A, 0, ADA),
    "no-json": ("[id],user_id,email,name\n7," + A, 0, ADA),
    "no-html": ("<id>,user_id,email,name\n7," + A, 0, ADA),
    "no-heading": ("user_id,email\nu1,a@x.eu\n", 0, ADA),
}  # fmt: skip
# by how a case's name begins
SETTINGS: dict[str, dict[str, Any]] = {
    "space-behind-tab": {"csv": {"delimiter": "tab"}},
    "repeated-utf-16": {"csv": {"encoding": "utf-16"}},
    "set-": {
        "csv": {"headings": OWN.strip().lower()},
        "user": dict(zip(ITSELF, OWN.strip().lower().split(","), strict=True)),
    },
    "bcp-nul": {"csv": {"delimiter": ";"}},
    "bom-against-cp1252": {"csv": {"encoding": "cp1252"}},
    "bom-of-utf-16-be": {"csv": {"encoding": "latin-1"}},
    "nfd-heading": {"user": {"name": "Prénom"}},
    "nfd-of-the-config": {"user": {"name": "Pre\u0301nom"}},
    "no-heading": {"user": {"name": "'Ada'"}},
    "mysql-null": {"csv": {"empty": r"\N"}},
    "other-nulls": {"csv": {"empty": "NULL, #N/A"}},
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_somebody_meant_is_what_is_sent(project: Project, case: str) -> None:
    content, not_imported, *users = RIGHT[case]
    project.configure(user=ITSELF)
    for start, settings in SETTINGS.items():
        if case.startswith(start):
            project.configure(**settings)
    project.write(content, NAME + ".gz" * case.endswith(".gz"))
    result = project.run("--dry-run")
    shown = [" ".join(one.get(key, "-") for key in ITSELF) for one in result.dry_users()]
    assert [unicodedata.normalize("NFC", user) for user in shown] == users, result.err
    assert result.status == (1 if not_imported else 0)
    counts = f": {len(users)} would be added or updated, 0 are unchanged, {not_imported} would"
    assert counts in result.err


#### What is not sent at all


def workbook(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, H + A)
    return file.getvalue()


HTML = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please</body></html>"
# aws-cli#6765
OTHERS: dict[str, tuple[str | bytes, str]] = {
    "xlsx": (workbook("xl/workbook.xml"), "Excel"),
    "xlsx.gz": (gzip.compress(workbook("xl/workbook.xml")), "Excel"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "Excel"),
    "gzip-named": (packed(H + A), "gzip"),
    "double.gz": (gzip.compress(packed(H + A)), r"gzip(?!.*name it \.csv\.gz)"),
    "zip": (workbook("users.csv"), r"\bzip\b"),
    "pdf": ("%PDF-1.7\n%âãÏÓ\n1 0 obj <</Type /Catalog>> endobj\n", "PDF"),
    "html": (HTML, "HTML"),
    "html-blank": ("\r\n\r\n  \n" + MARK + "<html lang=en>\n" + HTML, "HTML"),
    "html.gz": (packed(HTML), "HTML"),
    "xml": ('<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n', "XML"),
    "json": ('[{"user_id": "u1", "email": "a@x.eu"},\n {"user_id": "u2"}]\n', "JSON"),
    "utf-16-no-mark": ((H + "u1,a@x.eu,Zoë\n").encode("utf-16-le"), "utf-16"),
    "utf-16-be-no-mark": ((H + A).encode("utf-16-be"), "utf-16"),
}
# spatie/simple-excel#38
LATER: dict[str, tuple[str | bytes, str]] = {
    "sep-line": ("sep=;\r\nuser_id;email;name\r\nu1;a@x.eu;Ada\r\n", r"\b2\b & delimiter = ;"),
    "sep-tab": (MARK + '"sep=\t"\nuser_id\temail\tname\nu1\ta\tb\n', r"\b2\b & delimiter = tab"),
    "sep-bar": ("SEP=|\nuser_id|email|name\nu1|a|b\n", r"\b2\b & delimiter = \|"),
    "sep-comma": ("sep=,\n" + H + A, r"\b2\b"),
    "title-line": ("User export of November\n\n" + H + A, r"\b3\b"),
    "title-lines": ("ACME,,\nUsers,,\n" + '"of\nNovember",,\n' + H + A, r"\b5\b"),
    "title-blanks": (",,\n,,\n" + H + A, r"\b3\b"),
}


@pytest.mark.parametrize("case", OTHERS | LATER)
def test_what_is_no_list_of_users_is_called_by_its_name(project: Project, case: str) -> None:
    content, words = (OTHERS | LATER)[case]
    project.configure(user=ITSELF)
    project.write(content, NAME + ".gz" * case.endswith(".gz"))
    line = refusal(project, project.run()).replace(NAME, "")
    for word in words.split(" & "):
        assert re.search(word, line, re.IGNORECASE), line


# parsedmarc#429
RESTS = {"CRLF": b"\r\n", "NULs": bytes(512), "text": b"and what else", "byte": b"\x1f"}


@pytest.mark.parametrize("rest", RESTS.values(), ids=RESTS)
def test_what_stands_behind_a_gz_is_ignored_with_a_warning(project: Project, rest: bytes) -> None:
    project.write(packed(H + A, B) + rest, NAME + ".gz")
    result = project.run()
    assert (result.status, imported(project)) == (0, ["u1", "u2"])
    assert NAME in result.error_log or not rest.strip(b"\0")  # a tape's padding is no news


# intercom-node#58
@pytest.mark.parametrize("where", ["users_url", "contacts_url"])
def test_ids_of_their_own_under_id_stop_the_run(project: Project, where: str) -> None:
    project.configure(intercom={"user_url": getattr(project.sandbox, where)})
    project.write("id,email,name\n" + "".join(f"{n},{n}@x.eu,N\n" for n in range(17, 137)))
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 120))
    assert len([request for request in project.sandbox.requests if request.upserts]) == 100
    assert re.search(r"\bid\b.*Intercom's", result.err)
    assert ("want user_url = " in result.err) == (where == "users_url")


#### What a server says instead of Intercom

PAGE = b"<html><title>Web filter</title>Access to this site is blocked by policy</html>"
NOBODY = [PAGE, b"", b"ok", b"{}", b'"user"', b'{"type": "list"}', b'[{"type": "user"}]']
MESSAGE = "email is invalid"
ERRORS: list[object] = [
    *([MESSAGE], MESSAGE, {"email": MESSAGE}, [{"message": MESSAGE}]),
    *([{"code": None, "message": MESSAGE}], [None, {"message": MESSAGE}]),
]
BLOCKED = b"<!DOCTYPE html><title>Attention Required!</title><h1>Sorry, you have been blocked</h1>"
BLOCKS = [BLOCKED, b"", b'{"error": "forbidden"}']


# intercom-ruby#502
def test_an_answer_without_a_user_is_no_acceptance(project: Project) -> None:
    """It is tried again, then not imported, and never remembered."""
    project.configure(intercom={"retries": 1, "skip_unchanged": "true"})
    for body in NOBODY:  # and a user in between who is accepted, or else Intercom would be down
        project.sandbox.faults += [Fault(status=200, body=body)] * 2 + [NO_FAULT]
    project.users(2 * len(NOBODY))
    result = project.run()
    assert (result.status, result.counts()) == (1, (len(NOBODY), 0, len(NOBODY)))
    assert len(project.sandbox.requests) == 3 * len(NOBODY)
    assert project.run().counts() == (len(NOBODY), len(NOBODY), 0)


def test_errors_of_any_shape_give_their_words(project: Project) -> None:
    project.sandbox.faults = [NO_FAULT]
    for errors in ERRORS:
        content = {"type": "error.list", "request_id": "r1", "errors": errors}
        project.sandbox.faults.append(Fault(status=400, body=json.dumps(content).encode()))
    project.users(len(ERRORS) + 1)
    result = project.run()
    assert (result.status, result.counts()) == (1, (1, 0, len(ERRORS)))
    for number in range(2, len(ERRORS) + 2):
        line = line_of(result.error_log, f"u{number}: ")
        assert MESSAGE in line
        assert not re.search(r"None|null", line)


# WhatWaf#1566
def test_a_row_that_something_blocks_is_not_imported(project: Project) -> None:
    project.sandbox.faults = [NO_FAULT, *(Fault(status=403, body=body) for body in BLOCKS)]
    project.users(len(BLOCKS) + 2)
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, len(BLOCKS)))


@pytest.mark.parametrize("body", BLOCKS, ids=repr)
def test_where_nobody_was_accepted_what_blocks_stops_the_run(project: Project, body: bytes) -> None:
    project.sandbox.faults = [Fault(status=403, body=body)]
    project.users(2)
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 2))
    assert len(project.sandbox.requests) == 1
