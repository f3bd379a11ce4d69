"""Clients of a banditroute server. They know the contract (`banditroute.v1`) and nothing else of the package.

Retries: UNAVAILABLE only, within the call's deadline, after the longer of an exponential backoff with jitter and what
the server asks for. Every call of the RouterService may be retried safely: a Route carries a request key, so that its
retry gives the same draw, and feedback has keys of its own, so that a retry is a DUPLICATE.
"""

from banditroute.client.admin import AdminClient
from banditroute.client.calls import FieldViolation, RequestFailed
from banditroute.client.requests import FeedbackFields, RouteFields, feedback_request, route_request
from banditroute.client.router import AsyncClient, Client

__all__ = [
    "AdminClient",
    "AsyncClient",
    "Client",
    "FeedbackFields",
    "FieldViolation",
    "RequestFailed",
    "RouteFields",
    "feedback_request",
    "route_request",
]
