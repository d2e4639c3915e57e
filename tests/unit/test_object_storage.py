"""Opening the object store of the settings."""

import pytest

from forge.object_storage import raw_store
from schemas.settings import InvalidSettings, Settings


@pytest.mark.parametrize(
    "names",
    [
        {"FORGE_S3_ACCESS_KEY_ID"},
        {"FORGE_S3_SECRET_ACCESS_KEY"},
        {"FORGE_S3_SESSION_TOKEN"},
        {"FORGE_S3_ACCESS_KEY_ID", "FORGE_S3_SESSION_TOKEN"},
    ],
)
async def test_keys_that_are_set_by_halves_are_told(names: set[str]) -> None:
    """boto3 knows nothing to say about some of them."""
    settings = Settings.load({"FORGE_S3_BUCKET": "bucket"} | dict.fromkeys(names, "some"))
    with pytest.raises(InvalidSettings, match="FORGE_S3_ACCESS_KEY_ID and FORGE_S3_SECRET_ACCESS_KEY belong together"):
        async with raw_store(settings):
            pass
