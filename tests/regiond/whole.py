"""regiond as it is wired in earnest, in this process, asked through its HTTP API without a socket."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor

from clusterd.daemon.config_file import validate
from clusterd.protocol.values import InterfaceReport
from regiond.config import RegionSettings
from regiond.domain.identity import ByName, Introduction
from regiond.http.application import Incoming
from regiond.region import Region
from regiond.service import RegionDaemon
from regiond.storage.pool import Pool
from tests.regiond.storage.region import first_address

reactor: Any = global_reactor


@dataclass(frozen=True)
class Told:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Whole:
    """A region, whose owner asks."""

    region: Region

    @property
    def pool(self) -> Pool:
        return self.region.reads._pool

    async def cluster(self, name: str, *cidrs: str) -> int:
        """A cluster whose eth0 is on these networks, and that is gone again: nobody waits for it."""
        registered = await self.region.clusters.register(ByName(name), Introduction(name, "file", "0"))
        reports = [InterfaceReport("eth0", cidr, (first_address(cidr),)) for cidr in cidrs]
        await self.region.clusters.apply_topology(registered.cluster, reports)
        await self.region.clusters.disconnected(registered.cluster, registered.epoch)
        self.region.catalogue.changed()
        return registered.cluster

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """`path` is below /api/v1; a body that is bytes is a file of CSV."""
        sent = dict(headers or {})
        content = b""
        if body is not None:
            sent["content-type"] = "text/csv" if isinstance(body, bytes) else "application/json"
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if key is not None:
            sent["idempotency-key"] = key
        incoming = Incoming(method, f"/api/v1{path}", sent, content, local=True)
        outgoing = await self.region.application.answer(incoming)
        assert isinstance(outgoing.body, bytes)
        return Told(outgoing.status, {name.lower(): value for name, value in outgoing.headers}, outgoing.body)

    async def done(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """What was answered to a request that succeeds."""
        told = await self.ask(method, path, body, **more)
        assert told.status < 400, told
        return told.json if told.body else None


@asynccontextmanager
async def whole_region(dsn: str, directory: Path) -> AsyncIterator[Whole]:
    settings = validate(
        {
            "state_directory": str(directory / "region"),
            "http": {"listen": []},
            "clusters": {"listen": ["tcp:127.0.0.1:0"], "enrolment": "tcp:127.0.0.1:0"},
            "database": {"dsn": dsn},
        },
        RegionSettings,
        "test",
    )
    daemon = RegionDaemon(reactor, settings, fail_at_exit=lambda: None)
    daemon.startService()
    try:
        assert daemon._starting is not None
        await daemon._starting
        assert daemon._region is not None
        yield Whole(daemon._region)
    finally:
        await daemon.stopService()
