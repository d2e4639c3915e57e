"""Where the programs that come as Python wheels are."""

import shutil
from importlib import metadata
from pathlib import Path

from forge.stack.errors import ProgramMissing


def find_program(name: str, wheel: str) -> str:
    """Return the path of `name` as `wheel` installed it, else as the search path has it."""
    try:
        for file in metadata.files(wheel) or []:
            located = Path(str(file.locate())).resolve()
            if located.name == name and located.is_file():
                return str(located)
    except metadata.PackageNotFoundError:
        pass
    if found := shutil.which(name):
        return found
    raise ProgramMissing(f"{name} is not installed; install it with: pip install {wheel}")
