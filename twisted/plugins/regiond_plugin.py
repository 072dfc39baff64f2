"""Makes `twistd regiond` known; imports the daemon only when it is started."""

from twisted.application.service import ServiceMaker

regiond = ServiceMaker("regiond", "regiond.start", "the authority over IP address reservations", "regiond")
