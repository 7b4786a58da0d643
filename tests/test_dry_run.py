"""--dry-run: request bodies on standard output, everything else on standard error."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import NAME, SCRIPT, Project, assert_says, passed_environment, posix, sent
from test_check import snapshot

MIXED = (
    "id,Joined,Count,Name\n"
    "u1,soon,12,\n"
    "u2,24/11/2026,many,Zoë 日本\n"
    ",24/11/2026,12,\n"
    "u4,24/11/2026,12,x,too much\n"
)


def write_mixed(project: Project, content: str = MIXED) -> None:
    """Write a file with omitted values and rows; enable notices and skip_unchanged."""
    project.enable_notices()
    project.configure(
        user={
            "user_id": "id",
            "name": "Name",
            "signed_up_at": "Joined : timestamp %d/%m/%Y",
        },
        custom_attributes={"n": "Count : integer", "source": "'csv'"},
        intercom={"skip_unchanged": "true"},
    )
    project.write(content)


@pytest.mark.parametrize("url", ["users_url", "contacts_url"])
def test_a_dry_run_prints_what_intercom_would_receive(
    project: Project, url: str
) -> None:
    project.configure(
        intercom={"user_url": getattr(project.services, url)},
        user={"user_id": "user_id", "name": "name", "last_seen_ip": "'192.0.2.1'"},
        custom_attributes={"age": "age : integer"},
    )
    project.services.attributes["age"] = "integer"
    project.write(
        "user_id,name,age\nu1,Ada,36\nu2,Zoë,old\n,Nobody,1\nu4,A\nu5,\u2028 line,5\n"
    )
    dry = project.run("--dry-run")
    assert project.services.requests == []
    real = project.run()
    assert (dry.status, real.status) == (1, 1)
    bodies = [one.body for one in project.services.requests if one.is_upsert]
    assert dry.dry_users() == bodies
    assert len(bodies) == 4


def test_a_dry_run_prints_unescaped_unicode_and_counts_omissions(
    project: Project,
) -> None:
    """It needs neither a token nor a webhook."""
    write_mixed(project)
    project.configure(intercom={"access_token": None}, slack={"webhook_url": None})
    result = project.run("--dry-run")
    one, two = result.dry_users()
    assert one == {"user_id": "u1", "custom_attributes": {"n": 12, "source": "csv"}}
    user = {"user_id": "u2", "name": "Zoë 日本", "signed_up_at": 1795478400}
    assert two == {**user, "custom_attributes": {"source": "csv"}}
    assert "Zoë 日本" in result.out
    lines = result.err.splitlines()
    summary = "2 would be added or updated, 0 are unchanged, 2 would not be imported"
    assert lines[-1] == f"{NAME}: {summary}"
    assert_says(result.err, "Joined", r"line 2\b.*soon", "Count", r"line 3\b.*many")
    assert_says(result.err, r"line 4\b", r"line 5\b")
    assert len(lines) == 9


def test_a_lone_surrogate_is_printed_as_valid_json(project: Project) -> None:
    """Some encodings can contain one, but UTF-8 can't."""
    project.configure(
        csv={"encoding": "unicode_escape"}, user={"user_id": "user_id", "name": "n"}
    )
    project.write(b"user_id,n\nu1,a\\ud83db\n")
    dry = project.run("--dry-run")
    assert project.run().status == dry.status == 0
    assert dry.dry_users() == sent(project)


