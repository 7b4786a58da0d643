"""How fast the import is, beside what else one would write: a table, and with --plot a picture.

    .venv/bin/python -m pip install -r tests/bench-requirements.txt
    .venv/bin/python tests/bench.py --plot bench.png

Each line compares two programs in turns, A B A B, in child processes, against a stand-in in yet
another process, new for each run. Figures are medians. What a program needs to start is taken off:
a run with few users is subtracted from a run with many. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import http.client
import importlib
import json
import operator
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent
SCRIPT = TESTS.parent / "export_csv.py"
TOKEN, NOWHERE = "sandbox-token-0123456789", "https://api.intercom.io/users"
HEADINGS = ["user_id", "email", "name", "signed_up_at", "plan", "bookings_count"]
ATTRIBUTES = ["--attribute", "plan:string", "--attribute", "bookings_count:integer"]
TYPES = {"plan": "string", "bookings_count": "integer"}
WIDE = {**TYPES, "city": "string", "rating": "float", "is_owner": "boolean", "seen_at": "timestamp"}
LATENCY, LIMIT, WINDOW, CONCURRENCY = 0.1, 550, 2, 32  # of the line about Intercom's limit


class Sizes(NamedTuple):
    """How many times, users and rows each figure takes."""

    rounds: int
    slow: int  # users, one by one at 20 ms
    many: int  # users whose CPU is counted
    windows: int
    dry: int
    unchanged: int
    large: int  # rows of the larger file of which time and memory are taken
    line: int  # bytes of a file without a line end
    waves: int  # for each concurrency of the picture


FULL = Sizes(5, 250, 5000, 5, 200_000, 100_000, 1_000_000, 2**30, 30)
QUICK = Sizes(3, 50, 500, 2, 20_000, 2_000, 20_000, 2**26, 8)
FEW = 20


class Line(NamedTuple):
    """A line of the table."""

    figure: str
    ours: str
    peer: str
    ratio: str
    wanted: str
    reached: bool


class Cost(NamedTuple):
    """What a child process took: seconds on the clock, seconds of CPU, and MB at its peak."""

    wall: float
    cpu: float
    peak: float


#### What others would write


def users(count: int) -> Iterator[dict[str, Any]]:
    """The users of `write_csv`, as Intercom gets them."""
    for number in range(count):
        yield {
            "user_id": f"u{number}",
            "email": f"user{number}@example.com",
            "name": f"User {number}",
            "signed_up_at": 1_600_000_000 + number,
            "custom_attributes": {"plan": "gold", "bookings_count": number % 50},
        }


def headers(version: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Intercom-Version": version,
    }


def peer_http_client(url: str, count: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    sent = headers("1.4")
    for user in users(count):
        connection.request("POST", "/users", json.dumps(user), sent)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200


def peer_requests(url: str, count: int) -> None:
    session = importlib.import_module("requests").Session()
    session.headers.update(headers("1.4"))
    for user in users(count):
        session.post(f"{url}/users", json=user, timeout=60).raise_for_status()


def peer_sdk(url: str, count: int) -> None:
    intercom = importlib.import_module("intercom")
    client = intercom.Intercom(token=TOKEN, base_url=url, headers=headers("2.14"))
    for user in users(count):
        request = intercom.CreateContactRequestWithExternalId(
            external_id=user["user_id"],
            email=user["email"],
            name=user["name"],
            signed_up_at=user["signed_up_at"],
            custom_attributes=user["custom_attributes"],
        )
        client.contacts.create(request=request)


def peer_csv(path: str, _: int) -> None:
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            print(json.dumps(row))


def digests(path: str) -> Iterator[tuple[str, bytes]]:
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["user_id"], hashlib.sha256(json.dumps(row).encode()).digest()


def peer_remember(path: str, _: int) -> None:
    """What `peer_look_up` looks up, whichever of the files it reads."""
    with contextlib.closing(sqlite3.connect(Path(path).with_name("peer.sqlite3"))) as database:
        database.execute("CREATE TABLE sent (user TEXT PRIMARY KEY, digest BLOB)")
        database.executemany("INSERT INTO sent VALUES (?, ?)", digests(path))
        database.commit()


def peer_look_up(path: str, _: int) -> None:
    with contextlib.closing(sqlite3.connect(Path(path).with_name("peer.sqlite3"))) as database:
        for user, digest in digests(path):
            found = database.execute("SELECT digest FROM sent WHERE user = ?", (user,)).fetchone()
            assert found == (digest,)


PEERS: dict[str, Callable[[str, int], None]] = {
    "http.client": peer_http_client,
    "requests": peer_requests,
    "sdk": peer_sdk,
    "csv": peer_csv,
    "remember": peer_remember,
    "look up": peer_look_up,
}


#### Running them


def start(command: list[object], folder: Path, quiet: bool = False) -> subprocess.Popen[bytes]:
    foreign = re.compile(r"(INTERCOM|HIPCHAT|SLACK|AWS)_.*|(https?|all)_proxy", re.IGNORECASE)
    kept = {name: text for name, text in os.environ.items() if not foreign.fullmatch(name)}
    parts = [str(part) for part in command]
    errors = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(parts, cwd=folder, env=kept, stdout=subprocess.DEVNULL, stderr=errors)


def ended(process: subprocess.Popen[bytes], began: float) -> Cost:
    """What a process has cost when it ends."""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak)


def run(command: list[object], folder: Path, status: int = 0) -> Cost:
    """What a command costs that ends with this status."""
    began = time.perf_counter()
    process = start(command, folder, quiet=status != 0)
    cost = ended(process, began)
    if process.returncode != status:
        raise SystemExit(f"{command[1:]} ended with {process.returncode} in {folder}")
    return cost


def run_to_first_request(folder: Path, name: str, types: dict[str, str]) -> Cost:
    """What an import costs until its first request reaches a socket of our own; it ends there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/users"
        command = ours(folder, url, name, types=types)
        server.settimeout(0.5)
        began, connection = time.perf_counter(), None
        process = start(command, folder)
        while connection is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
            if connection is None and process.poll() is not None:
                raise SystemExit(f"{command[1:]} ended with {process.returncode} unasked")
        with connection:
            connection.recv(65536)
            wall = time.perf_counter() - began
            process.kill()
            return ended(process, began)._replace(wall=wall)


