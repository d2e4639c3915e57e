"""What can go wrong between a client and a node."""

from collections.abc import Mapping
from typing import Any

from forge.client.retry import RETRIED_STATUSES


class ClientError(Exception):
    """The node did not do what was asked."""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later: no answer came, or one that says "not now"."""
        return False


class ForgeError(ClientError):
    """The node answered with a problem; the fields are those of its `application/problem+json` body."""

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        fix: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.fix = fix
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body or {}

    @property
    def may_pass(self) -> bool:
        """Whether the node refused for now."""
        return self.status in RETRIED_STATUSES


class NodeUnreachable(ClientError):
    """No complete answer came from the node, after all retries; `hangs`: it took the request and fell silent."""

    def __init__(self, url: str, why: str, *, hangs: bool = False) -> None:
        super().__init__(f"no answer from {url}: {why}")
        self.url = url
        self.why = why
        self.hangs = hangs

    @property
    def may_pass(self) -> bool:
        """It may come back."""
        return True


class UnexpectedAnswer(ClientError):
    """What answered is not a Forge node of a version that this client understands."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} answered with something else than Forge would: {why}")
        self.url = url
        self.why = why


class SourceChanged(ClientError):
    """The bytes to upload became fewer while they were sent."""