def test_a_dry_run_prints_only_three_examples_whatever_the_file(
    project: Project,
) -> None:
    """It prints the number and the first three for each column and each reason."""
    content = "id,Joined,Count\n"
    content += "".join(f"u{n},wrong{n},\n" for n in range(2, 27))
    content += "".join(f"u{n},24/11/2026,{n}\n" for n in range(27, 40))
    content += "".join(f",24/11/2026,{n}\n" for n in range(40, 61))
    content += "".join(f"u{n},24/11/2026,5,6,7,8\n" for n in range(61, 83))
    write_mixed(project, content + f"u83,24/11/2026,{'9x' * 50_000}\n")
    project.configure(user={"name": None})
    result = project.run("--dry-run")
    assert (result.status, len(result.out.splitlines())) == (1, 39)
    counts = "39 would be added or updated, 0 are unchanged, 43 would not be imported"
    assert_says(result.err, counts, r"\b25\b", r"\b21\b", r"\b22\b", r"line 83\b.*9x9x")
    for first in 2, 40, 61:
        lines = [
            n for n in range(first, first + 20) if re.search(rf"line {n}\b", result.err)
        ]
        assert lines == [first, first + 1, first + 2], result.err
    assert set(re.findall(r"wrong\d+", result.err)) == {"wrong2", "wrong3", "wrong4"}
    assert len(result.err.splitlines()) <= 17
    assert len(result.err) < 4000


def test_a_dry_run_leaves_out_unchanged_users(project: Project) -> None:
    project.configure(intercom={"skip_unchanged": "true"})
    project.users(2)
    assert project.run().status == 0
    project.users(3)
    result = project.run("--dry-run")
    assert [user["user_id"] for user in result.dry_users()] == ["u3"]
    counts = "1 would be added or updated, 2 are unchanged, 0 would not be imported"
    assert result.err == f"{NAME}: {counts}\n"


@pytest.mark.parametrize("option", [[], ["--quiet"]], ids=["plain", "quiet"])
def test_quiet_omits_the_summary_if_there_are_no_problems(
    project: Project, option: list[str]
) -> None:
    project.users(2)
    line = f"{NAME}: 2 would be added or updated, 0 are unchanged, 0 would not be imported\n"
    result = project.run("--dry-run", *option)
    assert (result.status, result.err) == (0, "" if option else line)
    assert len(result.out.splitlines()) == 2


def test_max_not_imported_leaves_a_dry_run_green(project: Project) -> None:
    project.configure(csv={"max_not_imported": 1})
    project.write("user_id\nu1\nu2,x\n")
    result = project.run("--dry-run", "--quiet")
    assert result.status == 0
    assert_says(
        result.err, "1 row would not be imported", "line 3", "1 would not be imported"
    )


def test_a_dry_run_writes_no_files_and_sends_no_requests(project: Project) -> None:
    write_mixed(project)
    project.configure(aws={"tmp_folder": "tmp"})
    (project.folder / "tmp").mkdir()
    before = snapshot(project.folder)
    result = project.run("--dry-run")
    assert result.status == 1, result
    assert snapshot(project.folder) == before
    assert [*project.services.requests, *project.services.notice_requests] == []


#### Standard output


def test_a_dry_run_into_a_pipe_that_closes_ends_quietly(project: Project) -> None:
    """`--dry-run | head` isn't an error."""
    project.users(3000)
    child = project.start("--dry-run")
    assert child.process.stdout
    assert child.process.stderr
    assert json.loads(child.process.stdout.readline())["user_id"] == "u1"
    child.process.stdout.close()
    err = child.process.stderr.read().decode()
    child.process.stderr.close()
    assert child.process.wait(60) == 0
    assert err == ""


@posix("needs a POSIX shell")
@pytest.mark.parametrize(
    ("count", "output", "reason"),
    [
        (2, ">/dev/full", "No space"),
        (20_000, ">/dev/full", "No space"),
        (2, ">&-", "closed"),
    ],
)
def test_a_dry_run_fails_if_it_cannot_write_its_output(
    project: Project, count: int, output: str, reason: str
) -> None:
    project.users(count)
    command = (
        f"exec {sys.executable} {SCRIPT} --dry-run --config {project.config} {output}"
    )
    run = subprocess.run(
        ["sh", "-c", command],
        cwd=project.folder,
        env=passed_environment() | {"HOME": str(project.folder)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "standard output" in line
    assert reason in line
