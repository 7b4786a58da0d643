"""Finding the input in S3, and the messages if S3 refuses, disconnects or is silent.

Most tests call `find_input` in this process: each child process would have to import boto3 again,
which is slow.
"""

from __future__ import annotations

import gzip
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.message import Message
from email.utils import format_datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import boto3
import pytest
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.response import StreamingBody
from conftest import (
    NAME,
    NEWER,
    OLDER,
    Project,
    eventually,
    imported,
    line_of,
    one_user,
    posix,
    stop_message,
)
from moto.s3.models import S3Backend, s3_backends
from moto.server import ThreadedMotoServer

import export_csv
from export_csv import InputFile, RunAborted, S3Download, Settings

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT",
    "AWS_SECRET_ACCESS_KEY": "secret-of-environment",
}
# Don't look for the credentials of the machine's role.
NO_ROLE = {"AWS_EC2_METADATA_DISABLED": "true"}
REGION = "eu-west-1"
MOTO_ACCOUNT = "123456789012"
numbers = count(1)


#### Reading from S3 in this process


@cache
def shared_session() -> boto3.Session:
    """Return a session that tests with the default keys share: creating one is slow."""
    return boto3.Session()


@dataclass
class Reader:
    """Finds the input in S3 as a run does, with only the given environment."""

    url: str
    bucket: str
    folder: Path
    env: Mapping[str, str] = field(default_factory=lambda: KEYS)
    should_stop: Callable[[], bool] = export_csv.never_stop

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    def settings(
        self, *arguments: str, file: Mapping[str, object] | None = None, **aws: object
    ) -> Settings:
        usual = {
            "use_aws": "true",
            "bucket": self.bucket,
            "folder": "exports",
            "region": REGION,
            "endpoint_url": self.url,
            "tmp_folder": self.tmp,
        }
        time_format = {"time_format": "users_%Y-%m-%dT%H-%M-%S"}
        sections = {"aws": {**usual, **aws}, "file": {**time_format, **(file or {})}}
        lines = []
        for section, keys in sections.items():
            lines += [
                f"[{section}]",
                *(f"{key} = {value}" for key, value in keys.items()),
            ]
        config = self.folder / "config.ini"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        parsed = export_csv.parse_arguments(
            ["--config", str(config), "--dry-run", *arguments]
        )
        settings, problems = export_csv.load_settings(config, parsed)
        assert not problems, problems
        return settings

    def find(self, *arguments: str, **keys: Any) -> InputFile:
        self.tmp.mkdir(exist_ok=True)
        home = {"HOME": str(self.folder), "USERPROFILE": str(self.folder)}
        with mock.patch.dict(os.environ, {**home, **NO_ROLE, **self.env}, clear=True):
            # boto3's default session keeps the settings of the previous environment.
            session = shared_session() if self.env is KEYS else None
            with mock.patch.object(boto3, "DEFAULT_SESSION", session):
                settings = self.settings(*arguments, **keys)
                return export_csv.find_input(settings, self.should_stop)

    def read(self, *arguments: str, **keys: Any) -> bytes:
        """Return the content of the file, and check that no temporary file is left."""
        with closing(self.find(*arguments, **keys)) as file:
            content = bytes(file.open().read())
        assert list(self.tmp.iterdir()) == []
        return content

    def error(self, *arguments: str, **keys: Any) -> str:
        """Return the error message of a run that stops; it has to be one line."""
        with pytest.raises(RunAborted) as raised:
            self.find(*arguments, **keys)
        assert list(self.tmp.iterdir()) == []
        message = str(raised.value)
        assert "\n" not in message
        return message


def assert_mentions(message: str, *words: str) -> None:
    assert [word for word in words if word not in message] == [], message


#### Objects in moto's S3


