"""Nothing is lost: the reject file, its reasons file, and importing it again."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import (
    NAME,
    Project,
    Result,
    assert_says,
    eventually,
    imported,
    line_of,
    lines_of,
    posix,
    stop_message,
)
from faults import Fault
from mock_http import Request

import export_csv
from export_csv import CsvTable, InputFile, RejectFile, Settings

HEADINGS = "user_id,email,name\n"
REJECTED = Fault(status=400)
STEM = NAME.removesuffix(".csv")
REJECT_NAME = re.compile(
    re.escape(STEM) + r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d+)?\.csv"
)
STARTED = datetime(2026, 11, 2, 3, 0, 0)


def names(project: Project) -> dict[str, str]:
    """Return the name of each user that Intercom has, by user_id."""
    return {user["user_id"]: user["name"] for user in project.services.find()}


def content(result: Result) -> bytes:
    """Return the content of the newest reject file."""
    return result.reject_files[-1].read_bytes()


def load(project: Project) -> Settings:
    arguments = export_csv.parse_arguments(["--config", str(project.config)])
    settings, problems = export_csv.load_settings(project.config, arguments)
    assert problems.lines("config.ini") == []
    return settings


#### The bytes of the input

TEXTS = {
    "utf-8": "é 表 🙂",
    "cp1252": "é ’",
    "shift_jis": "表 ソ",  # their second byte is a backslash in ASCII
    "cp932": b"\x87\x90 \x81\xe0".decode("cp932"),  # two encodings of one character
    "big5": "許 功",
    "cp950": b"\xa1\xc3 \xa1\xc5".decode("cp950"),
    "euc_jp": "表 ・",
    "gb18030": "表 é",
    "iso2022_jp": "表",
    "utf-7": "é 表",
    "unicode_escape": "é",
    "utf-16": "é 表 🙂 ਊ",
    "utf-16-le": "é 表 ਊ",
    "utf-16-be": "é 表 ਊ",
    "utf-32": "é 🙂",
    "cp500": "é",
}
RAW_TEXTS = {
    "cp932": b"\x87\x90 \x81\xe0",
    "cp950": b"\xa1\xc3 \xa1\xc5",
    "utf-7": b"+AOk- +AOkA6Q- +AEE-",  # the last one is a plain A
    "unicode_escape": rb"\xe9 \u0041 \x41",
}
BOMS = {"utf-8": b"\xef\xbb\xbf", "utf-16": b"\xff\xfe", "utf-32": b"\xff\xfe\0\0"}
CODECS = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}


def encode_row(text: str, encoding: str) -> bytes:
    """Encode a row, with {text} replaced by the test text for this encoding.

    If RAW_TEXTS has this encoding, the bytes are ones that Python's encoder wouldn't choose.
    """
    codec = CODECS.get(encoding, encoding)
    before, placeholder, after = text.partition("{text}")
    if encoding == "unicode_escape":
        row = before.encode() + b"%b" + after.encode()
    else:
        row = before.encode(codec) + b"%b" + after.encode(codec)
    if not placeholder:
        return row.replace(b"%b", b"")
    raw = RAW_TEXTS.get(encoding) or TEXTS[encoding].encode(codec)
    return row.replace(b"%b", raw)


def reject(
    project: Project, data: bytes, lines: list[int] | None = None
) -> tuple[bytes, bytes, CsvTable]:
    """Reject the rows on these lines, or all rows.

    Return the contents of the reject file and the reasons file, and the table.
    """
    project.write(data)
    settings = load(project)
    with contextlib.closing(export_csv.find_input(settings, lambda: False)) as file:
        table = export_csv.open_csv(file, settings)
        rows = {row.line: row for row in table.rows()}
        rejects = RejectFile(file, table, settings, STARTED)
        for line in lines or list(rows):
            rejects.add(rows[line], f"user_id=u{line}", "a reason")
        rejects.close()
    assert rejects.path
    assert rejects.reasons_path
    return rejects.path.read_bytes(), rejects.reasons_path.read_bytes(), table


@pytest.fixture
def in_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Change to the project's folder, for tests that run in this process."""
    monkeypatch.chdir(project.folder)
    return project


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", TEXTS)
def test_rejected_rows_keep_the_bytes_of_the_input(
    in_folder: Project, encoding: str, ending: str
) -> None:
    """This includes characters with two encodings, and a missing last line ending."""
    if encoding == "cp500" and ending != "\r":
        pytest.skip("in EBCDIC, a line feed is a different byte")
    in_folder.configure(csv={"encoding": encoding})
    rows = [
        "user_id,email, name " + ending,
        'u2,,"{text}"' + ending,
        f'"u3", padded ,"two{ending}lines {{text}}"' + ending,
        "u5,{text}" + ending,
        "u6,,{text}",
    ]
    heading, *raws = (encode_row(row, encoding) for row in rows)
    heading = BOMS.get(encoding, b"") + heading
    everything, _, _ = reject(in_folder, heading + b"".join(raws))
    assert everything == heading + b"".join(raws)
    some, _, _ = reject(in_folder, heading + b"".join(raws), [3, 6])
    assert some == heading + raws[1] + raws[3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "unicode_escape"])
