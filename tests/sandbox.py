"""Try export_csv.py against mocks of Intercom, Slack and Hipchat that run on this machine.

python tests/sandbox.py                             import the sample users and show the result
python tests/sandbox.py --serve                     keep the mocks running for your own config
python tests/sandbox.py --serve --config config.ini   the same, and write rehearsal.ini for it
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from mock_http import Request, Response, parse_json
from mock_intercom import DATA_TYPES
from mock_services import MockServices

SCRIPT = Path(__file__).resolve().parent.parent / "export_csv.py"

#### The demo

SAMPLE = Path(__file__).resolve().parent / "sample" / "users_2026-11-01T09-00-00.csv"
DEMO_TIMEOUT = 120
DEMO_CONFIG = """
[local]
folder = "{sample_folder}"
[file]
time_format = users_%Y-%m-%dT%H-%M-%S
[csv]
not_imported_folder = "{folder}/not_imported"
[intercom]
access_token = {services.token}
user_url = {services.users_url}
timeout = 1
retries = 3
[hipchat]
use_hipchat = true
api_key = {services.hipchat_key}
room_id = Imports
api_url = {services.hipchat_url}
[slack]
use_slack = true
webhook_url = {services.webhook_url}
[log]
folder = "{folder}/logs"
[custom_attributes]
plan = plan
bookings_count = bookings_count : integer
rating = rating : float
is_owner = is_owner : boolean
last_booking_at = last_booking_at : timestamp
"""


def run_demo() -> int:
    """Import the sample and show what each service received. Return the exit status."""
    with tempfile.TemporaryDirectory() as folder, MockServices() as services:
        config = Path(folder, "config.ini")
        text = DEMO_CONFIG.format(
            services=services, sample_folder=SAMPLE.parent, folder=folder
        )
        config.write_text(text, encoding="utf-8")
        command = [sys.executable, str(SCRIPT), "--config", str(config)]
        print(f"$ python {SCRIPT.name} --config {config.name}", flush=True)
        run = subprocess.run(
            command,
            cwd=folder,
            env=demo_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=DEMO_TIMEOUT,
        )
        print(run.stdout.rstrip())
        logs = sorted(Path(folder, "logs").glob("*.log"))
        print_received(services, logs)
        failures = find_failures(services, run.returncode, len(logs))
    print()
    if failures:
        print(f"FAILED: {', '.join(failures)}")
        return 1
    print(f"OK: all {count_sample_rows()} users were imported.")
    return 0


def demo_environment() -> dict[str, str]:
    """Return the environment without variables that take precedence over the demo's config.ini.

    Proxies are removed too; otherwise, even requests to the mocks would use the proxy.
    """
    pattern = re.compile(
        r"(INTERCOM|HIPCHAT|SLACK)_.*|(https?|all)_proxy", re.IGNORECASE
    )
    environment = dict(os.environ)
    for name in os.environ:
        if pattern.fullmatch(name):
            del environment[name]
    environment["NO_PROXY"] = "127.0.0.1"
    environment["PYTHONUTF8"] = "1"
    return environment


def count_sample_rows() -> int:
    with SAMPLE.open(encoding="utf-8-sig", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def find_failures(services: MockServices, status: int, log_count: int) -> list[str]:
    """Return a description of each failure of the demo."""
    failures = []
    if status != 0:
        failures.append(f"exit status {status}")
    row_count = count_sample_rows()
    if len(services.users) != row_count:
        failures.append(f"{len(services.users)} of {row_count} users")
    # One when the run starts, one when it ends.
    if len(services.slack) != 2:
        failures.append(f"{len(services.slack)} of 2 notices to Slack")
    if len(services.hipchat) != 2:
        failures.append(f"{len(services.hipchat)} of 2 notices to Hipchat")
    if log_count != 2:
        failures.append(f"{log_count} of 2 log files")
    return failures


def print_received(services: MockServices, logs: list[Path]) -> None:
    requests = []
    for request in services.requests:
        fields = describe_fields(request.body)
        requests.append(f"{request.method} {request.path} {request.status}{fields}")
    print_list(f"Intercom received {len(requests)} requests:", requests)
    slack_lines = []
    for message in services.slack:
        slack_lines += notice_lines(message)
    print_list(f"Slack received {len(services.slack)} notices:", slack_lines)
    hipchat_lines = []
    for form in services.hipchat:
        hipchat_lines += notice_lines(form)
    print_list(f"Hipchat received {len(services.hipchat)} notices:", hipchat_lines)
    print_list(
        "Log files:", [f"{log.name}, {log.stat().st_size} bytes" for log in logs]
    )
    for log in logs:
        if log.name.endswith("_error.log"):
            errors = log.read_text(encoding="utf-8").splitlines()
            print_list(f"{log.name}:", errors or ["(empty: no warnings and no errors)"])


def print_list(title: str, lines: Iterable[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        text = line.lstrip()
        indent = " " * (len(line) - len(text) + 2)
        print(textwrap.fill(text, 98, initial_indent=indent, subsequent_indent=indent))


def notice_lines(fields: Mapping[str, object]) -> list[str]:
    """Return a notice's lines, the first one with the notice's appearance in brackets."""
    names = ("color", "channel", "username", "icon_url", "icon_emoji")
    appearance = [str(fields[name]) for name in names if name in fields]
    text = str(fields.get("text", fields.get("message", "")))
    first_line, *other_lines = text.splitlines() or [""]
    if appearance:
        first_line = f"[{', '.join(appearance)}] {first_line}"
    return [first_line, *(f"    {line}" for line in other_lines)]


def describe_fields(body: Any) -> str:
    """Return a request's fields, after a colon, or "" if it has none."""
    if not body or not isinstance(body, dict):
        return ""
    return ": " + ", ".join(f"{name} {value!r}" for name, value in body.items())


