"""The key with which dhcpd lets clusterd in over OMAPI, read from a file that only its owner can open."""

import binascii
import os
import re
import stat
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path

MAX_KEY_FILE_BYTES = 4096
SHORTEST_KEY_BYTES = 16
DEFAULT_KEY_NAME = "hostmap"
ALGORITHM = "hmac-sha256"

_COMMENT = re.compile(r'("[^"\n]*")|(?:#|(?<![A-Za-z0-9+/=])//).*')  # none in quotes, nor within base64
_STATEMENT = re.compile(r'key\s+"?(?P<name>[A-Za-z0-9._-]{1,255})"?\s*\{(?P<body>[^{}]*)\}\s*;?\s*')
_CLAUSE = re.compile(r'\s*(algorithm|secret)\s+"?([^\s";]+)"?\s*;?\s*')


class KeyUnusable(Exception):
    """The key file does not give a key. The message says what to do and never shows the secret."""


@dataclass(frozen=True, slots=True)
class OmapiKey:
    """A name that dhcpd knows, and the shared secret."""

    name: str
    secret: bytes = field(repr=False)


def read_key(path: Path) -> OmapiKey:
    """The key in a file of mode 0600 (or 0400). Raises KeyUnusable."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise KeyUnusable(f"there is no {path}: put there the key that dhcpd's omapi-key names, mode 0600") from error
    except OSError as error:
        raise KeyUnusable(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyUnusable(f"{path} holds a secret but others can open it (mode {mode:04o}): chmod 600 {path}")
    if len(content) > MAX_KEY_FILE_BYTES:
        raise KeyUnusable(f"{path} is longer than {MAX_KEY_FILE_BYTES} bytes: it is to hold one key")
    try:
        return parse_key(content.decode("ascii"))
    except (KeyUnusable, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, KeyUnusable) else "it is not ASCII text"
        raise KeyUnusable(f"{path} holds no usable key: {reason}") from None


def parse_key(text: str) -> OmapiKey:
    """A key statement as in dhcpd.conf(5), or the secret alone in base64 (the name is then `hostmap`).

        key hostmap { algorithm hmac-sha256; secret "c2VjcmV0…"; };

    Raises KeyUnusable.
    """
    bare = _COMMENT.sub(r"\1", text) if "{" in text else text
    statement = _STATEMENT.fullmatch(bare.strip())
    if statement is None:
        if "{" in text:
            raise KeyUnusable('expected: key NAME { algorithm hmac-sha256; secret "…"; };')
        return OmapiKey(DEFAULT_KEY_NAME, _secret(text.strip()))
    clauses = {found[1]: found[2] for found in _CLAUSE.finditer(statement["body"])}
    algorithm = clauses.get("algorithm", "").lower().partition(".")[0]
    if algorithm != ALGORITHM:
        raise KeyUnusable(f"the algorithm has to be {ALGORITHM}, here and in dhcpd.conf (tsig-keygen makes such a key)")
    if "secret" not in clauses:
        raise KeyUnusable("it has no secret")
    return OmapiKey(statement["name"], _secret(clauses["secret"]))


def _secret(text: str) -> bytes:
    try:
        secret = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyUnusable("the secret is not base64") from None
    if len(secret) < SHORTEST_KEY_BYTES:
        raise KeyUnusable(f"the secret has {len(secret)} bytes; {SHORTEST_KEY_BYTES} are the least")
    return secret