def test_a_missing_last_line_ending_is_added_only_if_another_row_follows(
    in_folder: Project, encoding: str
) -> None:
    """Users in flight at the same time are rejected in any order."""
    in_folder.configure(csv={"encoding": encoding, "headings": "user_id,name"})
    bom = BOMS.get(encoding, b"")
    first, second, last = (
        encode_row(row, encoding) for row in ("u1,{text}\r\n", "u2,x\r\n", "u3,{text}")
    )
    written, _, _ = reject(in_folder, bom + first + second + last, [3, 1])
    codec = CODECS.get(encoding, encoding)
    ending = "\r\n".encode(codec)
    assert written == bom + last + ending + first
    again = io.BytesIO(written)
    reader = export_csv.CsvReader(
        "again.csv",
        io.BufferedReader(export_csv.NonClosingStream(again)),
        export_csv.CsvFormat(encoding=encoding),
    )
    assert [row.cells[0] for row in reader if row.cells[0]] == ["u3", "u1"]


def test_reasons_are_utf_8_with_a_byte_order_mark_whatever_the_input_is(
    in_folder: Project,
) -> None:
    in_folder.configure(csv={"encoding": "utf-16", "delimiter": "tab"})
    data = "user_id\tname\nu2\té\n".encode("utf-16")
    _, reasons, _ = reject(in_folder, data)
    assert reasons.startswith(b"\xef\xbb\xbfline,user,reason\r\n2,user_id=u2,a reason")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", " '=1"),
        ("＝1", "'＝1"),
        ("a;=1", "a;'=1"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("user_id=u1", "user_id=u1"),
        ("ada@example.com", "ada@example.com"),
        ("10 cells, expected 9 - see above", "10 cells, expected 9 - see above"),
        ("a; b = c", "a; b = c"),
    ],
)
def test_no_cell_of_the_reasons_starts_a_formula(text: str, expected: str) -> None:
    assert export_csv.safe_cell(text) == expected


#### Names


def input_file(location: str) -> InputFile:
    name = location.rpartition("/")[2]
    return InputFile(name, location, io.BytesIO(), datetime.now(timezone.utc))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (f"exports/{NAME}", STEM),
        (f"exports/{NAME}.gz", STEM),
        ("exports/USERS.CSV", "USERS"),
        ("s3://bucket/exports/users.csv", "users"),
        ("/dev/stdin", "stdin"),
        # The timestamp of a reject file is replaced, whatever the path to its folder.
        (f"not_imported/{STEM}_2026-11-01T10-00-00.csv", STEM),
        (f"not_imported/{STEM}_2026-11-01T10-00-00-12.csv", STEM),
        (f"exports/../not_imported/{STEM}_2026-11-01T10-00-00.csv", STEM),
        (f"link/{STEM}_2026-11-01T10-00-00.csv", STEM),
        # A file from elsewhere keeps all of its name.
        ("exports/a_2026-11-01T10-00-00.csv", "a_2026-11-01T10-00-00"),
        ("not_imported/users_2026.csv", "users_2026"),
        ("exports/" + "ü" * 120 + ".csv", "ü" * 75),
        ("exports/a?b*c.csv", "a-b-c"),
    ],
)
def test_the_name_of_a_reject_file(
    tmp_path: Path, location: str, expected: str
) -> None:
    folder = tmp_path / "not_imported"
    folder.mkdir()
    (tmp_path / "exports").mkdir()
    with contextlib.suppress(OSError):  # on Windows, needs administrator rights
        (tmp_path / "link").symlink_to("not_imported")
    if location.startswith("link") and not (tmp_path / "link").exists():
        pytest.skip("no links")
    if "://" not in location and not location.startswith("/"):
        location = f"{tmp_path}/{location}"
    name = export_csv.reject_name(input_file(location), folder, STARTED)
    assert name == f"{expected}_2026-11-02T03-00-00"


