"""Which file is imported from disk: the newest by the time in its name, or the named one."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest
from conftest import NEWER, OLDER, Project, imported, one_user, posix, refusal


def test_the_newest_is_told_by_the_time_in_its_name(project: Project) -> None:
    """Not by the file's age, nor by the alphabet; whatever doesn't fit is skipped and logged."""
    project.configure(file={"time_format": "users_%d.%m.%Y"})
    misfits = ["users_03.11.2026.txt", "users_03.11.2026", "all.csv", "users_03.11.2026_v2.csv"]
    for name in "users_02.11.2026.csv", "users_30.10.2026.csv", *misfits:
        project.write(one_user(name), name)
    (project.exports / "users_04.11.2026.csv").mkdir()
    result = project.run()
    assert imported(project) == ["users_02.11.2026.csv"], result
    for name in misfits:
        lines = [line for line in result.debug_log.splitlines() if f"{name} " in line]
        assert lines, f"{name} is not in the debug log"
        assert not [line for line in lines if " DEBUG " not in line]


def test_a_compressed_file_can_be_the_newest(project: Project) -> None:
    project.write(one_user("older"))
    project.write(gzip.compress(one_user("newer")), NEWER + ".gz")
    assert project.run().status == 0
    assert imported(project) == ["newer"]


@pytest.mark.parametrize("where", ["folder", "current", "absolute", "below"])
def test_the_argument_picks_the_file_whatever_the_config_says(project: Project, where: str) -> None:
    project.configure(file={"select_latest": "false", "name": OLDER})
    project.write(one_user("wrong"), OLDER)
    project.write(one_user("wrong"), NEWER)
    paths = {
        "folder": project.exports / "vip.csv",
        "current": project.folder / "vip.csv",
        "absolute": project.folder / "elsewhere" / "vip.csv",
        "below": project.exports / "elsewhere" / "vip.csv",
    }
    paths[where].parent.mkdir(exist_ok=True)
    paths[where].write_bytes(one_user("right"))
    argument = {"absolute": paths["absolute"], "below": "elsewhere/vip.csv"}.get(where, "vip.csv")
    assert project.run(argument).status == 0
    assert imported(project) == ["right"]


def test_a_file_in_the_folder_goes_before_one_in_the_current_folder(project: Project) -> None:
    project.write(one_user("right"), "vip.csv")
    (project.folder / "vip.csv").write_bytes(one_user("wrong"))
    assert project.run("vip.csv").status == 0
    assert imported(project) == ["right"]


def test_the_config_can_name_the_file(project: Project) -> None:
    project.configure(file={"select_latest": "false", "name": "vip.csv"})
    project.write(one_user("newer"), NEWER)
    project.write(one_user("vip"), "vip.csv")
    assert project.run().status == 0
    assert imported(project) == ["vip"]


@pytest.mark.parametrize("ending", [".CSV", ".CSV.GZ"])
def test_capitals_in_the_ending_are_no_other_ending(project: Project, ending: str) -> None:
    content = one_user("right")
    content = gzip.compress(content) if ending.endswith(".GZ") else content
    project.write(content, NEWER.removesuffix(".csv") + ending)
    assert project.run().status == 0
    assert imported(project) == ["right"]


def test_what_is_missing_on_disk_is_named(project: Project) -> None:
    assert "vip.csv" in refusal(project, project.run("vip.csv"))
    project.configure(file={"select_latest": "false", "name": "named.csv"})
    assert "named.csv" in refusal(project, project.run())
    project.configure(file={"select_latest": "true"}, local={"folder": "nowhere"})
    assert str(project.folder / "nowhere") in refusal(project, project.run())


@pytest.mark.parametrize("names", [[], ["all.csv", "users_2026-11-01.csv"]], ids=["empty", "full"])
def test_where_no_file_fits_there_is_an_example_that_would(
    project: Project, names: list[str]
) -> None:
    for name in names:
        project.write(one_user("wrong"), name)
    line = refusal(project, project.run())
    assert str(project.exports) in line
    assert ("one that is there" in line) == bool(names)
    (example,) = [name for name in re.findall(r"users_\S+\.csv", line) if name not in names]
    project.write(one_user("example"), example)
    assert project.run().status == 0
    assert imported(project) == ["example"]


@posix("Windows has none of them")
def test_what_is_no_file_is_no_candidate(project: Project) -> None:
    """A loop of links, a pipe that nobody writes to, a device, a link that leads nowhere."""
    for month, target in enumerate(["/dev/zero", "gone", "users_2027-03-01T00-00-00.csv"], 1):
        (project.exports / f"users_2027-{month:02}-01T00-00-00.csv").symlink_to(target)
    os.mkfifo(project.exports / "users_2028-01-01T00-00-00.csv")
    project.write(one_user("right"))
    assert project.run().status == 0
    assert imported(project) == ["right"]


@pytest.mark.parametrize("kind", ["folder", "loop", "not packed", "failing disk"])
def test_a_file_that_cannot_be_read_is_told_in_one_line(project: Project, kind: str) -> None:
    """/proc/self/mem can be opened by everybody, and not be read from its start by anybody."""
    name, named = "vip.csv", "vip.csv"
    if kind == "folder":
        (project.exports / name).mkdir()
    elif kind == "loop":
        (project.exports / name).symlink_to(name)
    elif kind == "not packed":
        name = project.write(one_user("u1"), name + ".gz").name
    elif os.name == "nt" or not Path("/proc/self/mem").exists():
        pytest.skip("takes Linux")
    else:
        name, named = "/proc/self/mem", "Input/output error"
    assert named in refusal(project, project.run(name))