class Bucket(NamedTuple):
    """A bucket in moto, and a reader for it."""

    name: str
    backend: S3Backend
    reader: Reader

    def put(self, key: str, content: bytes) -> None:
        self.backend.put_object(self.name, key, content)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """Start moto's server once for all tests."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(tmp_path: Path, moto_url: str) -> Bucket:
    """Create a separate bucket for each test."""
    name = f"bucket-{next(numbers)}"
    backend = s3_backends[MOTO_ACCOUNT]["aws"]
    backend.create_bucket(name, "us-east-1")
    return Bucket(name, backend, Reader(moto_url, name, tmp_path))


def test_the_newest_of_a_thousand_objects_is_found(bucket: Bucket) -> None:
    """S3 lists a thousand keys per page, in alphabetical order."""
    file = {"time_format": "%d-%m-%Y"}
    for number in range(1000):
        bucket.put(f"exports/1-between-{number}.txt", b"between")
    bucket.put("exports/01-12-2026.csv", b"on the first page")
    bucket.put("exports/30-11-2026.csv", b"older")
    assert bucket.reader.read(file=file) == b"on the first page"
    bucket.put("exports/31-12-2026.csv", b"on the second page")
    assert bucket.reader.read(file=file) == b"on the second page"


@pytest.mark.parametrize("folder", ["exports", "/a/exports/", ""])
def test_only_immediate_children_of_the_folder_count(
    bucket: Bucket, folder: str
) -> None:
    path = f"{folder.strip('/')}/".lstrip("/")
    bucket.put(path + NAME, b"right")
    bucket.put(f"{path}sub/{NEWER}", b"below")
    bucket.put(f"other/{NEWER}", b"beside")
    if path:
        bucket.put(path, b"")  # the S3 console creates a folder as an empty object
        bucket.put(f"{folder.strip('/')}-old/{NEWER}", b"beside")
        bucket.put(NEWER, b"above")
    assert bucket.reader.read(folder=folder) == b"right"


@pytest.mark.parametrize("name", ["2026/vip.csv", "käufer & co+1.csv"])
def test_a_named_object_is_a_key_below_the_folder(bucket: Bucket, name: str) -> None:
    """The argument takes precedence over [file] name, which is read instead of the newest."""
    named = {"select_latest": "false", "name": "named.csv"}
    for key in (name, "named.csv", NEWER):
        bucket.put(f"exports/{key}", key.encode())
    assert bucket.reader.read(file=named) == b"named.csv"
    assert bucket.reader.read(name, file=named) == name.encode()
    with closing(bucket.reader.find(name)) as file:
        assert file.name == name.rpartition("/")[2]
        assert file.location == f"s3://{bucket.name}/exports/{name}"


def test_a_compressed_object_is_decompressed(bucket: Bucket) -> None:
    bucket.put(f"exports/{NAME}.gz", gzip.compress(b"content"))
    assert bucket.reader.read() == b"content"


MISSING: dict[str, tuple[list[str], dict[str, object], list[str]]] = {
    "bucket": ([], {"bucket": "no-such-bucket"}, ["no-such-bucket", "[aws] bucket"]),
    "key": (["vip.csv"], {}, ["exports/vip.csv", "[aws] folder", "--local"]),
    "folder": (
        [],
        {"folder": "no/such"},
        ["no/such", "[file] time_format", "users_20"],
    ),
    "match": ([], {"file": {"time_format": "%Y"}}, ["[file] time_format", NAME]),
}


@pytest.mark.parametrize(("arguments", "keys", "words"), MISSING.values(), ids=MISSING)
def test_a_missing_object_is_named_with_the_setting(
    bucket: Bucket, arguments: list[str], keys: dict[str, Any], words: list[str]
) -> None:
    bucket.put(f"exports/{NAME}", b"right")
    assert_mentions(bucket.reader.error(*arguments, **keys), *words)


@pytest.mark.parametrize(
    "name", ["my_bucket!", "exports/users", "b" * 256, "arn:aws:s3:::users"]
)
def test_an_invalid_bucket_name_is_explained_without_a_pattern(
    bucket: Bucket, name: str
) -> None:
    message = bucket.reader.error(bucket=name)
    assert_mentions(message, "[aws] bucket", name)
    assert "regex" not in message
    assert "^" not in message


def test_a_missing_temporary_folder_is_named(bucket: Bucket) -> None:
    bucket.put(f"exports/{NAME}", b"right")
    missing = bucket.reader.folder / "missing"
    assert_mentions(
        bucket.reader.error(tmp_folder=missing), str(missing), "[aws] tmp_folder"
    )


def test_a_missing_package_is_named_with_the_way_to_install_it(
    bucket: Bucket,
) -> None:
    with mock.patch.dict(sys.modules, {"boto3": None}):
        message = bucket.reader.error()
    assert_mentions(message, "the package boto3 is missing", "installboto.sh")


def test_boto3_is_imported_only_for_s3_and_nothing_is_left_behind(
    project: Project, bucket: Bucket
) -> None:
    tmp = project.folder / "tmp"
    tmp.mkdir()
    project.configure(
        aws={
            "use_aws": "true",
            "bucket": bucket.name,
            "folder": "exports",
            "region": REGION,
            "endpoint_url": bucket.reader.url,
            "tmp_folder": tmp,
        }
    )
    env = KEYS | NO_ROLE | {"PYTHONPROFILEIMPORTTIME": "1", "TMPDIR": str(tmp)}
    bucket.put(f"exports/{NEWER}", one_user("in S3"))
    result = project.run(env=env)
    assert "boto3" in result.err
    project.write(one_user("on disk"))
    result = project.run("--local", env=env)
    assert imported(project) == ["in S3", "on disk"]
    assert "requests" in result.err
    assert "boto" not in result.err
    assert list(tmp.iterdir()) == []


#### A server that refuses, disconnects or is silent


class S3Object(NamedTuple):
    content: bytes
    modified: datetime = datetime(2026, 11, 1, 9, tzinfo=timezone.utc)


class Refusal(NamedTuple):
    """An error response from S3 or STS."""

    status: int
    code: str = ""  # "": the response has no body
    message: str = "because"
    region: str = ""


class S3Request(NamedTuple):
    method: str
    path: str
    headers: Message

    @property
    def scope(self) -> list[str]:
        """The parts of the signature's credential: access key, date, region, ..."""
        credential = self.headers["Authorization"].partition("Credential=")[2]
        return credential.partition(",")[0].split("/")

    def is_signed_with(self, secret_key: str) -> bool:
        """Return whether boto3 creates the same signature with this secret key."""
        _, signed, signature = self.headers["Authorization"].split(", ")
        names = signed.removeprefix("SignedHeaders=").split(";")
        headers = {name: self.headers[name] for name in names}
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        address = f"http://{headers['host']}{url.path}"
        request = AWSRequest("GET", address, headers, params=params)
        request.context["timestamp"] = headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(self.scope[0], secret_key), "s3", REGION)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        return bool(signature == f"Signature={auth.signature(text, request)}")


