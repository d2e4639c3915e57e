"""What the errors of S3 mean, by whichever client they come."""

import re

from botocore.exceptions import BotoCoreError, ClientError

from events.objects.errors import (
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
)

_REFUSED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidToken",
        "NoSuchBucket",
        "NotSignedUp",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
NO_KEYS = "no keys of S3 are set"
_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "501", "405"})
_MISSING = frozenset({"NoSuchKey", "404"})
_READS = frozenset({"GetObject", "HeadObject"})
SWAP = "PutObject If-Match"
_CONDITIONAL = frozenset({"PutObject", "CompleteMultipartUpload", SWAP})
_PRECONDITION = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"})
"""Somebody else was faster, or is at it: 409 is said while another conditional write of the key is under way."""

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})([^:\n]*)")
_NO_LOCATION = "redirect without LOCATION"  # what obstore makes of an answer from another region
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,500})</Message>")
_KIND = re.compile(r"\bkind: (Timeout|Connect)\b")
_CAUSE = re.compile(r'(?:message|error): "([^"\n]{1,200})"|InvalidCertificate\(\s*(\w{1,40})')
_KINDS = {"Timeout": "no answer in time", "Connect": "no connection"}


class InvalidRange(StoreError):
    """The range begins behind the object's end."""


def of_boto3(error: ClientError | BotoCoreError) -> StoreError:
    """Return what an error of boto3 means: an answer, or that it has no keys."""
    if not isinstance(error, ClientError):
        return StoreRefused(f"{NO_KEYS}: {error}")
    said = error.response.get("Error", {})
    code, message = said.get("Code", ""), said.get("Message", "")
    why = f"{message} ({code})" if code and message else str(error)
    return _meaning(error.operation_name, code, f"{error.operation_name}: {why}")


def of_obstore(operation: str, key: str, error: Exception) -> StoreError:
    """Return what an error of obstore means: its types do not tell a missing bucket from a missing object."""
    said, _, source = str(error).partition("\n\nDebug source:")
    status = _STATUS.search(said)
    if NO_KEYS in said:
        return StoreRefused(NO_KEYS)
    if status is None and _NO_LOCATION not in said:
        return StoreUnavailable(f"S3 does not answer: {operation} of {key}: {_silence(said, source)}")
    if status is None:
        return _meaning(operation, "PermanentRedirect", f"{operation} of {key}: FORGE_S3_REGION is not the bucket's")
    return _refusal(operation, key, said, status[1], status[2])


def of_answer(operation: str, key: str, status: int, body: str) -> StoreError:
    """Return what an answer means that is no success."""
    return _refusal(operation, key, body, str(status))


def _refusal(operation: str, key: str, said: str, status: str, reason: str = "") -> StoreError:
    code, message = _CODE.search(said), _MESSAGE.search(said)
    name, why = code[1] if code else status, message[1] if message else f"HTTP {status}{reason}"
    return _meaning(operation, name, f"{operation} of {key}: {why} ({name})")


def _meaning(operation: str, code: str, what: str) -> StoreError:
    """Return what a code means; one that makes no sense for its operation is as good as no answer."""
    if code in _MISSING and operation in _READS:
        return ObjectMissing(what)
    if (code in _PRECONDITION and operation in _CONDITIONAL) or (code == "NoSuchKey" and operation == SWAP):
        return PreconditionFailed(what)
    if code == "InvalidRange":
        return InvalidRange(what)
    if code in _UNSUPPORTED:
        return Unsupported(what)
    return StoreRefused(what) if code in _REFUSED else StoreUnavailable(what)


def _silence(said: str, source: str) -> str:
    """Return why there was no answer, from the innermost cause if there is one."""
    kind, causes = _KIND.search(source), ["".join(found) for found in _CAUSE.findall(source)]
    return ": ".join([_KINDS[kind[1]] if kind else said.splitlines()[0], *causes[-1:]])
