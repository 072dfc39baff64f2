"""A cluster whose clusterd is of the version before recoveries."""

from typing import Any

from clusterd.protocol import commands
from tests.fakes.cluster import FakeCluster


class OlderCluster(FakeCluster):
    """It knows no `UploadHostMaps`, and its registration says neither region, nor instance, nor what it reports."""

    def locateResponder(self, name: bytes) -> Any:
        return None if name == commands.UploadHostMaps.commandName else super().locateResponder(name)
