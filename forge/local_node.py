"""How commands choose the node they talk to, and the token they send."""

from pathlib import Path

from forge.datadir import DataDirUnusable, read_root_token, read_runtime


def target(data_dir: Path, url: str, token: str) -> tuple[str, str]:
    """Return the address to ask and the token to send: those given, else those of the node on `data_dir`.

    The address is empty if none was given and no node runs. The root token is sent to that node alone, never to
    another address.
    """
    here = read_runtime(data_dir)
    asked = (url or (here.url if here else "")).rstrip("/")
    if not token and here and asked and asked == here.url.rstrip("/"):  # a daemon has no address
        token = _token(data_dir)
    return asked, token


def _token(data_dir: Path) -> str:
    try:
        return read_root_token(data_dir)
    except DataDirUnusable:
        return ""  # the node will say that a token is missing, and the command how to give one