class Store(ThreadingHTTPServer):
    """A minimal S3, with only what a download needs: the objects in one folder."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StoreConnection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, S3Object] = {}
        # The faults of the next downloads; the last one is repeated.
        self.faults: list[str] = [""]
        self.changes_to: bytes | None = (
            None  # the object's content after a failed download
        )
        self.lists_slowly = False
        self.refuses: Callable[[S3Request], Refusal | None] = lambda request: None
        self.requests: list[S3Request] = []
        self.closing = Event()

    @property
    def downloads(self) -> int:
        return sum("list-type" not in request.path for request in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients come and go."""


class StoreConnection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        store = self.server
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        request = S3Request(self.command, self.path, self.headers)
        store.requests.append(request)
        refusal = store.refuses(request)
        if refusal:
            self.refuse(refusal)
        elif "list-type" in self.path:
            self.send_list()
        else:
            self.send_object()

    do_HEAD = do_POST = do_GET

    def refuse(self, refusal: Refusal) -> None:
        content = (
            f"<Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
        )
        error = f"<Error>{content}<Region>{refusal.region}</Region></Error>"
        if self.command == "POST":  # errors from STS have another structure
            error = f"<ErrorResponse><Error>{content}</Error></ErrorResponse>"
        if not refusal.code:
            error = refusal.message
        body = b"" if self.command == "HEAD" else error.encode()
        headers = {"x-amz-bucket-region": refusal.region} if refusal.region else {}
        self.reply(refusal.status, body, {**headers, "Content-Length": str(len(body))})

    def send_list(self) -> None:
        items = [
            f"<Contents><Key>exports/{escape(name)}</Key><Size>{len(item.content)}</Size>"
            f"<LastModified>{item.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for name, item in self.server.objects.items()
        ]
        truncated = "<IsTruncated>false</IsTruncated>"
        body = (
            f"<ListBucketResult>{truncated}{''.join(items)}</ListBucketResult>".encode()
        )
        pause = 0.2 if self.server.lists_slowly else 0.0
        self.reply(200, body, {"Content-Length": str(len(body))}, pause)

    def send_object(self) -> None:
        store = self.server
        fault = store.faults[0]
        if len(store.faults) > 1:
            store.faults.pop(0)
        name = unquote(urlsplit(self.path).path).rpartition("/")[2]
        item = store.objects[name]
        body = item.content
        headers = {
            "Last-Modified": format_datetime(item.modified, usegmt=True),
            "Content-Length": str(len(body)),
        }
        if fault and store.changes_to is not None:
            store.objects[name] = item._replace(content=store.changes_to)
        self.close_connection = bool(fault)
        if fault == "silent":
            store.closing.wait()
        if fault in ("silent", "closed"):
            return
        if fault in ("no length", "chunks", "chunks cut"):
            del headers["Content-Length"]
        if fault in ("chunks", "chunks cut"):
            headers["Transfer-Encoding"] = "chunked"
        body = with_fault(body, fault)
        self.reply(200, body, headers, pause=0.2 if fault == "trickle" else 0.0)

    def reply(
        self, status: int, body: bytes, headers: Mapping[str, str], pause: float = 0.0
    ) -> None:
        """Send a response, pausing for `pause` seconds after each byte of its body."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        size = 1 if pause else max(1, len(body))
        with suppress(OSError):
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                if self.server.closing.wait(pause):
                    return

    def log_message(self, format: str, *values: Any) -> None:
        """Stay silent."""


def with_fault(body: bytes, fault: str) -> bytes:
    """Return the bytes that are sent for a body."""
    half = body[: body.find(b"\n", len(body) // 2) + 1]  # its last row is complete
    rest = body[len(half) :]
    first_chunk = b"%x\r\n%b\r\n" % (len(half), half)
    if fault in ("cut", "no length"):
        return half
    if fault == "chunks cut":
        return first_chunk
    if fault == "chunks":
        return first_chunk + b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
    return body


@pytest.fixture
def store() -> Iterator[Store]:
    """Start a store with one object in it."""
    with Store() as started:
        started.objects[NAME] = S3Object(rows(1, 99))
        Thread(target=started.serve_forever, args=(0.05,), daemon=True).start()
        yield started
        started.closing.set()
        started.shutdown()


@pytest.fixture
def reader(store: Store, tmp_path: Path) -> Reader:
    return Reader(store.url, "bucket", tmp_path)


@pytest.fixture
def s3_project(project: Project, store: Store) -> Project:
    """Configure the project to read from the store, with exports as the tmp_folder."""
    aws = {"use_aws": "true", "bucket": "bucket", "folder": "exports", "region": REGION}
    project.configure(
        aws={**aws, "endpoint_url": store.url, "tmp_folder": project.exports}
    )
    return project


def rows(first: int, last: int) -> bytes:
    """Return a CSV of these users. Cut off after any row, it still looks complete."""
    lines = [f"u{number}\n" for number in range(first, last + 1)]
    return ("user_id\n" + "".join(lines)).encode()


def test_subfolders_are_not_even_listed(reader: Reader, store: Store) -> None:
    """They may hold a million keys."""
    reader.read()
    listing = store.requests[0].path
    assert "list-type=2" in listing
    assert "delimiter=%2F" in listing
    assert "prefix=exports%2F" in listing


def at(hour: int) -> datetime:
    return datetime(2026, 11, 3, hour, tzinfo=timezone.utc)


def test_the_newest_is_found_by_name_and_then_by_last_modified(
    reader: Reader, store: Store
) -> None:
    same_time = NAME.replace("T09", "T9")
    store.objects = {
        OLDER: S3Object(b"older", at(23)),
        NAME: S3Object(b"first", at(1)),
        same_time: S3Object(b"last", at(2)),
    }
    assert reader.read() == b"last"
    store.objects[NAME] = S3Object(b"first", at(3))
    assert reader.read() == b"first"


@pytest.mark.parametrize("hour", [1, 3], ids=["earlier", "later"])
def test_day_and_month_swapped_are_detected_by_last_modified(
    reader: Reader, store: Store, hour: int
) -> None:
    store.objects = {
        "11122026.csv": S3Object(b"twelfth", at(2)),
        "11272026.csv": S3Object(b"twenty-seventh", at(hour)),
    }
    file = {"time_format": "%d%m%Y"}
    if hour == 1:
        assert reader.read(file=file) == b"twelfth"
        return
    words = ("[file] time_format", "11122026.csv", "11272026.csv")
    assert_mentions(reader.error(file=file), *words)


def test_the_timestamp_is_from_the_name_or_from_last_modified(
    reader: Reader, store: Store
) -> None:
    store.objects["vip.csv"] = S3Object(b"vip", at(5))
    with closing(reader.find()) as newest, closing(reader.find("vip.csv")) as named:
        assert newest.timestamp == datetime(2026, 11, 1, 9)
        assert named.timestamp == at(5)


def refuse_list(
    status: int, code: str, message: str = "because"
) -> Callable[..., Refusal]:
    return lambda request: Refusal(status, code, message)


REFUSALS: dict[str, tuple[Refusal, list[str]]] = {
    "denied": (
        Refusal(403, "AccessDenied"),
        ["s3:ListBucket", "s3:GetObject", "because"],
    ),
    "wrong access key": (Refusal(403, "InvalidAccessKeyId"), ["[aws] access_key"]),
    "wrong secret key": (Refusal(403, "SignatureDoesNotMatch"), ["[aws] secret_key"]),
    "no bucket": (Refusal(404, "NoSuchBucket"), ["[aws] bucket"]),
    "anything else": (
        Refusal(400, "ExpiredToken", "it expired"),
        ["it expired", "[aws]"],
    ),
}


@pytest.mark.parametrize(("refusal", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_by_s3_is_explained(
    reader: Reader, store: Store, refusal: Refusal, words: list[str]
) -> None:
    store.refuses = lambda request: refusal
    message = reader.error()
    assert_mentions(message, "s3://bucket/exports/", *words)
    assert len(store.requests) == 1


REDIRECTS = {
    "without the region": (Refusal(301, "PermanentRedirect"), 2),
    "without a body": (Refusal(302, "", ""), 2),
    "with the region": (Refusal(301, "PermanentRedirect", region="eu-north-1"), 2),
}


@pytest.mark.parametrize(("refusal", "max_requests"), REDIRECTS.values(), ids=REDIRECTS)
@pytest.mark.parametrize("name", [None, "vip.csv"], ids=["newest", "named"])
def test_a_redirect_stops_the_run_after_a_few_requests(
    reader: Reader, store: Store, refusal: Refusal, max_requests: int, name: str | None
) -> None:
    """With 1.1.0, it ended in a RecursionError after 81 requests."""
    store.refuses = lambda request: refusal
    message = reader.error(*([name] if name else []))
    assert_mentions(message, "[aws] region", "endpoint_url")
    assert len(store.requests) <= max_requests


def test_a_bucket_in_another_region_is_read_if_s3_names_the_region(
    reader: Reader, store: Store
) -> None:
    def refuse_other_regions(request: S3Request) -> Refusal | None:
        if request.scope[2] == "eu-north-1":
            return None
        return Refusal(400, "AuthorizationHeaderMalformed", region="eu-north-1")

    store.refuses = refuse_other_regions
    assert reader.read() == rows(1, 99)


@pytest.mark.parametrize("status", [200, 403, 502])
def test_a_page_that_is_not_from_s3_is_not_shown(
    reader: Reader, store: Store, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may echo what was sent."""
    monkeypatch.setattr(export_csv, "S3_ATTEMPTS", 1)
    store.refuses = lambda request: Refusal(
        status, "", "<html><p>Sign in, AKIAENVIRONMENT<br>"
    )
    message = reader.error()
    assert_mentions(message, "s3://bucket/exports/", "[aws]")
    assert "Sign in" not in message


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredTokenException"])
def test_a_refusal_by_sts_is_not_blamed_on_the_bucket(
    reader: Reader, store: Store, code: str
) -> None:
    profile = (
        "role_arn = arn:aws:iam::123456789012:role/importer\nsource_profile = base"
    )
    keys = "aws_access_key_id = AKIABASE\naws_secret_access_key = secret-of-base"
    (reader.folder / ".aws").mkdir()
    config = f"[default]\n{profile}\nregion = {REGION}\n[profile base]\n{keys}\n"
    (reader.folder / ".aws" / "config").write_text(config)
    reader.env = {"AWS_ENDPOINT_URL_STS": store.url}
    store.refuses = refuse_list(403, code, "not allowed to perform sts:AssumeRole")
    message = reader.error()
    assert_mentions(message, "AssumeRole", "role", "profile", "not allowed to perform")
    assert "s3:ListBucket" not in message
    assert {request.method for request in store.requests} == {"POST"}


