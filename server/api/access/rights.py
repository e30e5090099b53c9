"""Which right a request needs.

A path without a route asks for `admin`, so that a forgotten one is closed rather than open; a test
compares the routes' records with the application's.
"""

from collections.abc import Mapping

from server.api.access.callers import Right
from server.api.access.route_table import ROUTES, route_for

RIGHTS: Mapping[tuple[str, str], Right | None] = {
    (route.method, route.path): route.right for route in ROUTES
}
"""By method and path template; None is open to everybody."""


def right_for(method: str, path: str) -> Right | None:
    """The right that a request needs; None when it needs none."""
    # A method that no route has ends as 405 or 404 behind the check.
    route = route_for(method, path)
    return Right.ADMIN if route is None else route.right