#### A whole run


def test_each_rejected_row_has_a_line_with_its_reason(project: Project) -> None:
    """Rejected and damaged rows are in the file as they are in the input; the others aren't."""
    rows = [
        "u2,,fine\r\n",
        'u3,,"rejected, ""é"";|\t\r\n=x"\r\n',
        ",,nobody\r\n",
        '"u6",,"fine"\r\n',
        "u7,short,too,long\r\n",
        "u8, padded ,  rejected too  ",
    ]
    bom = b"\xef\xbb\xbf"
    heading = b' user_id ,"email",name\r\n'
    data = bom + heading + "".join(rows).encode()
    project.write(data)
    error = {"errors": [{"code": "x", "message": "=Name is wrong"}]}
    body = str(error).replace("'", '"').encode()
    project.services.faults_by_user_id = {
        "u3": Fault(status=422, body=body),
        "u8": REJECTED,
    }
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 4)), result
    kept = bom + heading + "".join(rows[n] for n in (1, 2, 4, 5)).encode()
    assert content(result) == kept
    reasons = result.reasons()
    assert [(line, user) for line, user, _ in reasons] == [
        ("3", "user_id=u3"),
        ("5", ""),
        ("7", "user_id=u7"),
        ("8", "user_id=u8"),
    ]
    texts = [reason for *_, reason in reasons]
    assert_says(texts[0], "422", "=Name is wrong")
    assert_says(texts[1], "user_id", "email", r"\bid\b")
    assert_says(texts[2], "4 cells", "3")
    assert_says(texts[3], "400")
    path = result.reject_files[0]
    assert REJECT_NAME.fullmatch(path.name)
    reasons_path = path.with_name(f"{path.stem}_reasons.csv")
    assert set(path.parent.iterdir()) == {path, reasons_path}
    for location in (str(path), str(reasons_path), "_error.log"):
        assert lines_of(result.out, location), result.out


def test_without_rejected_rows_there_is_no_file(project: Project) -> None:
    project.users(2)
    assert project.run().status == 0
    assert not (project.folder / "not_imported").exists()


def test_reject_files_can_be_imported_until_no_row_is_left(project: Project) -> None:
    """With use_aws = true, --local is needed to read the reject file.

    Each run writes a new reject file, with a name of the same form.
    """
    rows = "".join(f'u{n},,"Name\n{n}"\n' for n in range(6))
    project.write(gzip.compress((HEADINGS + rows).encode()), NAME + ".gz")
    project.configure(aws={"use_aws": "true", "bucket": "none"})
    project.services.faults_by_user_id = dict.fromkeys(("u1", "u3", "u5"), REJECTED)
    first = project.run("--local")
    assert first.counts() == (3, 0, 3)
    (oldest,) = first.reject_files
    project.services.faults_by_user_id = {"u3": REJECTED}
    second = project.run("--local", oldest.relative_to(project.folder))
    assert second.counts() == (2, 0, 1)
    (newest,) = set(second.reject_files) - {oldest}
    project.services.faults_by_user_id = {}
    third = project.run("--local", newest)
    assert (third.status, third.counts()) == (0, (1, 0, 0)), third
    assert len(third.reject_files) == 2
    assert all(REJECT_NAME.fullmatch(path.name) for path in third.reject_files)
    assert names(project) == {f"u{n}": f"Name\n{n}" for n in range(6)}


def test_runs_in_the_same_second_do_not_share_a_file(in_folder: Project) -> None:
    data = [f"{HEADINGS}{word},,\n".encode() for word in ("a", "b", "c")]
    for each in data:
        reject(in_folder, each)
    folder = in_folder.folder / "not_imported"
    rejected = [path for path in folder.iterdir() if "_reasons" not in path.name]
    assert sorted(path.read_bytes() for path in rejected) == data
    assert len(list(folder.iterdir())) == 6


