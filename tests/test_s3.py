"""Which file is imported from S3: as moto plays it, and from one that breaks off."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import logging
import re
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from conftest import NAME, NEWER, Project, Result, imported, line_of, one_user, posix, refusal
from moto.s3.models import S3Backend, s3_backends
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "secret-of-environment"}
ACCOUNT = "123456789012"  # that of moto
NOWHERE = {"AWS_EC2_METADATA_DISABLED": "true"}  # no machine's role, and no search for one


def configure(project: Project, url: str, bucket: str, **keys: object) -> None:
    """Have the project read from an S3 at this URL."""
    aws = {"use_aws": "true", "bucket": bucket, "folder": "exports", "region": "eu-west-1"}
    project.configure(aws={**aws, "endpoint_url": url, **keys})


#### As moto plays it


class Bucket(NamedTuple):
    """A bucket of moto's, and the project that is to read it."""

    name: str
    store: S3Backend
    project: Project

    def put(self, key: str, content: bytes) -> None:
        self.store.put_object(self.name, key, content)

    def run(self, *arguments: object, **aws: object) -> Result:
        self.project.configure(aws=aws)
        return self.project.run(*arguments, env=KEYS | NOWHERE | {"TMPDIR": str(self.tmp)})

    @property
    def tmp(self) -> Path:
        return self.project.folder / "tmp"


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


numbers = count(1)


@pytest.fixture
def bucket(project: Project, moto_url: str) -> Iterator[Bucket]:
    """A bucket of its own; its run leaves nothing in any temporary folder."""
    name, store = f"bucket-{next(numbers)}", s3_backends[ACCOUNT]["aws"]
    store.create_bucket(name, "us-east-1")
    configure(project, moto_url, name)
    made = Bucket(name, store, project)
    made.tmp.mkdir()
    yield made
    assert list(made.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "newest"),
    [
        ("users_%Y-%m-%dT%H-%M-%S", "users_2026-11-02T16-50-00.csv"),
        ("%d-%m-%Y %H.%M", "01-12-2026 09.00.csv"),
    ],
    ids=["behind them", "before them"],
)
def test_the_newest_of_a_thousand_keys_is_found(bucket: Bucket, form: str, newest: str) -> None:
    """S3 lists a thousand at a time, by the alphabet."""
    bucket.project.configure(file={"time_format": form})
    for minute in range(1010):
        name = f"{datetime(2026, 11, 2) + timedelta(minutes=minute):{form}}.csv"
        bucket.put(f"exports/{name}", one_user("older"))
    bucket.put(f"exports/{newest}", one_user("newest"))
    result = bucket.run()
    assert imported(bucket.project) == ["newest"], result


@pytest.mark.parametrize("folder", ["exports", "/a/exports/", ""])
def test_only_immediate_children_of_the_folder_are_looked_at(bucket: Bucket, folder: str) -> None:
    path = f"{folder.strip('/')}/".lstrip("/")
    bucket.put(path + NAME, one_user("right"))
    bucket.put(f"{path}sub/{NEWER}", one_user("below"))
    bucket.put(f"other/{NEWER}", one_user("beside"))
    if path:
        bucket.put(path, b"")
        bucket.put(f"{folder.strip('/')}-old/{NEWER}", one_user("beside"))
        bucket.put(NEWER, one_user("above"))
    result = bucket.run(folder=folder)
    assert imported(bucket.project) == ["right"], result


@pytest.mark.parametrize("name", ["2026/vip.csv", "käufer & co+1.csv", "named.csv"])
def test_the_argument_is_a_key_below_the_folder_as_is_the_name(bucket: Bucket, name: str) -> None:
    """The argument goes before the name in the config, which goes before the newest."""
    bucket.project.configure(file={"select_latest": "false", "name": "named.csv"})
    for key in name, "named.csv", NEWER:
        bucket.put(f"exports/{key}", one_user(key))
    result = bucket.run(*[name] if name != "named.csv" else [])
    assert imported(bucket.project) == [name], result


def test_a_compressed_file_comes_from_s3_too(bucket: Bucket) -> None:
    bucket.put(f"exports/{NAME}.gz", gzip.compress(one_user("packed")))
    assert bucket.run(tmp_folder=bucket.project.exports).status == 0
    assert imported(bucket.project) == ["packed"]
    assert list(bucket.project.exports.iterdir()) == []


def test_local_reads_the_disk_though_s3_is_set_and_loads_no_boto3(bucket: Bucket) -> None:
    """So that it starts fast."""
    timed = KEYS | {"PYTHONPROFILEIMPORTTIME": "1"}
    bucket.put(f"exports/{NEWER}", one_user("in S3"))
    assert "boto3" in bucket.project.run(env=timed).err
    bucket.project.write(one_user("on disk"))
    result = bucket.project.run("--local", env=timed)
    assert imported(bucket.project) == ["in S3", "on disk"]
    assert "requests" in result.err
    assert "boto" not in result.err


