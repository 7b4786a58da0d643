"""The stand-in: as strict as Intercom's OpenAPI descriptions, and as unkind as networks are."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import OWN_CONSOLE, send
from sandbox import Fault, Sandbox

PROGRAM = [sys.executable, str(Path(__file__).with_name("sandbox.py"))]
EXISTS = "contact matching those details already exists with id="


def ask(url: str, line: str, body: object = None) -> tuple[int, str]:
    """Status and text of the answer to a line such as GET /me, with a version or without."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    method, path, version, *_ = f"{line} 2.14".split()
    headers = {"Authorization": "Bearer sandbox-token-0123456789", "Accept": "application/json"}
    headers |= {"Content-Type": "application/json", "Intercom-Version": version}
    headers["Connection"] = "close"
    connection.request(method, path, json.dumps(body) if body else None, headers)
    with connection.getresponse() as answer:
        return answer.status, answer.read().decode()


def attribute(**changes: str) -> dict[str, str]:
    return {"name": "new", "model": "contact", "data_type": "date", **changes}


@pytest.mark.parametrize(
    ("line", "body", "status", "text"),
    [
        ("GET /contacts/user", None, 200, '"email": "One@example.com"'),
        ("POST /contacts", {"email": "ONE@example.com"}, 409, f"A {EXISTS}user"),
        ("POST /contacts", {"external_id": "9", "email": "two@example.com"}, 409, f"{EXISTS}lead"),
        ("POST /contacts", {"external_id": "u3"}, 409, f"An archived {EXISTS}away"),
        ("POST /contacts", {"email": "four@example.com"}, 200, '"role": "user"'),
        ("POST /contacts", {"role": "lead", "external_id": "9"}, 400, "External IDs"),
        ("PUT /contacts/lead", {"external_id": "9", "role": "user"}, 200, '"external_id": "9"'),
        ("PUT /contacts/user", {"role": "lead"}, 400, "can't be converted"),
        ("PUT /contacts/user", {"email": "two@example.com"}, 409, f"A {EXISTS}lead"),
        ("PUT /contacts/user", {"email": "one@example.com"}, 200, '"external_id": "u1"'),
        ("PUT /contacts/user", {"custom_attributes": {"rating": 4, "seen_at": 1}}, 200, ""),
        ("PUT /contacts/user", {"custom_attributes": {"seen_at": "2026-11-01"}}, 400, "datetime"),
        ("PUT /contacts/away", {"name": "Ada"}, 404, "not_found"),
        ("GET /contacts/merged", None, 404, "not_found"),
        ("GET /contacts/merged 2.16", None, 410, "contact_merged"),
        ("PUT /contacts/merged 2.16", {"name": "Ada"}, 410, "contact_merged"),
        ("POST /contacts/away/unarchive", None, 200, '"archived": false'),
        ("POST /data_attributes", attribute(name="Prix, net"), 400, "must only contain"),
        ("POST /data_attributes", attribute(name="Prix en € - net_2"), 200, '"custom": true'),
        ("POST /data_attributes", attribute(name="old"), 400, "You already have 'old' in your"),
        ("POST /data_attributes", attribute(data_type="timestamp"), 400, "isn't an option"),
    ],
)
def test_a_rule_is_kept(sandbox: Sandbox, line: str, body: object, status: int, text: str) -> None:
    sandbox.attributes |= {"rating": "float", "seen_at": "datetime"}
    sandbox.archived_attributes = {"old"}
    sandbox.contacts["user"] = {"external_id": "u1", "email": "One@example.com"}
    sandbox.contacts["lead"] = {"role": "lead", "email": "two@example.com"}
    sandbox.contacts["away"] = {"external_id": "u3", "archived": True}
    sandbox.contacts["merged"] = {"email": "four@example.com", "merged_into": "user"}
    answer = ask(sandbox.url, line, body)
    assert answer[0] == status, answer
    assert text in answer[1]


OK, EARLY = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"


@pytest.mark.parametrize(
    ("fault", "begin", "end"),
    [
        (Fault(early=103), EARLY + OK, b"}"),
        (Fault(early=103, drop=True), EARLY, b""),
        (Fault(status=103), EARLY, b""),
        (Fault(chunk=7), OK, b"\r\n0\r\n\r\n"),
        (Fault(endless=True), OK, b" " * 2**20),
    ],
)
def test_a_fault_on_the_wire(sandbox: Sandbox, fault: Fault, begin: bytes, end: bytes) -> None:
    sandbox.fault_for, sandbox.faults_on_me = lambda _: fault, True
    request = f"GET /me HTTP/1.1\r\nAuthorization: Bearer {sandbox.token}\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as client:
        client.sendall(f"{request}Accept: application/json\r\n\r\n".encode())
        received = b""
        while len(received) < 2**21 and (piece := client.recv(65536)):
            received += piece
    assert received.startswith(begin)
    assert received.endswith(end)
    assert end or received == begin


def test_a_rehearsal_shows_what_arrives_until_it_is_interrupted() -> None:
    command, pipe = [*PROGRAM, "--serve"], subprocess.PIPE
    how: Any = {"stdin": subprocess.DEVNULL, "stdout": pipe, "creationflags": OWN_CONSOLE}
    with subprocess.Popen(command, text=True, **how) as served:
        assert served.stdout
        told = list(iter(served.stdout.readline, "# What arrives is shown below, until Ctrl-C.\n"))
        url = next(line.split()[2] for line in told if line.startswith("user_url"))
        ask(url.removesuffix("/users"), "POST /users 1.4", {"user_id": "\x1b[2J"})
        ask(url.removesuffix("/users"), "POST /contacts", {"name": "Ada"})
        send(served, signal.SIGINT)
        out, _ = served.communicate(timeout=30)
    assert served.returncode == 0
    assert out.splitlines() == [
        "POST /users 200: user_id '\\x1b[2J'",
        "POST /contacts 400 (Neither role nor external_id nor email): name 'Ada'",
        "users: 1, contacts: 0, notices: 0; requests: 2, refused: 1",
    ]


def test_the_demonstration_ends_well() -> None:
    run = subprocess.run(PROGRAM, capture_output=True)
    assert run.returncode == 0, run
