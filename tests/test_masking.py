"""What is a secret and what is not, by its name and by where it stands."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.masking import MASK, looks_secret, mask_text, mask_values


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets but the tests' own."""
    monkeypatch.setattr("os.environ", {})


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "db_password",
        "passwd",
        "passphrase",
        "secret",
        "client_secret",
        "secrets",
        "secret_key",
        "api_key",
        "apiKey",
        "API-KEY",
        "apikey",
        "api_keys",
        "OPENAI_API_KEY",
        "aws_access_key_id",
        "AWS_SECRET_ACCESS_KEY",
        "private_key",
        "token",
        "hf_token",
        "HF_TOKEN",
        "accessToken",
        "RAY_AUTH_TOKEN",
        "auth",
        "authorization",
        "credentials",
        "user_credential",
        "db_pwd",
        "pwd",
        "db_pass",
    ],
)
def test_a_name_of_a_secret(name: str) -> None:
    assert looks_secret(name)
    assert mask_values({name: "abc"}) == {name: MASK}


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer",
        "tokens",
        "num_tokens",
        "max_tokens",
        "tokens_per_batch",
        "token_dim",
        "token_type",
        "pad_token",
        "eos_token",
        "mask_token",
        "class_token",
        "image_token",
        "keyboard",
        "monkey",
        "key",
        "keys",
        "image_key",
        "label_key",
        "sort_key",
        "key_dim",
        "num_keys",
        "author",
        "authors",
        "authority",
        "auth_mode",
        "auth_url",
        "password_file",
        "secret_name",
        "PWD",
        "passes",
        "forward_pass",
        "bypass",
        "compass",
        "hidden",
        "lr",
        "signature",
        "",
        "123",
        "!",
    ],
)
def test_an_innocent_name(name: str) -> None:
    assert not looks_secret(name)
    assert mask_values({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        # addresses
        ("s3://me:hunter2@host/bucket", "s3://me:***@host/bucket"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("cannot reach ftp://a:b@c and sftp://d:e@f.", "cannot reach ftp://a:***@c and sftp://d:***@f."),
        ("https://h/x?a=1&X-Amz-Signature=ab12&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?X-Amz-Credential=AKIA%2F2026&x-amz-security-token=Fwo", None),
        ("https://h.blob/x?sv=2022&sig=ab%2Bc", "https://h.blob/x?sv=2022&sig=***"),
        # words next to a name
        ("token=abcd1234", "token=***"),
        ("api_key: abcd1234, depth: 3", "api_key: ***, depth: 3"),
        ("{'password': 'ab cd', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ('{"hf_token": "hf_abcd"}', '{"hf_token": "***"}'),
        ("--set recipe_args.api_key=abcd1234", "--set recipe_args.api_key=***"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("curl -H 'bearer abcdefghijkl'", "curl -H 'bearer ***'"),
    ],
)
def test_a_secret_in_a_text_is_masked(text: str, masked: str | None) -> None:
    assert mask_text(text) == (masked or re.sub(r"AKIA%2F2026|Fwo", MASK, text))
    assert mask_text(mask_text(text)) == mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix",
        "ssh://git@host:22/x",
        "http://host:8080/a@b:c",
        "time 12:30, ratio 3:4, a@b.c",
        "max_tokens: 4096, tokenizer=bert, key=lambda x: x",
        "KeyError: 'token'",
        "found character '\\t' that cannot start any token",
        "    token = read_token(path)",
        "    token = os.environ['X']",
        'f"token={token}"',
        "use_auth: true, auth: null, token: None",
        "--set recipe_args.api_key=...",
        "recipe_args.api_key = 5 is not text.",
        "",
    ],
)
def test_an_innocent_text_stays_as_it_is(text: str) -> None:
    assert mask_text(text) == text


def test_secrets_of_the_environment_are_masked_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    environment = {
        "WANDB_API_KEY": "0123456789abcdef",
        "MY_KEY": "0123456789abcdef-and-more",
        "SHORT_TOKEN": "word",  # texts are full of it
        "RAY_AUTH_MODE": "disabled",  # about a secret, and none
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path),  # where it is, not what
        "HOME_TOWN": "Springfield",
        "PWD": "/not/there/any/more",
    }
    monkeypatch.setattr("os.environ", environment)
    text = (
        f"0123456789abcdef, x0123456789abcdef-and-morex, word, disabled, Springfield, {tmp_path}, /not/there/any/more"
    )
    assert mask_text(text) == f"***, x***x, word, disabled, Springfield, {tmp_path}, /not/there/any/more"
    assert mask_values({"a": ["0123456789abcdef"]}) == {"a": [MASK]}


def test_values_are_masked_at_any_depth_and_nothing_is_altered() -> None:
    given = {
        "lr": 0.1,
        "login": {"user": "me", "password": 1234, "retries": 3},
        "credentials": {"user": "me", "known": True, "hint": None, "note": ""},
        "stores": [{"url": "s3://a:b@c", "api_key": "x"}, ("token=abcd",)],
        "api_keys": ["a", "b"],
        "use_auth": True,
    }
    assert mask_values(given) == {
        "lr": 0.1,
        "login": {"user": "me", "password": MASK, "retries": 3},
        "credentials": {"user": MASK, "known": True, "hint": None, "note": ""},
        "stores": [{"url": "s3://a:***@c", "api_key": MASK}, ["token=***"]],
        "api_keys": [MASK, MASK],
        "use_auth": True,
    }
    assert given["login"] == {"user": "me", "password": 1234, "retries": 3}


@given(st.text() | st.text("ab:/@='\" ?&token\n", max_size=60))
def test_any_text_is_masked_once_and_for_all(text: str) -> None:
    assert mask_text(mask_text(text)) == mask_text(text)


@pytest.mark.parametrize("piece", ["a", "a:", "a=b ", "://", "x_", "token= ", "bearer ", "token='", "?sig"])
def test_a_long_text_is_masked_in_time_that_grows_with_it(piece: str) -> None:
    assert len(mask_text(piece * (200_000 // len(piece)))) > 1000
