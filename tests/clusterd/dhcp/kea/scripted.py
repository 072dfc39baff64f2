"""A control socket that answers as Kea's manual says ("Management API", "Host Commands"), to commands it is taught.

`HostCommands` teaches it the hook host_cmds of Kea 3, which Debian's Kea does not have: what it accepts, what it
answers and what it refuses follow the manual and the texts of the hook.
"""

import json
import os
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol

Answer = Callable[[Any], dict[str, Any]]


class _Conversation(Protocol):
    def __init__(self, server: "ScriptedServer") -> None:
        self._server = server
        self._received = b""

    def connectionMade(self) -> None:
        self._server.connections += 1

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        try:
            command = json.loads(self._received)
        except ValueError:
            return  # not all of it is there yet
        if self._server.silent:
            return
        assert self.transport is not None
        self.transport.write(self._server.raw_answer(command))
        self.transport.loseConnection()


class ScriptedServer:
    """Listens at `path`. `answers` are by command; each is given the arguments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Any]] = []
        self.connections = 0
        self.silent = False
        self.raw: bytes | None = None
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Begin to listen."""
        factory = Factory.forProtocol(lambda: _Conversation(self))
        self._port = await UNIXServerEndpoint(reactor, str(self.path)).listen(factory)

    async def stop(self, *, leave_the_socket: bool = False) -> None:
        """Listen no more; as a crash would, when the socket is left."""
        assert self._port is not None
        if leave_the_socket:
            os.link(self.path, self.path.with_name("kept"))
        await maybeDeferred(self._port.stopListening)
        if leave_the_socket:
            self.path.with_name("kept").rename(self.path)

    def raw_answer(self, command: dict[str, Any]) -> bytes:
        """The reply to a command."""
        name, arguments = command["command"], command.get("arguments")
        self.asked.append((name, arguments))
        if self.raw is not None:
            return self.raw
        if name == "list-commands":
            return json.dumps({"result": 0, "arguments": sorted({*self.answers, name})}).encode()
        if name not in self.answers:
            return json.dumps({"result": 2, "text": f"'{name}' command not supported."}).encode()
        return json.dumps(self.answers[name](arguments)).encode()

    def count(self, command: str) -> int:
        """How often this command came."""
        return sum(name == command for name, _ in self.asked)


class Refused(Exception):
    """What the hook answers with result 1."""