@contextlib.contextmanager
def stand_in(*options: object) -> Iterator[dict[str, Any]]:
    """A stand-in in a process of its own; after the end, also what it tells then."""
    command = [sys.executable, TESTS / "sandbox.py", "--serve", "--json", "--token", TOKEN]
    pipe = subprocess.PIPE
    with subprocess.Popen([*map(str, (*command, *options))], stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        told: dict[str, Any] = json.loads(process.stdout.readline())
        yield told
        told |= json.loads(process.communicate()[0])


def write_csv(folder: Path, count: int) -> Path:
    """A file of the first `count` users."""
    path = folder / f"users{count}.csv"
    if not path.exists():
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADINGS)
            for user in users(count):
                attributes = user.pop("custom_attributes")
                writer.writerow([*user.values(), *attributes.values()])
    return path


def write_wide_csv(folder: Path, count: int) -> Path:
    """A file of ten cells a row, of each type that a cell may have."""
    path = folder / f"wide{count}.csv"
    if not path.exists():
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join([*HEADINGS[:4], *WIDE]) + "\n")
            for number in range(count):
                signed_up, seen = (
                    datetime.fromtimestamp(first + number, timezone.utc).isoformat()
                    for first in (1_600_000_000, 1_700_000_000)
                )
                file.write(
                    f"u{number},user{number}@example.com,User {number},{signed_up},gold,"
                    f"{number % 50},Köln,{number % 500 / 100},{number % 3 == 0},{seen}\n"
                )
    return path


