"""Loaded by schemathesis: how the texts are made of which the document only names the format."""

from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st

from regiond.domain.ids import ID_BITS, Prefix, format_id

_labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_octets = st.integers(0, 255)
_lines = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=40)


def _ids(prefix: Prefix) -> st.SearchStrategy[str]:
    return st.integers(0, 2**ID_BITS - 1).map(lambda number: format_id(prefix, number))


def _hexadecimal(octets: bytes) -> str:
    return octets.hex(":")


FORMATS = {
    "hostmap-mac": st.integers(1, 2**24).map(lambda number: _hexadecimal(b"\x00\x16\x3e" + number.to_bytes(4)[1:])),
    "hostmap-address": st.one_of(
        st.tuples(st.just(192), st.just(0), st.just(2), _octets).map(lambda parts: ".".join(map(str, parts))),
        st.ip_addresses().map(str),
    ),
    "hostmap-host-name": st.lists(_labels, min_size=1, max_size=3).map(".".join),
    "hostmap-name": st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True),
    "hostmap-client-id": st.binary(min_size=2, max_size=20).map(_hexadecimal),
    "hostmap-duid": st.binary(min_size=3, max_size=20).map(_hexadecimal),
    "hostmap-text": _lines,
    "hostmap-line": _lines,
    "hostmap-selector": st.sampled_from(
        ["192.0.2.0/24", "2001:db8::/64", "rack-a:eth0", "nic:eth0", "family:6", "ip:192.0.2.9", "cidr:10.0.0.0/8"]
    ),
    "hostmap-network": st.one_of(
        st.integers(0, 255).map(lambda number: f"10.{number}.0.0/16"),
        st.integers(0, 0xFFFF).map(lambda number: f"2001:db8:{number:x}::/48"),
    ),
    "hostmap-cluster-interface": _ids(Prefix.CLUSTER_INTERFACE),
    "hostmap-device": _ids(Prefix.DEVICE),
    "hostmap-node": _ids(Prefix.NODE),
}

FORMATS["hostmap-lines"] = st.lists(FORMATS["hostmap-address"], min_size=1, max_size=3).map(
    lambda addresses: "address\n" + "\n".join(addresses)
)

for _name, _strategy in FORMATS.items():
    schemathesis.openapi.format(_name, _strategy)


@schemathesis.serializer("text/csv", "application/jsonl", "application/x-ndjson", "application/jsonlines")
def files(context: Any, value: Any) -> bytes:
    """A file is what it is."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Nothing here is worth waiting for. What is wrong stays as it is."""
    if case.operation.path.endswith("/events") and "wait" not in (case.query or {}):
        case.query = {**(case.query or {}), "wait": "0.05"}  # or it would have no end
    if (case.query or {}).get("probe") in ("true", True):
        del case.query["probe"]  # no cluster is there that could find out: 503 would be right
    wait = (case.query or {}).get("wait")
    if isinstance(wait, str) and wait[:2].strip(".").isdecimal() and 0.05 < float(wait[:2]) <= 30:
        case.query["wait"] = "0.05"
    elif isinstance(wait, int | float) and not isinstance(wait, bool) and 0.05 < wait <= 30:
        case.query["wait"] = 0.05


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """A recovery that was begun is ended at once: as long as it goes on claims are rightly refused with 503."""
    if case.operation.path.endswith("/recovery/begin") and response.status_code == 200:
        sent = response.request
        headers = {"Authorization": sent.headers["Authorization"]}
        ended = requests.post(
            sent.url.partition("?")[0].replace("/begin", "/end"), json={"force": True}, headers=headers, timeout=10
        )
        assert ended.status_code in (200, 409), ended.text  # 409: it was over by itself