def test_rows_of_one_user_keep_their_order_when_the_run_stops(project: Project) -> None:
    """While a row waits for a retry, later rows for the same user wait for that row."""
    project.configure(intercom={"concurrency": 3, "retries": 1000})
    rows = ["u1,,Old\n", "u2,,Two\n", "u1,,New\n", "u3,,Three\n", "u1,,Newest\n"]
    project.write(HEADINGS + "".join(rows))

    def fault(request: Request) -> Fault:
        tried = sum(each.body["user_id"] == "u1" for each in project.services.requests)
        stops = request.body["user_id"] == "u2" and tried > 3
        return Fault(status=401 if stops else 503)

    project.services.fault_for = fault
    first = project.run()
    assert first.counts() == (0, 0, 5), first
    kept = content(first).decode().splitlines(keepends=True)[1:]
    assert sorted(kept) == sorted(rows)
    assert [row for row in kept if "u1" in row] == [rows[0], rows[2], rows[4]]
    project.services.fault_for = None
    assert project.run("--local", first.reject_files[0]).counts() == (5, 0, 0)
    assert names(project)["u1"] == "Newest"


def test_an_older_row_never_overwrites_a_newer_one_for_the_same_user(
    project: Project,
) -> None:
    """If one row uses up its retries, the later ones of the same user are rejected with it."""
    project.configure(intercom={"retries": 1})
    project.write(
        HEADINGS + "u1,,Old\nu2,,Two\nu1,one@example.com,Newer\n,one@example.com,New\n"
    )
    project.services.fault_for = lambda request: (
        Fault(status=503) if request.body["name"] == "Old" else None
    )
    first = project.run()
    assert first.counts() == (1, 0, 3)
    assert_says(first.reasons()[1][2], "earlier row", "same user")
    project.services.fault_for = None
    assert project.run("--local", first.reject_files[0]).status == 0
    assert names(project)["u1"] == "New"


#### Runs that stop


def test_one_line_covers_all_rows_that_were_never_reached(project: Project) -> None:
    project.write(
        HEADINGS + "".join(f"u{n},,N{n}\n" for n in range(5)) + "bad\n\n,,Nobody\n"
    )
    project.services.faults_by_user_id = {"u2": Fault(status=401)}
    result = project.run()
    assert (result.status, result.counts()) == (1, (2, 0, 5)), result
    kept = HEADINGS + "u2,,N2\nu3,,N3\nu4,,N4\nbad\n,,Nobody\n"
    assert content(result).decode() == kept
    (line, user, reason), rest = result.reasons()
    assert (line, user) == ("4", "user_id=u2")
    assert "401" in reason
    assert rest[:2] == ["lines 5 to 9", ""]
    assert "stopped" in rest[2]


def test_a_single_row_that_was_never_reached_is_one_line(project: Project) -> None:
    project.users(2)
    project.services.faults = [Fault(status=401)]
    result = project.run()
    assert [line for line, *_ in result.reasons()] == ["2", "3"]


def test_a_run_that_stops_before_its_first_user_saves_no_rows(project: Project) -> None:
    """The input has all rows, so none is saved, and no counts are printed."""
    project.write(HEADINGS + ",,Nobody\nu1,,One\n")
    project.configure(
        intercom={"user_url": project.services.contacts_url},
        custom_attributes={"plan": "name"},
    )
    result = project.run()
    assert_says(stop_message(with_upserts_only(project), result), "plan")
    assert result.out == "" or "imported" not in result.out
    assert "not imported" not in result.error_log
    assert not list(project.folder.glob("not_imported/*"))


def with_upserts_only(project: Project) -> Project:
    """Forget requests that don't send a user, such as the one for the attributes."""
    project.services.requests[:] = [
        request for request in project.services.requests if request.is_upsert
    ]
    return project


@posix("Windows has no /dev/stdin")
@pytest.mark.parametrize("case", ["plain", "gzip", "page"])
def test_input_from_a_pipe_is_saved_even_if_the_run_stops_before_its_first_user(
    project: Project, case: str
) -> None:
    """A pipe can't be read twice."""
    data = {
        "plain": b"customer;mail\r\nu1;\xc3\xa9",
        "gzip": gzip.compress(b"customer\nu1\n"),
        "page": b"<!DOCTYPE html><html><p>Log in</p></html>",
    }[case]
    child = project.start("/dev/stdin", stdin=subprocess.PIPE)
    assert child.process.stdin
    child.process.stdin.write(data)
    result = child.wait()
    assert (result.status, project.services.requests) == (1, [])
    (path,) = (project.folder / "not_imported").iterdir()
    assert path.read_bytes() == data
    assert path.name.endswith(".csv.gz" if case == "gzip" else ".csv")
    assert line_of(result.out, path)
    assert "added or updated" not in result.out


