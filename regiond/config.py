"""regiond's settings: a TOML file → frozen values. Every key has a default; an empty file works.

state_directory = "/var/lib/hostmap/region"

[http]
listen = ["tcp:127.0.0.1:5240"]            # loopback only: put a TLS proxy in front of it for others
socket = "/run/hostmap/api.sock"           # who can open it is the local admin; default: in the state directory
certificate = "/etc/hostmap/api.pem"       # for listeners such as "tls:[::]:5243": the chain, and its key (not open to
private_key = "/etc/hostmap/api.key"       # all); read again when they change
max_connections = 4000                     # of more, those are hung up on that were silent the longest
requests_per_second = 100.0                # of each token, with bursts of two seconds' worth; default: no limit

[clusters]
listen = ["unix:/var/lib/hostmap/region/clusters.sock"]   # default: in the state directory; "tcp:[::]:5250" is TLS
endpoints = ["tcp:region.example.org:5250"]  # what clusters are told to connect to: all regionds, as they reach them
enrolment = "tcp:[::]:5251"                # where clusters enrol, while a token is outstanding

[database]                                 # nothing here: regiond runs its own PostgreSQL
dsn = "host=db1,db2 dbname=hostmap target_session_attrs=read-write"
password_file = "/etc/hostmap/db-password" # for the DSN; mode 0600
run_as = "hostmap"                         # whom regiond's own PostgreSQL runs as, when regiond is root
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, model_validator

from clusterd.daemon.config_file import AbsolutePath, Strict, read_secret
from clusterd.daemon.endpoints import (
    LinkAddress,
    LinkAddressSetting,
    LocalAddress,
    LocalAddressSetting,
    LoopbackAddress,
    TlsAddress,
    UnixAddress,
    is_ip_address,
    parse_link_address,
)

MAX_CONNECTIONS = 4000
DEFAULT_STATE_DIRECTORY = Path("/var/lib/hostmap/region")
ENROLMENT_PORT = 5251


def _dsn(text: str) -> str:
    try:
        known = parse_dsn(text)
    except ProgrammingError as error:
        raise ValueError(f"not a PostgreSQL connection string{_why(text, error)}") from None
    if "password" in known:
        raise ValueError("a password does not belong here: put it into the file named by password_file")
    return text


def _why(text: str, error: ProgrammingError) -> str:
    """libpq's words, which quote what it stumbled over: not where that may be a piece of a password."""
    if "password" in text.lower() or "://" in text:
        return " (why is not shown: libpq would quote it, and there may be a password in it)"
    return f": {str(error).strip()}"


class HttpsAddress(TlsAddress):
    """Where HTTP over TLS is spoken."""

    def __str__(self) -> str:
        return super().__str__().replace("tcp:", "tls:", 1)


HttpAddress = LocalAddress | HttpsAddress


def _http_address(value: object) -> HttpAddress:
    text = value.strip() if isinstance(value, str) else ""
    if not text.startswith("tls:"):
        return _LOCAL_ADDRESS.validate_python(value)
    address = parse_link_address(text.replace("tls:", "tcp:", 1))
    assert isinstance(address, TlsAddress)
    if not is_ip_address(address.host):
        raise ValueError(f"one listens on an IP address, not on a name: {text} (tls:[::]:{address.port} is all)")
    return HttpsAddress(address.host, address.port)


_LOCAL_ADDRESS: TypeAdapter[LocalAddress] = TypeAdapter(LocalAddressSetting)


class HttpSettings(Strict):
    """Where programs ask, and how much of it."""

    listen: tuple[Annotated[HttpAddress, PlainValidator(_http_address)], ...] = Field(
        default=(LoopbackAddress("127.0.0.1", 5240),), max_length=32
    )
    socket: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    private_key: AbsolutePath | None = None
    max_connections: int = Field(default=MAX_CONNECTIONS, ge=16, le=100_000)
    requests_per_second: float | None = Field(default=None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _has_its_certificate(self) -> Self:
        needed = any(isinstance(address, HttpsAddress) for address in self.listen)
        if (self.certificate is None) is not (self.private_key is None) or (needed and self.certificate is None):
            raise ValueError("tls: needs both certificate and private_key")
        return self


def _listener(address: LinkAddress) -> LinkAddress:
    if isinstance(address, TlsAddress) and not is_ip_address(address.host):
        raise ValueError(f"one listens on an IP address, not on a name: {address} (tcp:[::]:{address.port} is all)")
    return address


def _tls(address: LinkAddress) -> TlsAddress:
    if not isinstance(address, TlsAddress):
        raise ValueError(f"clusters on other hosts connect by TCP: {address} is none")
    return address


def _reachable(address: LinkAddress) -> TlsAddress:
    reached = _tls(address)
    if reached.port == 0 or (is_ip_address(reached.host) and ip_address(reached.host).is_unspecified):
        raise ValueError(f"nobody can connect to {reached}")
    return reached


Listener = Annotated[LinkAddressSetting, AfterValidator(_listener)]


class ClusterListenSettings(Strict):
    """Where clusters connect.

    By default a socket that only regiond's own user can open: on a plain link whoever connects says which cluster it
    is. TCP is always mutual TLS.
    """

    listen: tuple[Listener, ...] | None = Field(default=None, max_length=32)
    endpoints: tuple[Annotated[LinkAddressSetting, AfterValidator(_reachable)], ...] = Field(default=(), max_length=32)
    enrolment: Annotated[Listener, AfterValidator(_tls)] | None = None


class DatabaseSettings(Strict):
    """Which PostgreSQL; without a DSN regiond runs one of its own in the state directory."""

    dsn: Annotated[str, AfterValidator(_dsn)] | None = None
    password_file: AbsolutePath | None = None
    run_as: str | None = Field(default=None, min_length=1, max_length=32)

    @model_validator(mode="after")
    def _fit_together(self) -> "DatabaseSettings":
        if self.dsn is not None and self.run_as is not None:
            raise ValueError("run_as is for regiond's own PostgreSQL: leave it out with a dsn")
        if self.dsn is None and self.password_file is not None:
            raise ValueError("password_file is for a dsn, and there is none")
        return self

    def complete_dsn(self) -> str | None:
        """The DSN with its password. Raises ConfigError for a password file that cannot be used."""
        if self.dsn is None or self.password_file is None:
            return self.dsn
        return str(make_dsn(self.dsn, password=read_secret(self.password_file)))


class RegionSettings(Strict):
    """All of regiond's settings."""

    state_directory: AbsolutePath = DEFAULT_STATE_DIRECTORY
    http: HttpSettings = HttpSettings()
    clusters: ClusterListenSettings = ClusterListenSettings()
    database: DatabaseSettings = DatabaseSettings()

    @property
    def cluster_listen(self) -> tuple[LinkAddress, ...]:
        """Where clusters connect."""
        if self.clusters.listen is not None:
            return self.clusters.listen
        return (UnixAddress(str(self.state_directory / "clusters.sock")),)

    @property
    def enrolment_listen(self) -> TlsAddress | None:
        """Where clusters enrol: beside the first TCP listener for clusters, unless told otherwise."""
        first = next((address for address in self.cluster_listen if isinstance(address, TlsAddress)), None)
        chosen = self.clusters.enrolment
        if chosen is not None:
            assert isinstance(chosen, TlsAddress)
            return chosen
        return None if first is None else TlsAddress(first.host, ENROLMENT_PORT)

    @property
    def api_socket(self) -> UnixAddress:
        """The UNIX socket of the HTTP API for the local admin."""
        return UnixAddress(str(self.http.socket or self.state_directory / "api.sock"))
