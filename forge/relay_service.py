"""The stream relay of a node, wired."""

from collections.abc import Callable, Sequence

from api.relay.aliases import RelayAliases
from api.relay.hooks import RelayHooks
from api.relay.relay import Relay, Tee
from api.relay.routes import RelayApi
from api.routes import Route
from schemas.http_settings import items
from schemas.settings import Settings


def open_relay(
    settings: Settings, require: Callable[[str], object], tee: Tee | None = None
) -> tuple[Relay, Sequence[Sequence[Route]]]:
    """Return the relay, to be closed when the node stops, and its route tables.

    `require` refuses documents that are not there; those which everybody may use need not be there.
    """
    relay = Relay(
        bytes_max=settings.relay_buffer_bytes,
        answer_s=settings.relay_switch_timeout_s,
        automatic=settings.relay_auto_headers,
        tee=tee,
    )
    anonymous = frozenset(items(settings.relay_anonymous))

    def require_unless_anonymous(db_id: str) -> None:
        if db_id not in anonymous:
            require(db_id)

    apis = (
        RelayApi(relay, require),
        RelayAliases(relay, require_unless_anonymous, settings.relay_deprecation),
        RelayHooks(relay, settings.relay_hook_key.get_secret_value()),
    )
    return relay, [api.routes() for api in apis]