#### Credentials


def keys(name: str, token: str = "") -> dict[str, str]:
    """Return the variables of a pair of keys, as in the environment or in .env."""
    pair = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": f"secret-of-{name}"}
    return {**pair, "AWS_SESSION_TOKEN": token} if token else pair


RIGHT = keys("RIGHT")
WRONG = keys("WRONG")
TOKEN = "session-token-of-s3"
Keys = dict[str, str]
# config.ini, .env, the environment, ~/.aws/credentials, and the session token that S3 gets
KEY_SOURCES: dict[str, tuple[Keys, Keys, Keys, Keys, str | None]] = {
    "config.ini": (RIGHT, {}, {}, {}, None),
    ".env over config.ini": (WRONG, RIGHT, {}, {}, None),
    "environment over .env": (WRONG, WRONG, RIGHT, {}, None),
    "blank environment": (RIGHT, {}, {"AWS_ACCESS_KEY_ID": " "}, {}, None),
    "boto3's own chain": ({}, {}, {}, RIGHT, None),
    "token in .env": ({}, keys("RIGHT", TOKEN), {}, {}, TOKEN),
    "token in the environment": (WRONG, {}, keys("RIGHT", TOKEN), {}, TOKEN),
    "token of other keys": (RIGHT, {}, {"AWS_SESSION_TOKEN": TOKEN}, {}, None),
}