def test_an_import_that_fails_leaves_no_download(bucket: Bucket) -> None:
    """The fixture looks for it."""
    bucket.put(f"exports/{NAME}", b"heading\nvalue\n")
    assert "user_id" in refusal(bucket.project, bucket.run())


MISSING: dict[str, tuple[dict[str, object], list[object], list[str]]] = {
    "bucket": ({"bucket": "no-such-bucket"}, [], ["no-such-bucket", "[aws] bucket"]),
    "key": ({}, ["vip.csv"], ["exports/vip.csv"]),
    "temporary folder": ({"tmp_folder": "no-such-folder"}, [NAME], ["no-such-folder"]),
    "folder": ({"folder": "nothing/here"}, [], ["nothing/here", "such as users_20"]),
}


@pytest.mark.parametrize(("aws", "arguments", "named"), MISSING.values(), ids=MISSING)
def test_what_is_missing_in_s3_is_named(
    bucket: Bucket, aws: dict[str, object], arguments: list[object], named: list[str]
) -> None:
    bucket.put(f"exports/{NAME}", one_user("right"))
    line = refusal(bucket.project, bucket.run(*arguments, **aws))
    assert [word for word in named if word not in line] == [], line


PASSWORD = "secret-of-s3"
PROCESS = "[default]\ncredential_process = "
# ~/.aws/config, the environment, [aws], and what is said
URL, HTTP, HTTPS = f"http://a:{PASSWORD}@127.0.0.1:9", "http://127.0.0.1:9", "https://127.0.0.1:9"
PROFILES: dict[str, tuple[str, dict[str, str], dict[str, object], str]] = {
    "nothing": ("", {}, {}, r"credentials.*\[aws\] access_key"),
    "proxy": ("", KEYS | {"HTTP_PROXY": URL}, {"endpoint_url": HTTP}, r"\[aws\]"),
    "certificates": (
        "",
        KEYS | {"AWS_CA_BUNDLE": "/none.pem"},
        {"endpoint_url": HTTPS},
        r"\[aws\]",
    ),
    "no such profile": ("", {"AWS_PROFILE": "nobody"}, {}, "nobody"),
    "process that fails": (f"{PROCESS}sh -c 'echo {PASSWORD} >&2; exit 1'", {}, {}, "credential"),
    "no such process": (f"{PROCESS}/nowhere/vault --token {PASSWORD}", {}, {}, "vault"),
    "password": ("", KEYS, {"endpoint_url": URL}, "127.0.0.1:9"),
    "password of the environment": ("", KEYS | {"AWS_ENDPOINT_URL_S3": URL}, {}, "127.0.0.1:9"),
    "password of the profile": (f"[default]\nendpoint_url = {URL}", KEYS, {}, "127.0.0.1:9"),
    "password without scheme": ("", KEYS | {"AWS_ENDPOINT_URL": f"a:{PASSWORD}@b"}, {}, "endpoint"),
}


@posix("takes a POSIX shell")
@pytest.mark.parametrize(
    ("profile", "environment", "aws", "named"), PROFILES.values(), ids=PROFILES
)
def test_what_boto3_cannot_use_is_told_without_a_secret(
    project: Project, profile: str, environment: dict[str, str], aws: dict[str, object], named: str
) -> None:
    (project.folder / ".aws").mkdir()
    (project.folder / ".aws" / "config").write_text(profile + "\n")
    project.configure(aws={"use_aws": "true", "bucket": "bucket", "region": "eu-west-1"} | aws)
    result = project.run(env=NOWHERE | environment)
    line = refusal(project, result)
    assert re.search(named, line), line
    assert "can't be written" not in line
    assert PASSWORD not in line + result.debug_log


#### An S3 that shows who asks, and breaks off


class Transfer(NamedTuple):
    """What goes wrong with one download, and what the object becomes after it."""

    trouble: str = ""  # cut, closed, (unfinished) chunks, no size, damaged, trickle
    becomes: bytes | None = None


class Asked(NamedTuple):
    path: str
    headers: Message

    @property
    def key(self) -> str:
        return self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]

    def is_signed_with(self, secret: str) -> bool:
        """Whether boto3 would sign it like this, for its key with this secret and our region."""
        _, signed, signature = self.headers["Authorization"].split(", ")
        names = signed.removeprefix("SignedHeaders=").split(";")
        headers = {name: self.headers[name] for name in names}
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        request = AWSRequest("GET", f"http://{headers['host']}{url.path}", headers, params=params)
        request.context["timestamp"] = headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(self.key, secret), "s3", "eu-west-1")
        text = auth.string_to_sign(request, auth.canonical_request(request))
        return bool(signature == f"Signature={auth.signature(text, request)}")


