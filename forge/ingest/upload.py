"""Bringing one missing file to the node."""

import asyncio
from dataclasses import dataclass

from forge.client import DescriptorSource, ForgeClient, ForgeError, SourceChanged, UploadResult
from forge.ingest.candidate import Candidate, Identify
from forge.ingest.digest import FileChanged
from forge.ingest.scan import Failed, open_regular, unreadable

BAD_REQUEST = 400
# A node that answers so will answer so to every file: the whole run has to stop.
RUN_STOPPERS = frozenset({401, 403, 404, 405, 408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The node has taken the file (`accepted`), or had it already; `digest` is what was really sent."""

    result: UploadResult
    size_bytes: int
    digest: bytes


async def upload(client: ForgeClient, candidate: Candidate, identify: Identify) -> Uploaded | Failed:
    """Send one file; when it turns out to hold something else by now, hash it again and send it once more.

    Raises `NodeUnreachable`, and `ForgeError` for refusals that would meet every file.
    """
    path = candidate.file.path
    try:
        try:
            return await _send(client, candidate, identify)
        except SourceChanged:
            pass
        except ForgeError as error:
            if error.status != BAD_REQUEST:
                return _refused(path, error)
        before = candidate.digest
        candidate.release()
        fresh = await asyncio.to_thread(identify.again, path)
        try:
            if fresh.digest == before:
                return Failed(path, "refused by the node although its content has the right hash")
            return await _send(client, fresh, identify)
        finally:
            fresh.release()
    except (FileChanged, SourceChanged):
        return Failed(path, "kept changing while it was read")
    except ForgeError as error:
        return _refused(path, error)
    except OSError as error:
        return Failed(path, unreadable(error))
    finally:
        candidate.release()


async def _send(client: ForgeClient, candidate: Candidate, identify: Identify) -> Uploaded:
    source = candidate.source()
    if source is None:
        candidate.descriptor = await asyncio.to_thread(open_regular, candidate.file.path)
        source = DescriptorSource(candidate.descriptor, candidate.file.size_bytes)
    result = await client.upload(source, candidate.digest.hex(), identify.kind)
    return Uploaded(result, source.size_bytes, candidate.digest)


def _refused(path: bytes, error: ForgeError) -> Failed:
    if error.status in RUN_STOPPERS:
        raise error
    return Failed(path, f"HTTP {error.status} {error.title}")