#### --serve

# Fixed, so that a config file written for one rehearsal also works for the next.
DEFAULT_PORT = 8765
# Variables that take precedence over config.ini: with one of them set, a run that is meant as a
# rehearsal would use the real credentials, or post to the real webhook.
OVERRIDING_VARIABLES = (
    "INTERCOM_API_ID",
    "INTERCOM_API_KEY",
    "INTERCOM_ACCESS_TOKEN",
    "HIPCHAT_API_KEY",
    "SLACK_WEBHOOK_URL",
)
INSTRUCTIONS = """\
The mocks of Intercom, Slack and Hipchat are running. Nothing that they receive leaves this machine.

To rehearse your own import, copy config.ini to rehearsal.ini. In the copy, edit these keys in
place, each in its own section (a key must not appear twice):

[intercom]
api_id =
api_key =
access_token = {services.token}
user_url = {services.users_url}
timeout = 1
state_file = rehearsal.sqlite3
[hipchat]
api_key = {services.hipchat_key}
api_url = {services.hipchat_url}
[slack]
webhook_url = {services.webhook_url}

If your user_url ends in /contacts, use these two instead, also in [intercom]:

user_url = {services.contacts_url}
create_attributes = true

Then run this in another terminal:

python export_csv.py --config rehearsal.ini

Secrets in the environment or in .env take precedence over rehearsal.ini: remove them first.
"""
REHEARSAL_WRITTEN = """\
The mocks of Intercom, Slack and Hipchat are running. Nothing that they receive leaves this machine.

rehearsal.ini has your settings with the addresses and credentials of the mocks. Its logs, rejected
rows and sync state are separate from your own, in {folder}

Run this in another terminal:

{command}
"""
WAITING = "Press Ctrl-C to stop. Requests and notices are shown as they arrive."


class CannotServe(Exception):
    """The mocks can't be started; the message is the one line to print."""


def start_services(options: argparse.Namespace) -> MockServices:
    """Start the mocks on the requested port. Raise CannotServe if it isn't free."""
    port = options.port
    if port is None:
        # Programs read the port from the output; for people, it should stay the same.
        port = DEFAULT_PORT
        if options.json:
            port = 0
    settings: dict[str, Any] = {
        "token": options.token,
        "latency": options.latency,
        "limit": options.limit,
        "window": options.window,
        "clock_offset": options.clock_offset,
        "attributes": dict(options.attribute),
        "record": False,
    }
    try:
        return MockServices(port=port, **settings)
    except OSError as error:
        if options.port is not None and error.errno == errno.EADDRINUSE:
            raise CannotServe(f"port {port} is already in use") from None
        if options.port is not None:
            raise CannotServe(
                f"can't listen on port {port}: {error.strerror}"
            ) from None
    services = MockServices(port=0, **settings)
    print(
        f"Port {port} is already in use; using {services.url} instead.\n",
        flush=True,
    )
    return services


