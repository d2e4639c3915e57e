"""Images as vectors of their layout: what looks alike at a glance, cell by cell, lies close together."""

import io
import math
import struct
import threading
import zlib
from contextlib import nullcontext

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MODEL = "forge-image-layout-v1"
DIMENSION = 348
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
PIXELS_MAX = 64 << 20
WEBP_PIXELS_MAX = 32 << 20  # its decoder keeps about 16 bytes of each; the others need 8
LARGE_PIXELS = 8 << 20
BACKGROUND = (128, 128, 128)

# Three layouts and one mean: 12 * 12 of light, 2 * 6 * 6 of colour, 4 * 4 * 8 of edges, 4 numbers of the whole.
SIDE = 64
LUMA_CELLS = 12
COLOUR_CELLS = 6
EDGE_CELLS = 4
ORIENTATIONS = 8
CONTRAST_MIN = 2.0  # grey levels; a picture with less is flat, and its noise is not its layout
LUMA_WEIGHT, COLOUR_WEIGHT, EDGE_WEIGHT, MEAN_WEIGHT = 1.0, 0.7, 0.7, 0.25

_Plane = NDArray[numpy.float64]
# Half a gigabyte is what one picture may take, so large ones are decoded one after the other.
_LARGE = threading.Lock()


class UnusableImage(ValueError):
    """The bytes are not an image that can be embedded; the message says why."""


def embed_image(content: bytes) -> NDArray[numpy.float32]:
    """Return the unit vector of `DIMENSION` numbers of a JPEG, PNG, GIF (first frame) or WebP image.

    The picture is seen as a viewer shows it: turned as its EXIF says, transparency over grey. More than
    `PIXELS_MAX` pixels (`WEBP_PIXELS_MAX`) are refused before any is decoded. Raise `UnusableImage`.
    """
    planes = [numpy.asarray(plane, numpy.float64) for plane in _decoded(content).split()]
    parts = [
        LUMA_WEIGHT * _contrast(_cells(planes[0], LUMA_CELLS)),
        COLOUR_WEIGHT * _contrast(numpy.stack([_cells(plane, COLOUR_CELLS) for plane in planes[1:]])),
        EDGE_WEIGHT * _edges(planes[0]),
        MEAN_WEIGHT * numpy.array([1.0, *(plane.mean() / 128 - 1 for plane in planes)]),
    ]
    vector = numpy.concatenate([part.ravel() for part in parts])
    return (vector / _length(vector)).astype(numpy.float32)


def _decoded(content: bytes) -> Image.Image:
    """Return the picture in YCbCr, `SIDE` pixels wide and high."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            most = WEBP_PIXELS_MAX if image.format == "WEBP" else PIXELS_MAX
            if width * height > most:
                raise UnusableImage(f"{width} x {height} pixels are more than {most}")
            image.draft("RGB", (4 * SIDE, 4 * SIDE))
            with _LARGE if width * height > LARGE_PIXELS else nullcontext():
                picture = ImageOps.exif_transpose(_reduced(image))
            return _opaque(picture).resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    except UnidentifiedImageError as error:
        raise UnusableImage(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImage(f"more than {PIXELS_MAX} pixels") from error
    except UnusableImage:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error) as error:
        raise UnusableImage(f"damaged image: {error}") from error


def _reduced(image: Image.Image) -> Image.Image:
    """Return a picture whose pixels can be averaged, of a few times `SIDE`, so that later copies are small."""
    if image.mode.startswith("I"):
        # Pillow itself would cut 16-bit greys at 255.
        picture = Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8))
    elif image.mode in ("1", "P", "PA"):
        picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    else:
        image.load()
        picture = image
    width, height = picture.size
    return picture.reduce((max(1, width // (4 * SIDE)), max(1, height // (4 * SIDE))))


def _opaque(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    shown = Image.new("RGB", picture.size, BACKGROUND)
    layer = picture.convert("RGBA")
    shown.paste(layer, mask=layer.getchannel("A"))
    return shown


def _cells(plane: _Plane, cells: int) -> _Plane:
    """Return the mean of each of `cells` x `cells` parts of a square plane."""
    small = Image.fromarray(plane.astype(numpy.float32)).resize((cells, cells), Image.Resampling.BOX)
    return numpy.asarray(small, numpy.float64)


def _contrast(cells: _Plane) -> _Plane:
    """Return how cells differ from their plane's mean, of length 1 unless there is hardly a difference."""
    spread = cells - cells.mean(axis=(-2, -1), keepdims=True)
    contrast: _Plane = spread / max(_length(spread), CONTRAST_MIN * math.sqrt(spread.size))
    return contrast


def _edges(luma: _Plane) -> _Plane:
    """Return how strong the edges of each direction are in each cell; light-to-dark equals dark-to-light."""
    down, right = numpy.gradient(luma)
    strength = numpy.sqrt(down * down + right * right)
    turn = (numpy.arctan2(down, right) / numpy.pi) % 1.0 * ORIENTATIONS
    lower = numpy.floor(turn)
    share = turn - lower
    cell = numpy.arange(SIDE) * EDGE_CELLS // SIDE
    place = (cell[:, None] * EDGE_CELLS + cell[None, :]) * ORIENTATIONS
    size = EDGE_CELLS * EDGE_CELLS * ORIENTATIONS
    histogram = numpy.zeros(size)
    for direction, weight in ((lower, 1 - share), (lower + 1, share)):
        places = place + direction.astype(numpy.int64) % ORIENTATIONS
        histogram += numpy.bincount(places.ravel(), (strength * weight).ravel(), size)
    histogram = numpy.sqrt(histogram / (SIDE * SIDE / EDGE_CELLS**2))
    return _contrast(histogram.reshape(EDGE_CELLS * EDGE_CELLS, ORIENTATIONS))


def _length(vector: _Plane) -> float:
    return math.sqrt(math.fsum((vector * vector).ravel()))