class Store(ThreadingHTTPServer):
    """As much of S3 as a download takes: one object, and its listing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StoreConnection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.content = b""
        self.key = f"exports/{NAME}"
        self.transfers: list[Transfer] = []  # the last one stays
        self.denies = self.lists_slowly = False
        self.asked: list[Asked] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep silent: clients come and go."""


class StoreConnection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        store = self.server
        store.asked.append(Asked(self.path, self.headers))
        if store.denies:
            token = self.headers["x-amz-security-token"]
            self.refuse(403, "AccessDenied", f"Not authorized to perform: kms:Decrypt, {token}")
        elif "list-type" in self.path:
            item = f"<Key>{escape(store.key)}</Key><Size>{len(store.content)}</Size>"
            listing = f"<IsTruncated>false</IsTruncated><Contents>{item}</Contents>"
            pause = 0.2 if store.lists_slowly else 0.0
            self.reply(200, f"<ListBucketResult>{listing}</ListBucketResult>".encode(), pause=pause)
        elif unquote(urlsplit(self.path).path) != f"/bucket/{store.key}":
            self.refuse(404, "NoSuchKey", "There is no such key")
        else:
            self.send_content(self.next_transfer())

    def next_transfer(self) -> Transfer:
        transfers = self.server.transfers or [Transfer()]
        return transfers.pop(0) if len(transfers) > 1 else transfers[0]

    def send_content(self, transfer: Transfer) -> None:
        if transfer.trouble == "closed":
            self.close_connection = True
            return
        body, labels = self.server.content, self.labels()
        if transfer.becomes is not None:
            self.server.content = transfer.becomes
        labels["Content-Length"] = str(len(body))
        half = body[: body.find(b"\n", len(body) // 2) + 1]  # all rows in it are whole
        rest = body[len(half) :]
        if transfer.trouble == "cut":
            body = half
        elif transfer.trouble == "no size":
            body = half
            for name in ("Content-Length", "x-amz-checksum-crc32", "x-amz-checksum-type"):
                del labels[name]
        elif transfer.trouble.endswith("chunks"):
            body = b"%x\r\n%b\r\n" % (len(half), half)
            if transfer.trouble == "chunks":
                body += b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
            labels |= {"Transfer-Encoding": "chunked"}
            del labels["Content-Length"]
        elif transfer.trouble == "damaged":
            body = body.replace(b"u1", b"u9")
        self.close_connection = bool(transfer.trouble)
        self.reply(200, body, labels, pause=0.2 if transfer.trouble == "trickle" else 0.0)

    def labels(self) -> dict[str, str]:
        """https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html"""
        content = self.server.content
        checksum = base64.b64encode(struct.pack(">I", zlib.crc32(content))).decode()
        return {
            "ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "x-amz-checksum-crc32": checksum,
            "x-amz-checksum-type": "FULL_OBJECT",
        }

    def refuse(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        self.reply(status, text.encode())

    def reply(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, pause: float = 0.0
    ) -> None:
        """Send it, with so many seconds between two bytes."""
        self.send_response(status)
        if headers is None:
            headers = {"Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        size = 1 if pause else len(body)
        with suppress(OSError):
            for start in range(0, len(body), max(1, size)):
                self.wfile.write(body[start : start + size])
                time.sleep(pause)

    def log_message(self, format: str, *values: Any) -> None:
        """Keep silent."""


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    """A store with the file of one user in it, which the project is to read."""
    with Store() as started:
        started.content = one_user("u1")
        configure(project, started.url, "bucket", tmp_folder=project.exports)
        Thread(target=started.serve_forever, args=(0.05,), daemon=True).start()
        yield started
        started.shutdown()
    assert list(project.exports.iterdir()) == []


def keys(name: str, token: str = "") -> dict[str, str]:
    """As they stand in the environment, or in .env."""
    pair = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": f"secret-of-{name}"}
    return pair | ({"AWS_SESSION_TOKEN": token} if token else {})


RIGHT, WRONG = keys("RIGHT"), keys("WRONG")
Keys = dict[str, str]
# config.ini, .env, the environment, ~/.aws/credentials, and the session token that S3 is sent
PLACES: dict[str, tuple[Keys, Keys, Keys, Keys, str | None]] = {
    "config.ini": (RIGHT, {}, {}, {}, None),
    ".env over config.ini": (WRONG, RIGHT, {}, {}, None),
    "environment over .env": (WRONG, WRONG, RIGHT, {}, None),
    "boto3's own chain": ({}, {}, {}, RIGHT, None),
    "token in .env": ({}, keys("RIGHT", "token"), {}, {}, "token"),
    "token in the environment": ({}, {}, keys("RIGHT", "token"), {}, "token"),
    "token of other keys": (RIGHT, {}, {"AWS_SESSION_TOKEN": "token"}, {}, None),
}


@pytest.mark.parametrize("place", PLACES)
def test_aws_keys_are_found_and_their_token(project: Project, store: Store, place: str) -> None:
    config, dot_env, environment, home, token = PLACES[place]
    project.configure(aws=dict(zip(("access_key", "secret_key"), config.values(), strict=False)))
    project.write_env(dot_env)
    lines = [f"{name.lower()} = {value}\n" for name, value in home.items()]
    (project.folder / ".aws").mkdir()
    (project.folder / ".aws" / "credentials").write_text("[default]\n" + "".join(lines))
    result = project.run(env=NOWHERE | environment)
    assert imported(project) == ["u1"], result
    for asked in store.asked:
        assert asked.key == "RIGHT"
        assert asked.is_signed_with("secret-of-RIGHT")
        assert asked.headers["x-amz-security-token"] == token


def test_a_denied_access_is_named_with_what_it_takes(project: Project, store: Store) -> None:
    store.denies = True
    values = KEYS | {"AWS_SESSION_TOKEN": "token-of-session+/="}
    result = project.run(env=values)
    line = refusal(project, result)
    for words in "s3:ListBucket", "s3:GetObject", "Not authorized to perform: kms:Decrypt":
        assert words in line
    seen = result.out + result.err + result.debug_log
    assert not [secret for secret in values.values() if secret in seen and "AKIA" not in secret]


@pytest.mark.parametrize("denies", [False, True])
def test_check_asks_whether_s3_would_have_us(project: Project, store: Store, denies: bool) -> None:
    store.denies = denies
    result = project.run("--check", env=KEYS)
    assert result.status == int(denies), result
    assert result.err == ""
    line = line_of(result.out, "s3://bucket/exports/")
    assert ("s3:GetObject" in line) == denies
    assert (f"exports/{NAME}" in line) != denies
    assert {request.path for request in project.sandbox.requests} == {"/me"}


@pytest.mark.parametrize("what", ["listing", "object"])
def test_an_s3_that_trickles_has_an_end(project: Project, store: Store, what: str) -> None:
    project.with_constants(MAX_SILENCE=1.0)
    store.content = OLD
    store.lists_slowly = what == "listing"
    store.transfers = [Transfer("trickle" if what == "object" else "")]
    assert "sent nothing of use" in refusal(project, project.run(env=KEYS))


def test_folders_below_are_not_even_listed(project: Project, store: Store) -> None:
    """They may hold a million keys."""
    project.run(env=KEYS)
    (listing,) = [asked.path for asked in store.asked if "list-type=2" in asked.path]
    assert "delimiter=%2F" in listing
    assert "prefix=exports%2F" in listing


def rows(first: int, last: int) -> bytes:
    """A file of users in which a part is never the whole."""
    return b"user_id\n" + b"".join(b"u%d\n" % number for number in range(first, last + 1))


def users(content: bytes) -> list[str]:
    return [row["user_id"] for row in csv.DictReader(content.decode().splitlines())]


OLD, LONGER, SHORTER, SAME_SIZE = rows(100, 199), rows(100, 250), rows(100, 110), rows(300, 399)


@pytest.mark.parametrize("trouble", ["chunks", "cut", "unfinished chunks", "no size", "damaged"])
def test_a_download_that_breaks_is_begun_anew(project: Project, store: Store, trouble: str) -> None:
    """One in chunks that came to its end is whole, though nobody said how long it would be."""
    store.content = OLD
    store.transfers = [Transfer(trouble), Transfer()]
    result = project.run(env=KEYS)
    assert (result.status, imported(project)) == (0, users(OLD)), result
    assert len(store.asked) == (2 if trouble == "chunks" else 3)


@pytest.mark.parametrize("trouble", ["closed", "cut", "unfinished chunks", "no size", "damaged"])
def test_no_part_of_a_download_is_imported(project: Project, store: Store, trouble: str) -> None:
    store.content = OLD
    store.transfers = [Transfer(trouble)]
    line = refusal(project, project.run(env=KEYS))
    assert NAME in line
    assert re.search("try again later|Connection was closed", line)


@pytest.mark.parametrize(
    "new", [LONGER, SHORTER, SAME_SIZE], ids=["longer", "shorter", "same size"]
)
def test_an_object_that_changes_is_read_anew(project: Project, store: Store, new: bytes) -> None:
    store.content = OLD
    store.transfers = [Transfer("cut", becomes=new), Transfer()]
    result = project.run(env=KEYS)
    assert (result.status, imported(project)) == (0, users(new)), result