def serve_interactively(services: MockServices, introduction: str) -> None:
    """Print which settings to use, then show what arrives, until Ctrl-C or SIGTERM."""
    services.on_response = print_arrival
    # A shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        print_safely(*introduction.splitlines(), *environment_warnings(), "", WAITING)
        # On Windows, Ctrl-C is only handled between two waits.
        while not services.closing.wait(0.5):
            pass
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    rejected = 0
    for status, number_of_responses in services.responses.items():
        if status >= 400:
            rejected += number_of_responses
    print_safely(
        f"Received: {len(services.users)} users, {len(services.contacts)} contacts,"
        f" {len(services.slack) + len(services.hipchat)} notices;"
        f" {services.responses.total()} requests to Intercom, {rejected} of them rejected"
    )


def environment_warnings() -> list[str]:
    """Return a warning for each variable that would keep a rehearsal from using the mocks."""
    warnings = [
        f"Warning: {name} is set and takes precedence over the config file."
        for name in OVERRIDING_VARIABLES
        if os.environ.get(name)
    ]
    if urllib.request.getproxies().get("http") and not urllib.request.proxy_bypass(
        "127.0.0.1"
    ):
        warnings.append(
            "Warning: a proxy is set. Set NO_PROXY=127.0.0.1 for the rehearsal."
        )
    return warnings


def print_arrival(request: Request, response: Response) -> None:
    """Print a request to Intercom as one line, or a notice with all of its lines."""
    status = str(response.status)
    if response.status >= 400:
        status += f" ({error_message(response)})"
    if request.service == "intercom":
        fields = describe_fields(request.body)
        print_safely(f"{request.method} {request.path} {status}{fields}")
        return
    notice = request.body
    if not isinstance(notice, dict):
        notice = dict(parse_qsl(request.raw.decode("utf-8", "replace")))
    first_line, *other_lines = notice_lines(notice)
    print_safely(f"{request.service.capitalize()} {status}: {first_line}", *other_lines)


def error_message(response: Response) -> str:
    """Return the message of an error from Intercom or Hipchat, or Slack's text."""
    body = parse_json(response.body)
    if not isinstance(body, dict):
        return response.body.decode("utf-8", "replace")
    errors = body.get("errors") or [body.get("error")]
    if isinstance(errors[0], dict):
        return str(errors[0].get("message"))
    return str(errors[0])


def print_safely(*lines: str) -> None:
    """Print lines immediately, escaping control characters that could disturb the terminal."""
    text = ""
    for line in lines:
        for character in line:
            if character.isprintable():
                text += character
            else:
                text += ascii(character)[1:-1]
        text += "\n"
    try:
        print(text, end="", flush=True)
    except OSError:
        # The reader of the output is gone, but the mocks are still in use.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def serve_json(services: MockServices) -> None:
    """Print the URLs as a line of JSON; when stdin closes or on SIGTERM, print the counts too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    urls = {
        "url": services.url,
        "users_url": services.users_url,
        "contacts_url": services.contacts_url,
        "webhook_url": services.webhook_url,
        "hipchat_url": services.hipchat_url,
    }
    print(json.dumps(urls), flush=True)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        sys.stdin.buffer.read()
    counts = {
        "users": len(services.users),
        "contacts": len(services.contacts),
        "max_in_flight": services.max_in_flight,
        "responses": services.responses,
    }
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(counts), flush=True)


#### --config: a copy of the user's settings that is safe to rehearse with

REHEARSAL = "rehearsal.ini"
# For the files that a rehearsal writes. The sync state is separate too: otherwise, users would be
# marked as sent.
REHEARSAL_FOLDER = "rehearsal"
# Sections that are copied line by line, apart from the keys that are replaced.
COPIED_SECTIONS = ("local", "file", "csv", "log", "user", "custom_attributes")
# Keys that are copied from the other sections. Anything else in them, even a misspelled key,
# may be a secret, so it is left out.
COPIED_KEYS = {
    "intercom": (
        "api_version",
        "retries",
        "concurrency",
        "skip_unchanged",
        "unarchive",
    ),
    "hipchat": ("use_hipchat", "room_id", "from"),
    "slack": ("use_slack", "channel", "username", "icon_url", "icon_emoji"),
    "aws": (),
}
Sections = dict[str, list[tuple[str, str]]]


def read_config(path: Path) -> Sections:
    """Return the key and value of every setting, by section; comments are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CannotServe(f"{path} is not UTF-8") from None
    except OSError as error:
        raise CannotServe(f"{path} can't be read: {error.strerror}") from None
    sections: Sections = {}
    section = ""
    for line in text.split("\n"):
        line_text = line.strip()
        header = re.fullmatch(r"\[(.+)\]", line_text)
        if header:
            section = header[1]
            sections.setdefault(section, [])
        elif section and "=" in line_text and line_text[0] not in "#;":
            key, _, value = line_text.partition("=")
            sections[section].append((key.strip(), value.strip()))
    return sections