@pytest.mark.parametrize("place", KEY_SOURCES)
def test_keys_are_found_and_used_with_their_own_session_token(
    reader: Reader, store: Store, place: str
) -> None:
    config, dot_env, environment, home, token = KEY_SOURCES[place]
    reader.env = environment
    lines = [f"{name}={value}\n" for name, value in dot_env.items()]
    (reader.folder / ".env").write_text("".join(lines))
    lines = [f"{name.lower()} = {value}\n" for name, value in home.items()]
    (reader.folder / ".aws").mkdir()
    (reader.folder / ".aws" / "credentials").write_text("[default]\n" + "".join(lines))
    pair = dict(zip(("access_key", "secret_key"), config.values(), strict=False))
    assert reader.read(**pair) == rows(1, 99)
    for request in store.requests:
        assert request.scope[0] == "RIGHT"
        assert request.is_signed_with("secret-of-RIGHT")
        assert request.headers["x-amz-security-token"] == token


PASSWORD = "secret-of-s3"
PROCESS = "[default]\ncredential_process = "
# ~/.aws/config, the environment, and words in the message
NO_KEYS: dict[str, tuple[str, Keys, list[str]]] = {
    "nothing": ("", {}, ["credentials", "[aws] access_key"]),
    "no such profile": ("", {"AWS_PROFILE": "nobody"}, ["nobody"]),
    "process fails": (
        f"{PROCESS}sh -c 'echo {PASSWORD} >&2; exit 1'",
        {},
        ["credential_process"],
    ),
    "no such process": (f"{PROCESS}/nowhere/vault --token {PASSWORD}", {}, ["vault"]),
}