def ours(
    folder: Path, url: str, *arguments: object, types: dict[str, str] = TYPES, **keys: object
) -> list[object]:
    """The command of an import; types are its custom attributes', keys those of [intercom]."""
    config = folder / "config.ini"
    settings = {"access_token": TOKEN, "user_url": url, "state_file": folder / "state", **keys}
    config.write_text(
        f"[local]\nfolder = {folder}\n[log]\nfolder = {folder}/logs\n"
        f"[csv]\nnot_imported_folder = {folder}/not_imported\n"
        "[custom_attributes]\n"
        + "".join(f"{name} = {name} : {kind}\n" for name, kind in types.items())
        + "[intercom]\n"
        + "".join(f"{key} = {text}\n" for key, text in settings.items())
    )
    return [sys.executable, SCRIPT, "--config", config, *arguments]


def peer(name: str, url: object, count: int) -> list[object]:
    return [sys.executable, __file__, "--peer", name, url, count]


def import_cost(folder: Path, dialect: str, count: int, options: tuple[object, ...] = ()) -> Cost:
    """What an import of so many users costs, against a new stand-in."""
    name = write_csv(folder, count).name
    with stand_in(*ATTRIBUTES, *options) as service:
        return run(ours(folder, f"{service['url']}/{dialect}", name), folder)


def peer_cost(folder: Path, name: str, count: int, options: tuple[object, ...] = ()) -> Cost:
    with stand_in(*ATTRIBUTES, *options) as service:
        return run(peer(name, service["url"], count), folder)


def dry_run_of(folder: Path, count: int) -> Cost:
    return run(ours(folder, NOWHERE, write_csv(folder, count).name, "--dry-run", "--quiet"), folder)


def bare_rows(folder: Path, name: str, count: int) -> Cost:
    return run(peer(name, write_csv(folder, count), 0), folder)


def in_turns(
    rounds: int, costs: Sequence[Callable[[int], Cost]], many: int, what: str
) -> list[list[float]]:
    """For each of the programs, seconds a user or row in every round; what it is, see Cost."""
    results: list[list[float]] = [[] for _ in costs]
    for _ in range(rounds):
        for cost, seconds in zip(costs, results, strict=True):
            few, all_ = (getattr(cost(count), what) for count in (FEW, many))
            seconds.append((all_ - few) / (many - FEW))
    return results


def compare(figures: list[list[float]]) -> float:
    """The median of the rounds' own ratios: what slows the machine down slows both."""
    first, second = figures
    return median(one / other for one, other in zip(first, second, strict=True))


#### The lines of the table


def line(figure: str, own: str, value: float, wanted: str, peer: str = "", ratio: str = "") -> Line:
    """A line with whether the value is as wanted, such as `>= 0.95` or `< 120 MB`."""
    relation, most = wanted.split()[:2]
    reaches = {">=": operator.ge, "<=": operator.le, "<": operator.lt}[relation]
    return Line(figure, own, peer, ratio, wanted, reaches(value, float(most)))


def speed(figure: str, seconds: list[list[float]], unit: str, wanted: str) -> Line:
    """How fast a peer, then ours was: in so many units, `{}` being the number."""
    ratio, (bare, own) = compare(seconds), (1 / median(each) for each in seconds)
    told = unit.format(own), ratio, wanted, unit.format(bare).split()[0], f"{ratio:.3f}"
    return line(figure, *told)


def one_by_one(folder: Path, sizes: Sizes) -> Iterator[Line]:
    latency = ("--latency", 0.02)
    bare = partial(peer_cost, folder, "http.client", options=latency)
    own = partial(import_cost, folder, "users", options=latency)
    seconds = in_turns(sizes.rounds, [bare, own], sizes.slow, "wall")
    figure = "one by one at 20 ms, against a bare http.client loop"
    yield speed(figure, seconds, "{:.1f} users/s", ">= 0.95")


