"""The file with dhcpd's OMAPI key."""

import traceback
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.isc.key import KeyUnusable, OmapiKey, parse_key, read_key

SECRET = b"sixteen bytes or more"
TEXT = b64encode(SECRET).decode()


@pytest.mark.parametrize(
    "text",
    [
        f'key clusters {{ algorithm hmac-sha256; secret "{TEXT}"; }};',
        f"key clusters {{\n\talgorithm HMAC-SHA256.SIG-ALG.REG.INT;\n\tsecret {TEXT};\n}}\n",
        f'# made by tsig-keygen\nkey "clusters" {{ // one\n algorithm hmac-sha256; secret "{TEXT}"; }};\n',
    ],
)
def test_a_key_statement(text: str) -> None:
    assert parse_key(text) == OmapiKey("clusters", SECRET)


@given(st.binary(min_size=16, max_size=64))
def test_the_secret_alone(secret: bytes) -> None:
    assert parse_key(f"{b64encode(secret).decode()}\n") == OmapiKey("hostmap", secret)


@pytest.mark.parametrize("quote", ['"', ""])
def test_two_slashes_in_a_secret_begin_no_comment(quote: str) -> None:
    secret = b"\x00\xff\xff\xff" * 6
    text = b64encode(secret).decode()
    assert "//" in text and not text.startswith("//")
    statement = f"key a {{ // {quote}\n algorithm hmac-sha256; secret {quote}{text}{quote}; // {quote}one\n}}; # two"
    assert parse_key(statement) == OmapiKey("a", secret)


@given(st.binary(min_size=16, max_size=64))
def test_a_secret_in_a_statement(secret: bytes) -> None:
    text = f'key "a" {{ algorithm hmac-sha256; secret "{b64encode(secret).decode()}"; }};'
    assert parse_key(text) == OmapiKey("a", secret)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the secret has 0 bytes"),
        ("c2hvcnQ=", "the secret has 5 bytes; 16 are the least"),
        ("no base64!", "not base64"),
        (f"key a {{ algorithm hmac-md5; secret {TEXT}; }}", "the algorithm has to be hmac-sha256"),
        (f"key a {{ secret {TEXT}; }}", "the algorithm has to be hmac-sha256"),
        ("key a { algorithm hmac-sha256; }", "it has no secret"),
        (f"omapi-key a {{ {TEXT} }}", "expected: key NAME"),
    ],
)
def test_what_is_no_key(text: str, words: str) -> None:
    with pytest.raises(KeyUnusable, match=words):
        parse_key(text)


@given(st.text("{};# \n", max_size=20))
def test_an_error_does_not_show_the_secret(text: str) -> None:
    with pytest.raises(KeyUnusable) as raised:
        parse_key(f"key a {{ algorithm hmac-sha256; secret {text}*SECRET*; }}")
    assert "SECRET" not in "".join(traceback.format_exception(raised.value, limit=0))


def test_the_file_has_to_be_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyUnusable, match=f"there is no {path}: put there"):
        read_key(path)
    path.write_text(TEXT)
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(KeyUnusable, match=rf"mode {mode:04o}\): chmod 600 {path}"):
            read_key(path)
    path.chmod(0o400)
    assert read_key(path) == OmapiKey("hostmap", SECRET)
    path.chmod(0o600)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(KeyUnusable, match="not ASCII"):
        read_key(path)
    path.write_bytes(b"A" * 5000)
    with pytest.raises(KeyUnusable, match="longer than 4096 bytes"):
        read_key(path)