def setting(sections: Sections, section: str, key: str) -> str:
    """Return a setting's value without the quotes around it, or ""."""
    for name, value in sections.get(section, []):
        if name == key:
            return re.sub('^"([^"]*)"$', r"\1", value)
    return ""


def rehearsal_settings(
    sections: Sections, services: MockServices, config: Path
) -> Sections:
    """Return the settings of a rehearsal: no secrets, and only URLs of the mocks."""
    output_folder = Path(REHEARSAL_FOLDER).resolve()
    intercom = [
        ("access_token", services.token),
        ("user_url", services.users_url),
        ("timeout", "1"),
        ("state_file", quoted(output_folder / "sent_users.sqlite3")),
    ]
    user_url = setting(sections, "intercom", "user_url").rstrip("/")
    if user_url.endswith("/contacts"):
        intercom[1] = ("user_url", services.contacts_url)
        intercom.append(("create_attributes", "true"))
    replaced: Sections = {
        # There is no mock of S3.
        "aws": [("use_aws", "false")],
        "local": [("folder", quoted(find_local_folder(sections, config)))],
        "csv": [("not_imported_folder", quoted(output_folder / "not_imported"))],
        "log": [("folder", quoted(output_folder / "logs"))],
        "intercom": intercom,
        "hipchat": [
            ("api_key", services.hipchat_key),
            ("api_url", services.hipchat_url),
        ],
        "slack": [("webhook_url", services.webhook_url)],
    }
    result: Sections = {}
    for section in (*COPIED_KEYS, *COPIED_SECTIONS):
        result[section] = list(replaced.get(section, []))
        replaced_keys = [key for key, _ in result[section]]
        for key, value in sections.get(section, []):
            is_copied = section in COPIED_SECTIONS or key in COPIED_KEYS[section]
            if is_copied and key not in replaced_keys:
                result[section].append((key, value))
    return result


def quoted(path: Path) -> str:
    return f'"{path}"'


def find_local_folder(sections: Sections, config: Path) -> Path:
    """Resolve [local] folder against the current folder, or else the config's folder.

    A run resolves it against its current folder. The rehearsal may be started from another one,
    because a .env next to the config file would interfere with it.
    """
    folder = Path(setting(sections, "local", "folder") or ".").expanduser()
    next_to_config = config.resolve().parent / folder
    if not folder.is_dir() and next_to_config.is_dir():
        return next_to_config
    return folder.resolve()


def find_overriding_variable(env_file: Path) -> str:
    """Return "NAME is set in ..." if NAME would override the config file, or ""."""
    for name in OVERRIDING_VARIABLES:
        if os.environ.get(name):
            return f"{name} is set in the environment"
    try:
        text = env_file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""
    for name in OVERRIDING_VARIABLES:
        # A blank variable counts as unset.
        blank = r"[ \t]*(\"\"|'')?[ \t]*$"
        if re.search(rf"(?m)^\s*(export\s+)?'?{name}'?\s*=(?!{blank})", text):
            return f"{name} is set in {env_file.resolve()}"
    return ""


def check_rehearsal(config: Path) -> Sections:
    """Return the settings of a config file. Raise CannotServe if they can't be rehearsed safely."""
    if os.path.lexists(REHEARSAL):
        raise CannotServe(
            f"{REHEARSAL} already exists; delete it, or leave out --config"
        )
    variable = find_overriding_variable(Path(".env"))
    if variable:
        raise CannotServe(
            f"{variable} and would take precedence over {REHEARSAL}; unset it, or start this in"
            " an empty folder"
        )
    sections = read_config(config)
    if not sections:
        raise CannotServe(f"{config} has no [section]")
    return sections