@posix("Windows has no /dev/stdin")
def test_a_run_from_a_pipe_that_stops_at_its_first_user_has_a_reject_file(
    project: Project,
) -> None:
    data = b"user_id\nu1\nu2\nu3"
    project.services.faults = [Fault(status=401)]
    child = project.start("/dev/stdin", stdin=subprocess.PIPE)
    assert child.process.stdin
    child.process.stdin.write(data)
    result = child.wait()
    assert result.counts() == (0, 0, 3)
    assert content(result) == data


@posix("Windows has no SIGKILL")
def test_rejected_rows_are_on_disk_while_the_run_goes_on(project: Project) -> None:
    """So that kill -9 loses no more than the rows of the last second."""
    project.write("user_id\nbad,1\nu2\n,\nu3\n")
    release = threading.Event()
    project.services.faults_by_user_id = {"u2": Fault(status=422)}

    def hold(request: Request) -> None:
        if request.body["user_id"] == "u3":
            release.wait(60)

    project.services.fault_for = hold
    child = project.start()

    def saved() -> bool:
        files = sorted((project.folder / "not_imported").glob("*.csv"))
        return [b"u2" in file.read_bytes() for file in files] == [True, True]

    eventually(saved)
    child.send(signal.SIGKILL)
    child.wait()
    release.set()
    rejects, reasons = sorted((project.folder / "not_imported").glob("*.csv"))
    assert rejects.read_bytes() == b"user_id\nbad,1\nu2\n"
    assert len(reasons.read_text("utf-8-sig").splitlines()) == 3


#### Rows that a run tolerates


@pytest.mark.parametrize("limit", [2, 1])
def test_up_to_max_not_imported_rows_leave_the_run_green(
    project: Project, limit: int
) -> None:
    """They are saved and listed all the same, as a warning; one more makes the run red."""
    project.configure(csv={"max_not_imported": limit}, log={"keep_days": 0})
    project.enable_notices()
    project.write("user_id\nu1\n2,x\n3,x\n")
    result = project.run("--quiet")
    is_tolerated = limit == 2
    assert result.status == (0 if is_tolerated else 1), result
    assert content(result) == b"user_id\n2,x\n3,x\n"
    notice = project.services.hipchat[-1]
    assert notice["color"] == ("green" if is_tolerated else "red")
    path = str(result.reject_files[0])
    for text in (result.err, notice["message"], result.error_log):
        assert_says(text, "1 added or updated, 0 unchanged, 2 not imported", "2 rows")
        assert path in text
    levels = {line.split()[1] for line in lines_of(result.error_log, path)}
    assert levels == {"WARNING" if is_tolerated else "ERROR"}
    assert bool(lines_of(result.err, "2 of 3 rows were not imported")) != is_tolerated


def test_keep_days_removes_no_reject_file(project: Project) -> None:
    """They may be the only copy of their rows."""
    folder = project.folder / "logs"
    folder.mkdir()
    old = [
        folder / f"{STEM}_2020-01-01T00-00-00.csv",
        folder / f"{STEM}_2020-01-01T00-00-00_reasons.csv",
        folder / "2020-01-01T00-00-00.csv",
    ]
    for path in old:
        path.write_text("user_id\nu1\n")
    project.configure(log={"keep_days": 0}, csv={"not_imported_folder": "logs"})
    project.write("user_id\nu1\n,\n2,x\n")
    assert project.run().status == 1
    assert all(path.exists() for path in old)
    assert len(list(folder.glob("*_reasons.csv"))) == 2


#### Folders and disks that fail


def test_a_file_in_place_of_the_folder_stops_the_run_before_its_first_user(
    project: Project,
) -> None:
    (project.folder / "taken").write_text("a file")
    project.configure(csv={"not_imported_folder": "taken/here"})
    project.write(HEADINGS + "u1,,One\nbad\n")
    result = project.run()
    message = stop_message(project, result)
    assert_says(message, "not_imported_folder", "taken is not a folder")


@posix("Windows can't delete an open file")
def test_rows_lost_with_a_deleted_folder_are_named(project: Project) -> None:
    project.users(6)

    def delete(request: Request) -> Fault:
        if request.body["user_id"] == "u3":
            shutil.rmtree(project.folder / "not_imported")
        return REJECTED

    project.services.fault_for = delete
    result = project.run()
    assert (result.status, result.counts()) == (1, (0, 0, 6)), result
    assert_says(result.err, "deleted")
    assert_says(result.out, r"from line 2 on\b", "input")
    assert str(project.folder / "not_imported") + "/" not in result.out