def cpu(folder: Path, sizes: Sizes) -> Iterator[Line]:
    for name, whose, dialect, most in (
        ("requests", "a requests.Session().post(json=...)", "users", 0.8),
        ("sdk", "a python-intercom", "contacts", 0.45),
    ):
        costs = [partial(import_cost, folder, dialect), partial(peer_cost, folder, name)]
        seconds = in_turns(sizes.rounds, costs, sizes.many, "cpu")
        ratio, (own, other) = compare(seconds), (median(each) * 1e6 for each in seconds)
        told = f"{own:.0f} us", ratio, f"<= {most}", f"{other:.0f} us", f"{ratio:.2f}"
        yield line(f"CPU a user, against {whose} loop", *told)


def limit(folder: Path, sizes: Sizes) -> Iterator[Line]:
    """Started with a window; what the limit allows is a window's users at the start of each."""
    count, rates = sizes.windows * LIMIT, []
    refused = 0
    ideal = (sizes.windows - 1) * WINDOW + LIMIT * LATENCY / CONCURRENCY
    for _ in range(sizes.rounds):
        name = write_csv(folder, count).name
        options = ("--latency", LATENCY, "--limit", LIMIT, "--window", WINDOW)
        with stand_in(*options) as service:
            command = ours(folder, service["users_url"], name, concurrency=CONCURRENCY)
            time.sleep(WINDOW - time.time() % WINDOW)
            rates.append(count / run(command, folder).wall)
        refused += service["answers"].get("429", 0)
    rate, allowed = median(rates), count / ideal
    figure = f"{CONCURRENCY} under way at 100 ms, limit {LIMIT} in {WINDOW} s"
    ratio = rate / allowed
    told = f"{rate:.1f} users/s", ratio, ">= 0.95", f"{allowed:.1f} (the limit)", f"{ratio:.3f}"
    yield line(figure, *told)
    yield Line("  429s in all of its runs", str(refused), "", "", "0", refused == 0)


def dry_run(folder: Path, sizes: Sizes) -> Iterator[Line]:
    costs = [partial(bare_rows, folder, "csv"), partial(dry_run_of, folder)]
    seconds = in_turns(sizes.rounds, costs, sizes.dry, "wall")
    figure = "dry run, against a csv.DictReader and json.dumps loop"
    yield speed(figure, seconds, "{:,.0f} rows/s", ">= 0.35")


def unchanged(folder: Path, sizes: Sizes) -> Iterator[Line]:
    path = write_csv(folder, sizes.unchanged)
    run(peer("remember", path, 0), folder)
    with stand_in() as service:
        url = service["users_url"]
        run(ours(folder, url, path.name, skip_unchanged="true", concurrency=8), folder)

        def import_rows(count: int) -> Cost:
            name = write_csv(folder, count).name
            return run(ours(folder, url, name, skip_unchanged="true"), folder)

        bare = partial(bare_rows, folder, "look up")
        seconds = in_turns(sizes.rounds, [bare, import_rows], sizes.unchanged, "wall")
    if service["users"] != sizes.unchanged or sum(service["answers"].values()) != sizes.unchanged:
        raise SystemExit(f"unchanged users were sent: {service}")
    figure = f"{sizes.unchanged:,} unchanged rows, against DictReader, json.dumps, sha256, SQLite"
    yield speed(figure, seconds, "{:,.0f} rows/s", ">= 0.4")