def write_rehearsal(sections: Sections, services: MockServices, config: Path) -> None:
    """Write rehearsal.ini to the current folder."""
    lines = ["# Written by tests/sandbox.py: settings for a rehearsal with its mocks."]
    for section, settings in rehearsal_settings(sections, services, config).items():
        lines += ["", f"[{section}]"]
        for key, value in settings:
            lines.append(f"{key} = {value}".rstrip())
    output_folder = Path(REHEARSAL_FOLDER)
    try:
        output_folder.mkdir(exist_ok=True)
        # Readable by its owner only, like everything that export_csv.py writes.
        descriptor = os.open(REHEARSAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError as error:
        raise CannotServe(f"can't write {error.filename}: {error.strerror}") from None


def describe_rehearsal(sections: Sections) -> str:
    """Return the instructions for using the rehearsal.ini that was written."""
    arguments = [
        sys.executable,
        str(SCRIPT),
        "--config",
        str(Path(REHEARSAL).resolve()),
    ]
    uses_s3 = setting(sections, "aws", "use_aws").lower() == "true"
    if uses_s3:
        arguments.append("FILE.csv")
    command = shlex.join(arguments)
    if os.name == "nt":
        command = subprocess.list2cmdline(arguments)
    folder = Path(REHEARSAL_FOLDER).resolve()
    text = REHEARSAL_WRITTEN.format(folder=folder, command=command)
    if uses_s3:
        text += (
            "\nA rehearsal doesn't use S3: download the export, and replace FILE.csv with its"
            " name.\n"
        )
    unknown = sorted(set(sections) - {*COPIED_SECTIONS, *COPIED_KEYS})
    if unknown:
        text += f"\nUnknown sections were left out: {', '.join(unknown)}\n"
    return text


#### Command line


def parse_attribute(text: str) -> tuple[str, str]:
    name, _, data_type = text.rpartition(":")
    if not name or data_type not in DATA_TYPES:
        expected = ", ".join(DATA_TYPES)
        raise argparse.ArgumentTypeError(
            f"expected NAME:TYPE, where TYPE is one of {expected}"
        )
    return name, data_type


def parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"invalid port {text!r} (expected 0 to 65535)")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Without options: import the sample users into mocks of Intercom, Slack and"
        " Hipchat that run on this machine, and show what each of them received."
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="keep the mocks running, and show what they receive, until Ctrl-C",
    )
    serve = parser.add_argument_group("options for --serve")
    serve.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="write rehearsal.ini to the current folder: the settings of FILE, with the mocks'"
        " addresses and credentials in place of the real ones",
    )
    serve.add_argument(
        "--port",
        type=parse_port,
        help=f"port to listen on; 0 means any free one (default: {DEFAULT_PORT}, or a free one if"
        " that is taken)",
    )
    serve.add_argument(
        "--token",
        default="sandbox-token-0123456789",
        help="access token that the mock of Intercom accepts (default: %(default)s)",
    )
    serve.add_argument(
        "--latency",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time the mock of Intercom takes to respond (default: %(default)s)",
    )
    serve.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="requests that the mock accepts per window (default: no limit)",
    )
    serve.add_argument(
        "--window",
        type=int,
        default=10,
        metavar="SECONDS",
        help="length of a rate limit window (default: %(default)s)",
    )
    serve.add_argument(
        "--clock-offset",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how far the mock's clock is ahead of this machine's"
        " (default: %(default)s)",
    )
    serve.add_argument(
        "--attribute",
        type=parse_attribute,
        action="append",
        default=[],
        metavar="NAME:TYPE",
        help="custom attribute that the workspace has, for /contacts; may be repeated",
    )
    serve.add_argument(
        "--json",
        action="store_true",
        help="for programs: print the URLs as a line of JSON, run until standard input closes,"
        " then print a line with the counts; --port is 0 by default",
    )
    options = parser.parse_args()
    if not options.serve and len(sys.argv) > 1:
        parser.error("these options need --serve")
    if options.json and options.config:
        parser.error("--config can't be used with --json")
    return options


def serve(options: argparse.Namespace) -> int:
    """Start the mocks and keep them running. Return the exit status."""
    try:
        sections: Sections = {}
        if options.config:
            sections = check_rehearsal(options.config)
        with start_services(options) as services:
            if options.json:
                serve_json(services)
            elif options.config:
                write_rehearsal(sections, services, options.config)
                serve_interactively(services, describe_rehearsal(sections))
            else:
                serve_interactively(services, INSTRUCTIONS.format(services=services))
    except CannotServe as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def main() -> int:
    options = parse_arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Users' names may be in any script, and not every terminal can show them.
        sys.stdout.reconfigure(errors="backslashreplace")
    if options.serve:
        return serve(options)
    try:
        return run_demo()
    except subprocess.TimeoutExpired:
        print(f"\nFAILED: {SCRIPT.name} didn't finish within {DEMO_TIMEOUT} seconds")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