@posix("Windows can't delete an open file")
def test_the_first_lost_row_need_not_be_the_first_that_was_rejected(
    in_folder: Project,
) -> None:
    """Users in flight at the same time are rejected in any order."""
    in_folder.users(6)
    settings = load(in_folder)
    with contextlib.closing(export_csv.find_input(settings, lambda: False)) as file:
        table = export_csv.open_csv(file, settings)
        rows = {row.line: row for row in table.rows()}
        rejects = RejectFile(file, table, settings, STARTED)
        for line in (4, 3, 5):
            rejects.add(rows[line], "", "a reason")
        shutil.rmtree(in_folder.folder / "not_imported")
        with pytest.raises(export_csv.RunAborted, match="deleted"):
            rejects.close()
        assert_says(rejects.location_lines()[0], r"from line 3 on\b")
        rejects.add(rows[2], "", "a reason")
        assert_says(rejects.location_lines()[0], r"from line 2 on\b")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 64 kB, and yield its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("mount isn't permitted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("case", ["full from the start", "full in the middle"])
def test_a_full_disk_leaves_no_empty_file_and_no_partial_row(
    in_folder: Project, small_disk: Path, case: str
) -> None:
    """Each row before the one that is named is in the file, which can be imported again."""
    if case == "full from the start":
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
    in_folder.configure(csv={"not_imported_folder": small_disk / "kept"})
    rows = [f"u{n},{'x' * 1000}\n" for n in range(2, 90)]
    in_folder.write("user_id,name\n" + "".join(rows))
    settings = load(in_folder)
    with contextlib.closing(export_csv.find_input(settings, lambda: False)) as source:
        table = export_csv.open_csv(source, settings)
        rejects = RejectFile(source, table, settings, STARTED)
        errors = []
        for row in table.rows():
            try:
                rejects.add(row, "", "a reason")
                rejects.flushed_at = 0.0  # as if a second had passed
            except export_csv.RunAborted as error:
                errors.append(str(error))
        rejects.close()
    (message,) = errors
    assert_says(message, "not_imported_folder", re.escape(str(small_disk)), "space")
    left = sorted((small_disk / "kept").glob("*"))
    assert rejects.first_lost_line
    assert_says(rejects.location_lines()[0], rf"line {rejects.first_lost_line}\b")
    if case == "full from the start":
        assert (left, rejects.first_lost_line) == ([], 2)
        return
    kept, reasons = left
    expected = rows[: rejects.first_lost_line - 2]
    assert expected
    assert kept.read_text() == "user_id,name\n" + "".join(expected)
    assert len(reasons.read_text("utf-8-sig").splitlines()) == len(expected) + 1


def test_a_pipe_that_cannot_be_saved_leaves_no_partial_file(
    in_folder: Project, small_disk: Path
) -> None:
    in_folder.configure(csv={"not_imported_folder": small_disk})
    file = input_file("/dev/stdin")
    file.copy.write(b"user_id\n" + b"u1\n" * 100_000)
    with pytest.raises(OSError, match="space"):
        export_csv.save_whole_input(file, load(in_folder), STARTED)
    assert list(small_disk.iterdir()) == []


def test_a_run_whose_rows_cannot_be_saved_stops_and_names_them(
    project: Project, small_disk: Path
) -> None:
    project.configure(csv={"not_imported_folder": small_disk})
    project.services.fault_for = lambda request: (
        None if request.body["user_id"] in ("u1", "u2") else REJECTED
    )
    long = "x" * 250
    rows = "".join(f"u{n},u{n}@example.com,{long}\n" for n in range(1, 600))
    project.write(HEADINGS + rows)
    result = project.run("--quiet")
    assert result.status == 1
    assert_says(line_of(result.err, "export_csv.py: "), "not_imported_folder", "space")
    added, _, not_imported = result.counts()
    assert (added, added + not_imported) == (2, 599)
    match = re.search(r"from line (\d+) on", result.err)
    assert match
    kept = min(small_disk.glob("*.csv")).read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in kept] == [
        f"u{n}" for n in range(3, int(match[1]) - 1)
    ]
    assert imported(project)[:2] == ["u1", "u2"]