@posix("uses a POSIX shell")
@pytest.mark.parametrize(("profile", "env", "words"), NO_KEYS.values(), ids=NO_KEYS)
def test_missing_credentials_are_explained(
    reader: Reader, profile: str, env: Keys, words: list[str]
) -> None:
    reader.env = env
    (reader.folder / ".aws").mkdir()
    (reader.folder / ".aws" / "config").write_text(profile + "\n")
    message = reader.error()
    assert_mentions(message, *words)
    assert PASSWORD not in message


URL = f"http://a:{PASSWORD}@127.0.0.1:9"
# ~/.aws/config, the environment, [aws] endpoint_url, and a word in the message
UNREACHABLE: dict[str, tuple[str, Keys, str, str]] = {
    "proxy": ("", {"HTTP_PROXY": URL}, "http://127.0.0.1:9", "[aws]"),
    "endpoint_url": ("", {}, URL, "127.0.0.1:9"),
    "endpoint_url of the environment": (
        "",
        {"AWS_ENDPOINT_URL_S3": URL},
        "",
        "127.0.0.1:9",
    ),
    "endpoint_url of the profile": (
        f"[default]\nendpoint_url = {URL}",
        {},
        "",
        "127.0.0.1:9",
    ),
    "no scheme": ("", {"AWS_ENDPOINT_URL": f"a:{PASSWORD}@b"}, "", "endpoint"),
}


