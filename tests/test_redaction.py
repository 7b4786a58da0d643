"""No secret is ever in a log, a notice or on the console, in whatever form it comes back."""

from __future__ import annotations

import base64
import html
import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from conftest import NAME, Project, Result, assert_says
from faults import Fault
from hypothesis import given
from hypothesis import strategies as st

import export_csv
from export_csv import SecretMask

#### The function


def lower_case_percent(text: str) -> str:
    return quote(text, safe="").lower()


ENCODINGS: list[Callable[[str], str]] = [
    str,
    quote,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    quote_plus,
    html.escape,
    lambda text: "".join(c if c.isalnum() else f"&#x{ord(c):X};" for c in text),
    lambda text: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: json.dumps(json.dumps(text))[3:-3],
    lambda text: repr(text)[1:-1],
    ascii,
]
# The characters of tokens, keys and passwords. With a letter and a digit, a secret is not an
# everyday word.
CHARACTERS = st.characters(max_codepoint=255, categories=("L", "N", "P", "S"))
SECRETS = st.text(CHARACTERS, min_size=6).map(lambda text: f"{text[:3]}k7{text[3:]}")


def mask_of(*secrets: str) -> SecretMask:
    mask = SecretMask()
    for secret in secrets:
        mask.add(secret)
    return mask


