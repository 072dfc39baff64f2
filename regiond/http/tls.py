"""HTTP over TLS: certificate and key from files, which are read again when they change.

A connection that is open keeps what it was made with. Files that cannot be used (half written, key and certificate of
different pairs) leave what there was in use, with a warning.
"""

from pathlib import Path
from typing import Final

from OpenSSL import SSL
from twisted.logger import Logger

from clusterd.daemon.config_file import ConfigError

_OPEN_TO_OTHERS: Final = 0o007
_State = tuple[tuple[int, int, int], ...]


class ServerCertificate:
    """A certificate chain and its key, both PEM. Raises ConfigError when they cannot be used at the start."""

    _log = Logger(namespace="region.http")

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._state()
        self._context = self._load()

    def context(self) -> SSL.Context:
        """For a new connection: of the files as they are now, or as they last could be used."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._context = self._load()
            except ConfigError as error:
                self._log.warn(
                    "the certificate in use stays: {reason}", event="http.certificate-refused", reason=str(error)
                )
            else:
                self._log.info(
                    "the certificate {path} was read again",
                    event="http.certificate-reloaded",
                    path=str(self._certificate),
                )
        return self._context

    def _state(self) -> _State:
        """What tells of a change: cheap enough for every connection."""
        found = []
        for path in (self._certificate, self._key):
            try:
                of = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((of.st_ino, of.st_mtime_ns, of.st_size))
        return tuple(found)

    def _load(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        try:
            if self._key.stat().st_mode & _OPEN_TO_OTHERS:
                raise ConfigError([f"{self._key}: every user can open this key: chmod 640 {self._key}"])
            context.use_certificate_chain_file(str(self._certificate))
            context.use_privatekey_file(str(self._key))
            context.check_privatekey()
        except OSError as error:
            raise ConfigError([f"{error.filename}: {error.strerror}"]) from error
        except SSL.Error as error:
            reasons = ", ".join(str(entry[-1]) for entry in error.args[0]) if error.args else ""
            raise ConfigError(
                [f"{self._certificate} and {self._key} are no certificate and its key in PEM: {reasons or error}"]
            ) from error
        return context