@pytest.mark.parametrize(
    ("profile", "env", "url", "word"), UNREACHABLE.values(), ids=UNREACHABLE
)
def test_the_password_of_a_proxy_or_endpoint_is_never_shown(
    project: Project, profile: str, env: Keys, url: str, word: str
) -> None:
    project.set_constants(S3_ATTEMPTS=1)
    (project.folder / ".aws").mkdir()
    (project.folder / ".aws" / "config").write_text(profile + "\n")
    aws = {"use_aws": "true", "bucket": "bucket", "region": REGION, "endpoint_url": url}
    project.configure(aws=aws)
    result = project.run(env=NO_ROLE | KEYS | env)
    assert_mentions(stop_message(project, result), word)
    assert PASSWORD not in result.out + result.err + result.debug_log


def test_a_missing_ca_bundle_is_reported(reader: Reader, store: Store) -> None:
    reader.env = KEYS | {"AWS_CA_BUNDLE": "/no/such.pem"}
    message = reader.error(endpoint_url=store.url.replace("http", "https"))
    assert_mentions(message, "SSL", "No such file", "[aws]")


def test_a_session_token_in_a_refusal_is_not_shown(
    s3_project: Project, store: Store
) -> None:
    env = KEYS | {"AWS_SESSION_TOKEN": "token-of-session+/="}
    message = "Not authorized to perform: kms:Decrypt, token-of-session+/="
    store.refuses = refuse_list(403, "AccessDenied", message)
    result = s3_project.run(env=env)
    line = stop_message(s3_project, result)
    assert_mentions(
        line, "s3:ListBucket", "s3:GetObject", "Not authorized to perform: kms:Decrypt"
    )
    seen = result.out + result.err + result.debug_log
    assert "token-of-session" not in seen
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in seen


@pytest.mark.parametrize("is_denied", [False, True])
def test_check_verifies_access_to_s3(
    s3_project: Project, store: Store, is_denied: bool
) -> None:
    store.objects[NAME] = S3Object(one_user("u1"))
    if is_denied:
        store.refuses = refuse_list(403, "AccessDenied")
    result = s3_project.run("--check", env=KEYS)
    assert result.status == int(is_denied), result
    assert result.err == ""
    line = line_of(result.out, "s3://bucket/exports/")
    assert ("s3:GetObject" in line) == is_denied
    assert (f"exports/{NAME}" in line) != is_denied
    assert {request.method for request in s3_project.services.requests} == {"GET"}
    assert list(s3_project.exports.iterdir()) == []


#### Interrupted downloads


@pytest.mark.parametrize("fault", ["cut", "chunks cut", "no length"])
def test_an_interrupted_download_starts_again(
    reader: Reader, store: Store, fault: str
) -> None:
    store.faults = [fault, ""]
    assert reader.read() == rows(1, 99)
    assert store.downloads == 2


def test_a_chunked_download_is_complete_after_its_last_chunk(
    reader: Reader, store: Store
) -> None:
    """There is no Content-Length to check."""
    store.faults = ["chunks"]
    assert reader.read() == rows(1, 99)
    assert store.downloads == 1


@pytest.mark.parametrize(
    "content",
    [rows(1, 150), rows(1, 11), rows(101, 199)],
    ids=["longer", "shorter", "other"],
)
def test_no_part_of_the_old_object_is_kept_if_it_changes(
    reader: Reader, store: Store, content: bytes
) -> None:
    store.faults = ["cut", ""]
    store.changes_to = content
    assert reader.read() == content