@given(SECRETS, st.sampled_from(ENCODINGS), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_masked_in_every_encoding(
    secret: str, encode: Callable[[str], str], before: str, after: str
) -> None:
    shown = mask_of(secret).apply(f"{before} {encode(secret)} {after}")
    assert secret not in shown.removeprefix(before).removesuffix(after)
    assert encode(secret) not in shown.removeprefix(before).removesuffix(after)


@given(SECRETS, st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_masked_wherever_it_begins_in_base64(
    secret: str, before: str, after: str
) -> None:
    """As in an echo of `Bearer TOKEN`, or of a whole header."""
    mask = mask_of(secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(f"{before}{secret}{after}".encode()).decode()
        assert mask.apply(encoded) != encoded
        assert mask.apply(quote(encoded, safe="")) != quote(encoded, safe="")


def test_the_longer_one_of_two_secrets_is_masked_first() -> None:
    assert mask_of("abc123def", "abc123def456").apply("x abc123def456 x") == "x *** x"


WORDS = [
    "1",
    "0",
    "42",
    "200",
    "wrong",
    "import",
    "imported",
    "Intercom",
    "line",
    "a",
    "secret",
]


@pytest.mark.parametrize("word", WORDS)
def test_an_everyday_word_is_masked_only_where_it_is_used_as_a_secret(
    word: str,
) -> None:
    mask = mask_of(word)
    for sentence in (
        "users.csv: 1 added or updated, 0 unchanged, 42 not imported in 0:00:01 (1.0 users/s)",
        "line 1 user_id=1: 200 in 0.042 s",
        "Intercom import of users.csv failed: the secret is wrong; set [intercom] access_token",
        "Intercom rejected the credentials; check INTERCOM_ACCESS_TOKEN (401 a: wrong line)",
    ):
        assert mask.apply(sentence) == sentence
    for used in (
        f"Authorization: Bearer {word}",
        f"authorization: basic {base64.b64encode(word.encode()).decode()}",
        f"http://host/v1/rooms/message?format=json&auth_token={word}",
        f"?key={word}&format=json",
        json.dumps({"api_key": word}),
        json.dumps({"x": word}),
        json.dumps(json.dumps({"x": word})),
        f"token: {word}",
        f"password={word}",
        f"invalid value '{word}'",
    ):
        shown = mask.apply(used)
        assert "***" in shown, used
        assert mask.apply(shown) == shown


@pytest.mark.parametrize("word", ["wrong-2026", "s3cret", "key/of", "x" * 16, "a:b:c1"])
def test_other_secrets_are_masked_everywhere(word: str) -> None:
    assert mask_of(word).apply(f"a {word} b") == "a *** b"


def test_text_without_a_secret_is_unchanged() -> None:
    text = "line 2: a%20b &amp; c\\d + e"
    assert mask_of("").apply(text) == text
    assert mask_of("sandbox-token-1").apply(text) == text


WEBHOOK = "https://hooks.slack.com/services/T0AB12CD3/B0XY98ZW7/sandboxwebhooksecret"


@pytest.mark.parametrize(
    "echo",
    [
        WEBHOOK,
        "/services/T0AB12CD3/B0XY98ZW7/sandboxwebhooksecret",
        "services/T0AB12CD3/B0XY98ZW7/sandboxwebhooksecret",
        "//services//T0AB12CD3//B0XY98ZW7//sandboxwebhooksecret",
        "services%2fT0AB12CD3%2fB0XY98ZW7%2fsandboxwebhooksecret",
        "services&#x2F;T0AB12CD3&#x2F;B0XY98ZW7&#x2F;sandboxwebhooksecret",
        "services T0AB12CD3 B0XY98ZW7 sandboxwebhooksecret",
    ],
)
def test_a_webhook_is_masked_however_its_slashes_are_written(
    monkeypatch: pytest.MonkeyPatch, echo: str
) -> None:
    monkeypatch.setattr(export_csv, "secret_mask", SecretMask())
    export_csv.register_secret_url(WEBHOOK)
    shown = export_csv.redact(f"not found: {echo}")
    assert not [part for part in ("T0AB12CD3", "B0XY98ZW7", "webhook") if part in shown]
    ours = "Slack: services for webhooks are at https://hooks.slack.com"
    assert export_csv.redact(ours) == ours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://ada:pw@proxy:3128/x", "http://***@proxy:3128/x"),
        ("https://example.com/@ada", "https://example.com/@ada"),
        ("ada@example.com", "ada@example.com"),
        ("a\nb\tc\0d\x1b[2J\x85\u2028", r"a\nb\tc\x00d\x1b[2J\x85\u2028"),
        ("é 表 🙂 \\n", "é 表 🙂 \\n"),
    ],
)
def test_credentials_in_urls_and_control_characters_are_never_shown(
    text: str, expected: str
) -> None:
    assert export_csv.redact(text) == expected


#### Whole runs

TOKEN = "tok/en+of==\"inter\\com'%&:7"
PROXY_PASSWORD = "proxy+password/0"


def forms(secret: str) -> set[str]:
    """Return a secret in each form in which a server may send it back."""
    encoded = {encode(secret) for encode in ENCODINGS}
    bearer = base64.b64encode(f"Bearer {secret}".encode()).decode()
    return {*encoded, lower_case_percent(secret), bearer}


class Secrets:
    """A project with secrets that are hard to mask; `leaked` finds those that a run has shown."""

    def __init__(self, project: Project) -> None:
        self.project = project
        services = project.services
        services.token = TOKEN
        services.hipchat_key = "key+of/hipchat==8"
        services.api_id = "id_of_app"
        services.api_key = "key/of+app=9"
        project.set_constants(NOTICE_PAUSES=(0.1, 0.1))
        project.enable_notices()
        project.configure(intercom={"access_token": TOKEN, "retries": 0})
        project.users(3)
        self.forms: list[str] = []
        self.env: dict[str, str] = {}
        webhook_path = services.webhook_url.removeprefix(services.url)
        self.add(TOKEN, services.hipchat_key, webhook_path, webhook_path[1:])

    def add(self, *secrets: str) -> None:
        self.forms += sorted({form for secret in secrets for form in forms(secret)})

    def leaked(self, result: Result) -> list[str]:
        folder = self.project.folder
        files = [*folder.glob("logs/*"), *folder.glob("not_imported/*")]
        shown = [result.out, result.err, *(path.read_text("utf-8") for path in files)]
        shown += [notice["text"] for notice in self.project.services.slack]
        shown += [notice["message"] for notice in self.project.services.hipchat]
        return [form for form in self.forms if form in "\n".join(shown)]


def closed_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def echo_of_basic_authentication(secrets: Secrets) -> None:
    services = secrets.project.services
    pair = {"api_id": services.api_id, "api_key": services.api_key}
    secrets.project.configure(intercom={"access_token": "", **pair})
    secrets.forms = []
    secrets.add(services.api_key, f"{services.api_id}:{services.api_key}")
    services.faults = [Fault(status=422, message=" ".join(secrets.forms))]


def echo_of_everything(secrets: Secrets) -> None:
    """Intercom, Slack and Hipchat return all secrets, as a proxy's error page may."""
    echo = " ".join(secrets.forms)
    listed = {"errors": [{"code": "x", "message": echo}], "request_id": echo}
    services = secrets.project.services
    services.faults = [
        Fault(status=422, message="x", body=json.dumps({"errors": [form]}).encode())
        for form in secrets.forms
    ]
    services.faults += [
        Fault(status=422, body=echo.encode()),
        Fault(status=401, body=json.dumps(listed).encode()),
    ]
    secrets.project.users(len(services.faults))
    title = f"<title>{services.hipchat_key} {services.webhook_url}</title>"
    services.notice_faults = [Fault(status=500, body=title.encode())] * 4


def echo_that_is_cut_within_a_secret(secrets: Secrets) -> None:
    """A long message is truncated, but never so that part of a secret is left."""
    services = secrets.project.services
    for limit in (100, 200, 1000):
        for length in (limit - len(TOKEN) // 2 - 20, limit - len(TOKEN) // 2):
            text = "x" * length + " " + TOKEN
            listed = {"errors": [{"message": text}], "request_id": text}
            services.faults.append(Fault(status=422, body=text.encode()))
            services.faults.append(Fault(status=422, body=json.dumps(listed).encode()))
    secrets.project.users(len(services.faults))
    secrets.forms.append(TOKEN[:8])


def no_server_listens(secrets: Secrets) -> None:
    """The URLs are in the exceptions' texts."""
    url = closed_url()
    project = secrets.project
    path = project.services.webhook_url.removeprefix(project.services.url)
    project.configure(
        intercom={"user_url": url + "/users"},
        hipchat={"api_url": url + "/v1/"},
        slack={"webhook_url": url + path},
    )


def s3_fails(secrets: Secrets) -> None:
    keys = {"access_key": "AKIAEXAMPLE", "secret_key": TOKEN, "region": "us-east-1"}
    secrets.project.configure(
        aws={"use_aws": "true", "bucket": "not a bucket's name", **keys}
    )


def wrong_token(secrets: Secrets) -> None:
    secrets.project.services.token = "another"


def secrets_from_the_environment(secrets: Secrets) -> None:
    services = secrets.project.services
    secrets.env = {
        "INTERCOM_ACCESS_TOKEN": TOKEN,
        "HIPCHAT_API_KEY": services.hipchat_key,
        "SLACK_WEBHOOK_URL": services.webhook_url,
    }
    secrets.project.configure(
        intercom={"access_token": ""},
        hipchat={"api_key": ""},
        slack={"webhook_url": ""},
    )
    echo_of_everything(secrets)


def proxy_refuses(secrets: Secrets, scheme: str = "http") -> None:
    place = closed_url().removeprefix("http://")
    proxy = f"{scheme}://ada:{quote(PROXY_PASSWORD, safe='')}@{place}"
    secrets.env = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    secrets.project.configure(hipchat={"use_hipchat": "false"})
    secrets.add(PROXY_PASSWORD)


def proxy_is_not_supported(secrets: Secrets) -> None:
    proxy_refuses(secrets, "socks5")


def proxy_echoes(secrets: Secrets) -> None:
    """The mock server is the proxy too, and sends back what it got."""
    services = secrets.project.services
    secrets.add(PROXY_PASSWORD, f"ada:{PROXY_PASSWORD}")
    place = services.url.removeprefix("http://")
    secrets.env = {"HTTP_PROXY": f"http://ada:{quote(PROXY_PASSWORD, safe='')}@{place}"}
    services.faults = [Fault(status=422, message=" ".join(secrets.forms))]
    secrets.project.configure(
        hipchat={"use_hipchat": "false"}, slack={"use_slack": "false"}
    )


def secret_in_a_cell(secrets: Secrets) -> None:
    """Somebody has pasted the token into the file, and its row is rejected."""
    cell = '"' + TOKEN.replace('"', '""') + '"'
    secrets.project.write(f"user_id,age\n{cell},{cell}\nu2,1,{cell}\n")
    secrets.project.configure(custom_attributes={"age": "age : integer"})
    secrets.project.services.faults = [Fault(status=422, message=f"No {TOKEN}")]


SCENARIOS = [
    echo_of_basic_authentication,
    echo_of_everything,
    echo_that_is_cut_within_a_secret,
    no_server_listens,
    proxy_echoes,
    proxy_is_not_supported,
    proxy_refuses,
    s3_fails,
    secrets_from_the_environment,
    wrong_token,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_no_secret_is_shown(
    project: Project, scenario: Callable[[Secrets], None]
) -> None:
    secrets = Secrets(project)
    scenario(secrets)
    result = project.run(env=secrets.env)
    assert result.status in (1, 2), result
    assert "Traceback" not in result.err
    assert secrets.leaked(result) == []


def test_a_secret_in_a_cell_is_only_in_the_rows_themselves(project: Project) -> None:
    """The reject file has the input's bytes; reasons and logs don't show the secret."""
    secrets = Secrets(project)
    secret_in_a_cell(secrets)
    result = project.run()
    (rows,) = result.reject_files
    assert TOKEN.replace('"', '""') in rows.read_text()
    rows.unlink()
    assert secrets.leaked(result) == []


def test_an_everyday_word_as_token_leaves_our_own_sentences_alone(
    project: Project,
) -> None:
    """With `1` as a token and `imported` as a key, counts and messages don't change."""
    project.configure(
        intercom={"access_token": "1"},
        hipchat={"use_hipchat": "true", "api_key": "imported", "room_id": "r"},
    )
    project.configure(hipchat={"api_url": closed_url() + "/v1/"})
    project.set_constants(NOTICE_PAUSES=(0.1, 0.1))
    project.services.token = "1"
    project.services.faults = [
        Fault(status=422, message="Bearer 1, 'imported', 1 of 1")
    ]
    project.users(11)
    result = project.run()
    assert result.counts() == (10, 0, 1)
    assert NAME in result.out
    assert_says(
        result.err, "1 of 11 rows was not imported|1 of 11 rows were not imported"
    )
    assert_says(result.reasons()[0][2], r"\*\*\*, '\*\*\*', 1 of 1")
    assert "auth_token=imported" not in result.err + result.debug_log


def test_a_blank_secret_masks_nothing(project: Project) -> None:
    project.configure(intercom={"access_token": "", "api_id": "a", "api_key": "n"})
    project.services.api_id = "a"
    project.services.api_key = "n"
    project.users(1, f"not_{NAME}")
    result = project.run()
    assert result.status == 1
    assert "***" not in result.err + result.debug_log + result.out
    assert Path(project.folder).name in result.err
