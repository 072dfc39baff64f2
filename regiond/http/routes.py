"""Every route there is."""

from regiond.http import adoption, audit, devices, health, networks, nodes, recovery, reservations, subnets, users
from regiond.http.routing import Route

ROUTES: tuple[Route, ...] = (
    *devices.ROUTES,
    *nodes.ROUTES,
    *reservations.ROUTES,
    *networks.ROUTES,
    *subnets.ROUTES,
    *adoption.ROUTES,
    *users.ROUTES,
    *audit.ROUTES,
    *recovery.ROUTES,
    *health.ROUTES,
)