class HostCommands:
    """The hook host_cmds, with reservations in the server's memory or in its hosts database."""

    def __init__(self, server: ScriptedServer, family: int, subnets: dict[int, str], *, database: bool = False) -> None:
        self._family = family
        self._subnets = {number: ip_network(cidr) for number, cidr in subnets.items()}
        self._database = database
        self.pid = 4711
        self.words = ("memory", "database")  # of operation-target; "primary" and "alternate" in earlier versions
        self.hosts: list[dict[str, Any]] = []
        self.unique = False
        for name, work in {
            "status-get": self._status,
            "config-get": self._config,
            f"lease{family}-get": lambda _: self._nothing("Lease not found."),
            f"lease{family}-del": lambda _: self._nothing(f"IPv{family} lease not found."),
            "reservation-add": self._add,
            "reservation-update": self._update,
            "reservation-del": self._delete,
            "reservation-get": self._get,
            "reservation-get-by-address": self._get_by_address,
            "reservation-get-page": self._page,
        }.items():
            server.answers[name] = self._guarded(work)

    def restart(self) -> None:
        """A new process: what was in memory only is forgotten."""
        self.pid += 1
        if not self._database:
            self.hosts = []

    # ---- commands ----

    def _guarded(self, work: Answer) -> Answer:
        def answer(arguments: Any) -> dict[str, Any]:
            try:
                return work(arguments)
            except Refused as refused:
                return {"result": 1, "text": str(refused)}

        return answer

    def _status(self, _: Any) -> dict[str, Any]:
        return {"result": 0, "arguments": {"pid": self.pid, "uptime": 1000, "reload": 1000}}

    def _config(self, _: Any) -> dict[str, Any]:
        server: dict[str, Any] = {
            f"subnet{self._family}": [{"id": number, "subnet": str(cidr)} for number, cidr in self._subnets.items()],
            "match-client-id": False,
            "host-reservation-identifiers": ["client-id" if self._family == 4 else "duid", "hw-address"],
            "ip-reservations-unique": self.unique,
        }
        if self._database:
            server["hosts-databases"] = [{"type": "mysql", "name": "kea", "password": "*****"}]
        return {"result": 0, "arguments": {f"Dhcp{self._family}": server, "hash": "A1B2"}}

    def _add(self, arguments: Any) -> dict[str, Any]:
        self._check_target(arguments)
        host = arguments.get("reservation")
        if host is None:
            raise Refused("reservation must be specified")
        self._check_subnet(host)
        if any(self._key(other) == self._key(host) for other in self.hosts):
            raise Refused("Database duplicate entry error" if self._database else self._already(host))
        if self.unique and any(set(self._addresses(o)) & set(self._addresses(host)) for o in self.hosts):
            raise Refused(f"failed to add address reservation for host: {self._addresses(host)[0]} is already reserved")
        self.hosts.append({**host})
        return {"result": 0, "text": "Host added."}

    def _update(self, arguments: Any) -> dict[str, Any]:
        self._check_target(arguments)
        host = arguments["reservation"]
        self._check_subnet(host)
        for index, other in enumerate(self.hosts):
            if self._key(other) == self._key(host):
                self.hosts[index] = {**host}
                return {"result": 0, "text": "Host updated."}
        raise Refused("Host not updated (not found).")

    def _delete(self, arguments: Any) -> dict[str, Any]:
        self._check_target(arguments)
        found = self._find(arguments)
        if found is None:
            return self._nothing("Host not deleted (not found).")
        self.hosts.remove(found)
        return {"result": 0, "text": "Host deleted."}

    def _get(self, arguments: Any) -> dict[str, Any]:
        self._check_target(arguments, reading=True)
        found = self._find(arguments)
        if found is None:
            return self._nothing("Host not found.")
        return {"result": 0, "text": "Host found.", "arguments": self._shown(found)}

    def _get_by_address(self, arguments: Any) -> dict[str, Any]:
        wanted = ip_address(arguments["ip-address"])
        found = [
            self._shown(host)
            for host in self.hosts
            if wanted in map(ip_address, self._addresses(host)) and host["subnet-id"] == arguments["subnet-id"]
        ]
        text = f"{len(found)} IPv{self._family} host(s) found."
        return {"result": 0 if found else 3, "text": text, "arguments": {"hosts": found}}

    def _page(self, arguments: Any) -> dict[str, Any]:
        if "limit" not in arguments:
            raise Refused("missing parameter 'limit' (<wire>:0:0)")
        start = arguments.get("from", 0)
        found = self.hosts[start : start + arguments["limit"]]
        result: dict[str, Any] = {"count": len(found), "hosts": [self._shown(host) for host in found]}
        if found:
            result["next"] = {"source-index": 1, "from": start + len(found)}
        text = f"{len(found)} IPv{self._family} host(s) found."
        return {"result": 0 if found else 3, "text": text, "arguments": result}

    # ---- what they share ----

    def _nothing(self, text: str) -> dict[str, Any]:
        return {"result": 3, "text": text}

    def _check_target(self, arguments: Any, *, reading: bool = False) -> None:
        memory, database = self.words
        target = arguments.get("operation-target", "all" if reading else "default")
        if target not in (memory, database, "all", "default"):
            expected = f"({memory}, {database}, all, default)"
            raise Refused(f"The 'operation-target' value ({target}) is not within expected set: {expected}")
        if target in ("default", database) and not self._database and not reading:
            raise Refused("Host database not available, cannot add host.")

    def _check_subnet(self, host: dict[str, Any]) -> None:
        if "subnet-id" not in host:
            raise Refused("Mandatory 'subnet-id' parameter missing.")
        network = self._subnets.get(host["subnet-id"])
        if network is None:
            raise Refused(f"IPv{self._family} subnet with ID of '{host['subnet-id']}' is not configured")
        for address in self._addresses(host):
            if ip_address(address) not in network:
                raise Refused(
                    f"specified reservation '{address}' is not matching the IPv{self._family} subnet prefix '{network}'"
                )

    def _already(self, host: dict[str, Any]) -> str:
        kind, value = self._key(host)[1:]
        return (
            f"failed to add new host using the {kind} '{value}' to the IPv{self._family} subnet id "
            f"'{host['subnet-id']}' as this host has already been added"
        )

    def _find(self, arguments: Any) -> dict[str, Any] | None:
        for host in self.hosts:
            if host["subnet-id"] != arguments["subnet-id"]:
                continue
            if "ip-address" in arguments and arguments["ip-address"] in self._addresses(host):
                return host
            if self._key(host)[1:] == (arguments.get("identifier-type"), _octets(arguments.get("identifier", ""))):
                return host
        return None

    def _addresses(self, host: dict[str, Any]) -> list[str]:
        return list(host.get("ip-addresses", [host["ip-address"]] if "ip-address" in host else []))

    def _key(self, host: dict[str, Any]) -> tuple[int, str, str]:
        kind = next(name for name in ("hw-address", "duid", "client-id", "flex-id") if name in host)
        return host["subnet-id"], kind, _octets(host[kind])

    def _shown(self, host: dict[str, Any]) -> dict[str, Any]:
        """As the server writes it: what is no MAC address without colons, and everything else there is."""
        kind = self._key(host)[1]
        value = host[kind] if kind in ("hw-address", "flex-id") else _octets(host[kind]).upper()
        return {"hostname": "", "client-classes": [], "option-data": [], **host, kind: value}


def _octets(text: str) -> str:
    return text.replace(":", "").lower()
