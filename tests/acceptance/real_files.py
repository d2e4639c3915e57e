"""Real texts and pictures found on this machine, copied into a tree of the test's own, and drawn photos."""

import os
import random
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

TEXT_SOURCES = (
    "/usr/share/common-licenses",
    "/usr/share/doc",
    sysconfig.get_path("stdlib"),
    "/usr/lib/python3",
    sysconfig.get_path("purelib"),
)
PICTURE_SOURCES = (
    "/usr/share/icons",
    "/usr/share/pixmaps",
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
)
TEXT_ENDINGS = (".py", ".txt", ".md", ".rst", "copyright", "README", "GPL-2", "GPL-3", "LGPL-2.1", "Apache-2.0", "BSD")
PICTURE_ENDINGS = (".png", ".gif", ".jpg", ".jpeg", ".webp")
SIZE_MAX = 200_000
PER_FOLDER = 40
FORMATS = ("jpg", "png", "webp", "gif")


def found(sources: tuple[str, ...], endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield regular files with these endings, in a fixed order, at most `SIZE_MAX` bytes each."""
    for source in dict.fromkeys(os.path.realpath(source) for source in sources):
        for folder, below, names in os.walk(source):
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if name.endswith(endings) and _fits(path):
                    yield path


def _fits(path: Path) -> bool:
    regular = path.is_file() and not path.is_symlink()
    return regular and path.stat().st_size <= SIZE_MAX and os.access(path, os.R_OK)


def texts() -> Iterator[Path]:
    """Yield licences, package documentation and Python sources, empty ones left out."""
    return (path for path in found(TEXT_SOURCES, TEXT_ENDINGS) if path.stat().st_size)


def packed() -> Iterator[Path]:
    """Yield compressed documentation, which is no text."""
    return found(("/usr/share/doc", "/usr/share/man", "/usr/share/info"), (".gz",))


def copy(files: Iterator[Path], count: int, into: Path) -> list[Path]:
    """Copy up to `count` files into folders below `into`, their names numbered; return the copies."""
    copies = []
    for number, file in enumerate(islice(files, count)):
        folder = into / f"{number // PER_FOLDER:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        copies.append(folder / f"{number:04d}-{file.name}")
        copies[-1].write_bytes(file.read_bytes())
    return copies


def draw_photos(count: int, into: Path, seed: int) -> list[Path]:
    """Draw `count` photo-like pictures in all formats that the built-in worker reads, the same for the same seed."""
    into.mkdir(parents=True, exist_ok=True)
    photos = []
    for number in range(count):
        photos.append(into / f"photo-{number:04d}.{FORMATS[number % len(FORMATS)]}")
        photo(random.Random(f"{seed}/{number}")).save(photos[-1])
    return photos


def photo(rng: random.Random) -> Image.Image:
    """Return a picture with light from one side, things in it, and a little grain."""
    size = rng.randrange(160, 480), rng.randrange(160, 480)
    light = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
    picture = Image.merge("RGB", [light.point([v * rng.uniform(0.3, 1.0) for v in range(256)]) for _ in range(3)])
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(4, 12)):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        corner = x + rng.randrange(20, 160), y + rng.randrange(20, 160)
        shape = rng.choice((pen.ellipse, pen.rectangle))
        shape((x, y, *corner), fill=tuple(rng.randrange(256) for _ in range(3)))
    grain = Image.frombytes("RGB", (32, 32), rng.randbytes(3 * 32 * 32)).resize(size)
    return Image.blend(picture.filter(ImageFilter.GaussianBlur(1)), grain, 0.1)
