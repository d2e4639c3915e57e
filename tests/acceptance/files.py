"""Files to upload, the same again for the same seed: mostly small texts, some large ones, some pictures."""

import io
import random
from dataclasses import dataclass
from functools import cached_property

import numpy
from blake3 import blake3
from numpy.typing import NDArray
from PIL import Image

from schemas.vector import Kind
from workers.builtin.image import embed_image
from workers.builtin.text import embed_text

LARGE_BYTES = 100 << 10
LARGE_EVERY = 100
PICTURE_EVERY = 40
SMALL_BYTES_MAX = 600
DUPLICATED_EVERY = 10
COPIES = 4
PICTURE_SIDE = 12


@dataclass(frozen=True)
class File:
    """File `number` of `seed`; `copies` clients upload it at the same time."""

    seed: int
    number: int

    @property
    def kind(self) -> Kind:
        """What it is embedded as."""
        return "image" if self.number % PICTURE_EVERY == 1 else "text"

    @property
    def copies(self) -> int:
        """How many clients upload it."""
        return COPIES if self.number % DUPLICATED_EVERY == 0 else 1

    @property
    def content(self) -> bytes:
        """The bytes."""
        rng = random.Random(f"{self.seed}/{self.number}")
        if self.kind == "image":
            pixels = rng.randbytes(3 * PICTURE_SIDE**2)
            picture = io.BytesIO()
            Image.frombytes("RGB", (PICTURE_SIDE, PICTURE_SIDE), pixels).save(picture, "PNG")
            return picture.getvalue()
        size = LARGE_BYTES if self.number % LARGE_EVERY == 0 else rng.randint(16, SMALL_BYTES_MAX)
        return rng.randbytes(size // 2).hex().encode()

    @cached_property
    def cid(self) -> str:
        """Its content hash."""
        return blake3(self.content).hexdigest()

    def vector(self) -> NDArray[numpy.float32]:
        """What the built-in model makes of it, computed here."""
        return embed_image(self.content) if self.kind == "image" else embed_text(self.content)