def first_reading(folder: Path, sizes: Sizes) -> Iterator[Line]:
    """The whole file is read before the first request goes out."""
    seconds, peaks = list[float](), list[float]()
    large, small = (write_wide_csv(folder, count) for count in (sizes.large, 1000))
    few = write_wide_csv(folder, FEW)
    for _ in range(sizes.rounds):
        whole = run_to_first_request(folder, large.name, WIDE)
        seconds.append(whole.wall - run_to_first_request(folder, few.name, WIDE).wall)
        peaks.append(whole.peak / run_to_first_request(folder, small.name, WIDE).peak)
    own, most, flat = median(seconds), sizes.large / 100_000, median(peaks)
    figure = f"first reading of {sizes.large:,} rows of ten cells"
    yield line(figure, f"{own:.2f} s", own, f"< {most:g} s")
    figure = "  its peak memory, against 1,000 rows"
    yield line(figure, f"{whole.peak:.1f} MB", flat, "<= 1.05", ratio=f"{flat:.2f}")

    path = folder / "line.csv"
    with path.open("wb") as file:
        file.write(b"user_id,email\n")
        for _ in range(sizes.line // 2**20):
            file.write(b"x" * 2**20)
    with stand_in() as service:
        command = ours(folder, service["users_url"], path.name, types={})
        cost = run(command, folder, status=1)
    path.unlink()
    figure = f"  peak memory of {sizes.line // 2**20:,} MiB without a line end"
    yield line(figure, f"{cost.peak:.1f} MB", cost.peak, "< 120 MB")


def memory(folder: Path, sizes: Sizes) -> Iterator[Line]:
    small = median(dry_run_of(folder, 1000).peak for _ in range(sizes.rounds))
    large = dry_run_of(folder, sizes.large).peak
    ratio = large / small
    told = f"{large:.1f} MB", ratio, "<= 1.05", f"{small:.1f} MB", f"{ratio:.2f}"
    yield line(f"peak memory of {sizes.large:,} rows, against 1,000", *told)


def start_up(folder: Path, sizes: Sizes) -> Iterator[Line]:
    name = write_csv(folder, FEW).name
    seconds: list[list[float]] = [[], []]
    for _ in range(3 * sizes.rounds):
        seconds[0].append(run_to_first_request(folder, name, TYPES).wall)
        seconds[1].append(run([sys.executable, "-c", "import requests"], folder).wall)
    own, other = map(median, seconds)
    over = median(one - bare for one, bare in zip(*seconds, strict=True))
    figure = 'start-up to the first request, against -c "import requests"'
    told = f"{own:.3f} s", over, "<= +0.1 s", f"{other:.3f} s", f"+{over:.3f} s"
    yield line(figure, *told)


MEASUREMENTS = (one_by_one, cpu, limit, dry_run, first_reading, unchanged, memory, start_up)


def plot(folder: Path, sizes: Sizes, path: Path) -> None:
    """Users a second against concurrency, as a PNG."""
    steps, rates = [1, 2, 4, 8, 16, 32, 64], []
    for concurrency in steps:
        many, few = concurrency * sizes.waves + FEW, FEW
        walls = []
        for count in (few, many):
            name = write_csv(folder, count).name
            with stand_in("--latency", LATENCY) as service:
                command = ours(folder, service["users_url"], name, concurrency=concurrency)
                walls.append(run(command, folder).wall)
        rates.append((many - few) / (walls[1] - walls[0]))
    pyplot = importlib.import_module("matplotlib.pyplot")
    _, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    axes.loglog(steps, rates, "o-", label="export_csv.py")
    axes.loglog(steps, [step / LATENCY for step in steps], ":", label="concurrency / latency")
    axes.axhline(1000 / 6, color="gray", linestyle="--", label="Intercom's 10,000 a minute")
    axes.set(xlabel="concurrency", ylabel="users a second", title="100 ms a request")
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    pyplot.savefig(path, dpi=120)


def show(lines: list[Line]) -> None:
    """The table, in Markdown."""
    rows = [("figure", "ours", "peer", "ratio", "wanted", "")]
    rows += [(*line[:5], "" if line.reached else "falls short") for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |", flush=True)
        if number == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw a picture too")
    names = [measure.__name__ for measure in MEASUREMENTS]
    parser.add_argument("--only", choices=names, help="one of the measurements")
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "URL", "COUNT"), help="be a peer")
    options = parser.parse_args()
    if options.peer:
        name, url, count = options.peer
        PEERS[name](url, int(count))
        return 0
    sizes = QUICK if options.quick else FULL
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for measure in MEASUREMENTS:
            if options.only in (None, measure.__name__):
                print(f"measuring: {measure.__name__}", file=sys.stderr, flush=True)
                lines += measure(folder, sizes)
        if options.plot:
            plot(folder, sizes, options.plot)
    show(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
