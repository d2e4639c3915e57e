"""The settings of encryption in the object store."""

from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, Field

from schemas.encryption import AREAS, AREAS_DEFAULT, parse_areas


def _checked(text: str) -> str:
    parse_areas(text)
    return text


class EncryptionSettings(BaseModel):
    """For whom objects are encrypted, with which key this node reads them, and which are encrypted at all."""

    recipients: str = Field(
        "",
        validation_alias=AliasChoices("FORGE_RECIPIENTS"),
        description="public keys (age1..., ssh-ed25519 ..., ssh-rsa ...) or files of them, commas between, that the "
        "archive is encrypted for beside this node's own; empty: it is not encrypted",
    )
    identity_file: str = Field(
        "",
        validation_alias=AliasChoices("FORGE_IDENTITY_FILE"),
        description="private key that opens the archive, of age or OpenSSH, the node's own first if there are "
        "several, commas between; empty: node.key of the data directory",
    )
    encrypt: Annotated[str, AfterValidator(_checked)] = Field(
        AREAS_DEFAULT,
        validation_alias=AliasChoices("FORGE_ENCRYPT"),
        description=f"what is encrypted if there are recipients: some of {', '.join(AREAS)}, commas between",
    )
