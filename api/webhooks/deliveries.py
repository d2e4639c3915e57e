"""The ids by which senders know their deliveries."""

from api.headers import Headers

ID_LENGTH_MAX = 255
ID_HEADERS = (
    "webhook-id",  # Standard Webhooks
    "svix-id",
    "x-github-delivery",
    "x-gitea-delivery",
    "x-forgejo-delivery",
    "x-gogs-delivery",
    "x-gitlab-event-uuid",
    "x-shopify-webhook-id",
    "ce-id",  # CloudEvents
)
"""Where they are found, the first one that is there counts."""


def delivery_id(headers: Headers) -> str | None:
    """Return the id of a delivery, None if it has none or one that is too long to be one."""
    for name in ID_HEADERS:
        if found := headers.get(name, "").strip():
            return usable(found)
    return None


def usable(found: str) -> str | None:
    """Return an id as it was sent, None if it is blank or too long to be one: such deliveries are never the same."""
    return found if found.strip() and len(found) <= ID_LENGTH_MAX else None
