"""Which file is imported from disk: the newest by the time in its name, or the named one."""

from __future__ import annotations

import gzip
import os
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import NEWER, OLDER, Project, imported, lines_of, one_user, posix, refusal


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
        lines = lines_of(result.debug_log, f"{name} ")
        assert lines, f"{name} is not in the debug log"
        assert lines_of(result.debug_log, f"{name} ", " DEBUG ") == lines


@pytest.mark.parametrize(
    "form", ["%Y", "%y%m%d", "%Y-%j", "%d-%b-%Y %I-%M %p", "%Y-%m-%dT%H-%M-%S%z"]
)
def test_each_format_that_tells_which_is_newer_can_be_used(project: Project, form: str) -> None:
    project.configure(file={"time_format": form})
    for year, hour in (2026, 9), (2025, 21):
        time = datetime(year, 12, 1, hour, tzinfo=timezone.utc)
        project.write(one_user(str(year)), f"{time:{form}}.csv")
    project.run()
    assert imported(project) == ["2026"]


@pytest.mark.parametrize("ending", [".csv.gz", ".CSV", ".CSV.GZ"])
def test_the_newest_may_be_packed_and_end_in_capitals(project: Project, ending: str) -> None:
    project.write(one_user("older"))
    content = one_user("newer")
    packed = gzip.compress(content) if ending.lower().endswith(".gz") else content
    project.write(packed, NEWER.removesuffix(".csv") + ending)
    assert project.run().status == 0
    assert imported(project) == ["newer"]


# where vip.csv lies, and what is written on the command line
PLACES = {
    "folder": (["exports/vip.csv"], "vip.csv"),
    "current": (["vip.csv"], "vip.csv"),
    "folder before current": (["exports/vip.csv", "vip.csv"], "vip.csv"),
    "absolute": (["elsewhere/vip.csv"], "{folder}/elsewhere/vip.csv"),
    "below": (["exports/elsewhere/vip.csv"], "elsewhere/vip.csv"),
}


@pytest.mark.parametrize(("places", "argument"), PLACES.values(), ids=PLACES)
def test_the_argument_picks_the_file(project: Project, places: list[str], argument: str) -> None:
    """Whatever the config says."""
    project.configure(file={"select_latest": "false", "name": OLDER})
    project.write(one_user("wrong"), OLDER)
    project.write(one_user("wrong"), NEWER)
    for place in places:
        path = project.folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(one_user(place))
    assert project.run(argument.format(folder=project.folder)).status == 0
    assert imported(project) == places[:1]


def test_the_config_can_name_the_file(project: Project) -> None:
    project.configure(file={"select_latest": "false", "name": "vip.csv"})
    project.write(one_user("newer"), NEWER)
    project.write(one_user("vip"), "vip.csv")
    assert project.run().status == 0
    assert imported(project) == ["vip"]


def test_what_is_missing_on_disk_is_named(project: Project) -> None:
    assert "vip.csv" in refusal(project, project.run("vip.csv"))
    project.configure(file={"select_latest": "false", "name": "named.csv"})
    assert "named.csv" in refusal(project, project.run())
    project.configure(file={"select_latest": "true"}, local={"folder": "nowhere"})
    assert str(project.folder / "nowhere") in refusal(project, project.run())


@pytest.mark.parametrize("names", [[], ["all.csv", "users_2026-11-01.csv"]], ids=["empty", "full"])
def test_where_no_file_fits_an_example_is_named(project: Project, names: list[str]) -> None:
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