@pytest.mark.parametrize("fault", ["cut", "chunks cut", "no length"])
def test_a_partial_download_is_never_imported(
    reader: Reader, store: Store, fault: str
) -> None:
    store.faults = [fault]
    assert_mentions(
        reader.error(), f"s3://bucket/exports/{NAME}", "5 times", "try again later"
    )
    assert store.downloads == 5


def test_a_connection_closed_without_a_response_stops_the_run(
    reader: Reader, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_csv, "S3_ATTEMPTS", 2)
    store.faults = ["closed"]
    assert_mentions(reader.error(), f"s3://bucket/exports/{NAME}", "[aws]")
    assert store.downloads == 2


class BrokenStream:
    """A response's body that raises an exception in the middle."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.pieces = [b"user_id\n", b"u1\n"]

    def read(self, size: int | None = None) -> bytes:
        if self.error and len(self.pieces) == 1:
            raise self.error
        return self.pieces.pop(0) if self.pieces else b""


class BrokenClient:
    """A client whose first `times` downloads fail with the same exception."""

    def __init__(self, error: Exception, times: int) -> None:
        self.errors: list[Exception | None] = [*[error] * times, None]
        self.downloads = 0

    def get_object(self, **_keys: str) -> dict[str, object]:
        stream: Any = BrokenStream(self.errors[self.downloads])
        self.downloads += 1
        body = StreamingBody(stream, 11)
        return {
            "Body": body,
            "ContentLength": 11,
            "ResponseMetadata": {"HTTPHeaders": {}},
        }


BREAKS = [
    ssl.SSLError("bad record"),
    urllib3.exceptions.SSLError("bad record"),
    urllib3.exceptions.ProtocolError("connection broken"),
    urllib3.exceptions.ReadTimeoutError(mock.Mock(), "/", "timed out"),
    ConnectionResetError("reset"),
]


@pytest.mark.parametrize("error", BREAKS, ids=lambda error: type(error).__name__)
def test_a_connection_lost_mid_download_counts_as_one_of_five_attempts(
    reader: Reader, error: Exception
) -> None:
    reader.tmp.mkdir()
    download = S3Download(reader.settings())
    client = BrokenClient(error, times=4)
    with closing(download.download(client, f"exports/{NAME}")) as file:
        assert file.open().read() == b"user_id\nu1\n"
    assert client.downloads == 5
    client = BrokenClient(error, times=5)
    with pytest.raises(RunAborted, match="try again later"):
        download.download(client, f"exports/{NAME}")
    assert client.downloads == 5


#### Servers that trickle or are silent


@posix("on Windows, the copy has a name while it is open")
@pytest.mark.parametrize("fault", ["listing", "trickle", "silent"])
def test_a_server_that_sends_nothing_useful_stops_the_run(
    reader: Reader, store: Store, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeouts of botocore start again with each byte."""
    monkeypatch.setattr(export_csv, "S3_STALL_TIMEOUT", 1)
    store.lists_slowly = fault == "listing"
    store.faults = ["" if fault == "listing" else fault]
    assert_mentions(reader.error(), "S3", "within 1 second", "try again later")


def test_a_silent_server_stops_a_run_with_a_message(
    s3_project: Project, store: Store
) -> None:
    s3_project.set_constants(S3_STALL_TIMEOUT=1)
    store.faults = ["silent"]
    line = stop_message(s3_project, s3_project.run(env=KEYS))
    assert_mentions(line, "S3", "try again later")
    assert list(s3_project.exports.iterdir()) == []


@posix("sends POSIX signals")
@pytest.mark.parametrize(
    ("fault", "number"), [("silent", signal.SIGTERM), ("trickle", signal.SIGINT)]
)
def test_a_signal_ends_a_download(
    s3_project: Project, store: Store, fault: str, number: signal.Signals
) -> None:
    """The run ends long before S3_STALL_TIMEOUT; the test waits for at most a quarter of it."""
    store.faults = [fault]
    child = s3_project.start(env=KEYS)
    eventually(lambda: store.downloads)
    child.send(number)
    result = child.wait(export_csv.S3_STALL_TIMEOUT / 4)
    assert result.status == 128 + number, result
    assert "Traceback" not in result.out + result.err
    assert s3_project.services.requests == []
    assert list(s3_project.exports.iterdir()) == []
    assert result.reject_files == []
