"""The name of a document on the command line."""

from typing import Any

import click


class DocumentId(click.ParamType[str]):
    """A `db_id`: checked before anything is asked."""

    name = "document"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; fail with what a name is made of."""
        from schemas.ids import InvalidId, parse_db_id

        try:
            return parse_db_id(str(value))
        except InvalidId as error:
            self.fail(str(error), param, ctx)


DOCUMENT = DocumentId()
