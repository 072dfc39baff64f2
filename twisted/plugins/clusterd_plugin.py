"""Makes `twistd clusterd` known; imports the daemon only when it is started."""

from twisted.application.service import ServiceMaker

clusterd = ServiceMaker("clusterd", "clusterd.service", "DHCP host maps and interface topology of one site", "clusterd")
