"""Every route there is."""

from regiond.http import audit, devices, health, networks, nodes, reservations, subnets, users
from regiond.http.routing import Route

ROUTES: tuple[Route, ...] = (
    *devices.ROUTES,
    *nodes.ROUTES,
    *reservations.ROUTES,
    *networks.ROUTES,
    *subnets.ROUTES,
    *users.ROUTES,
    *audit.ROUTES,
    *health.ROUTES,
)
