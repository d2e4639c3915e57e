"""Pictures that look alike get vectors close together, and what is no usable picture is refused in time."""

import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from workers.builtin.image import DIMENSION, PIXELS_MAX, UnusableImage, embed_image

SIZE = (320, 240)
COUNT = 40


def photo(seed: int) -> Image.Image:
    """Return clouds of several scales with some shapes on them, never the same for two seeds."""
    chance = numpy.random.default_rng(seed)
    planes = []
    for _ in range(3):
        plane = numpy.zeros(SIZE[::-1])
        for side, weight in ((3, 1.0), (6, 0.6), (12, 0.4), (80, 0.15)):
            noise = Image.fromarray(chance.random((side, side), numpy.float32))
            plane += weight * numpy.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC))
        planes.append((plane - plane.min()) / (plane.max() - plane.min()) * 255)
    picture = Image.fromarray(numpy.stack(planes, axis=2).astype(numpy.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(chance.integers(2, 6))):
        x, y, width, height = (int(n) for n in chance.integers((0, 0, 20, 20), (*SIZE, 160, 120)))
        colour = tuple(int(n) for n in chance.integers(0, 255, 3))
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(1))


def encoded(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def cut(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 20, height // 20, width - width // 20, height - height // 20))


VARIANTS: dict[str, Callable[[Image.Image], bytes]] = {
    "a third of the size": lambda p: encoded(p.resize((SIZE[0] // 3, SIZE[1] // 3))),
    "twice the size": lambda p: encoded(p.resize((SIZE[0] * 2, SIZE[1] * 2))),
    "JPEG of low quality": lambda p: encoded(p, quality=25),
    "WebP": lambda p: encoded(p, "WEBP", quality=40),
    "GIF": lambda p: encoded(p, "GIF"),
    "brighter": lambda p: encoded(ImageEnhance.Brightness(p).enhance(1.25)),
    "less contrast": lambda p: encoded(ImageEnhance.Contrast(p).enhance(0.6)),
    "paler": lambda p: encoded(ImageEnhance.Color(p).enhance(0.6)),
    "blurred": lambda p: encoded(p.filter(ImageFilter.GaussianBlur(2))),
    "five percent cut off each side": lambda p: encoded(cut(p)),
}


@pytest.fixture(scope="module")
def library() -> numpy.ndarray:
    return numpy.array([embed_image(encoded(photo(seed), "PNG")) for seed in range(COUNT)])


def test_different_pictures_are_far_apart(library: numpy.ndarray) -> None:
    likeness = (library @ library.T)[numpy.triu_indices(COUNT, 1)]
    assert likeness.max() < 0.75
    assert numpy.median(likeness) < 0.2


@pytest.mark.parametrize("name", VARIANTS)
def test_a_changed_copy_is_closest_to_its_original(library: numpy.ndarray, name: str) -> None:
    least = 0.85 if "cut" in name else 0.93
    for seed in range(COUNT):
        likeness = library @ embed_image(VARIANTS[name](photo(seed)))
        assert likeness.argmax() == seed
        assert likeness[seed] > least


def test_vectors_have_length_one_and_are_the_same_each_time() -> None:
    content = encoded(photo(1))
    vector = embed_image(content)
    assert vector.dtype == numpy.float32
    assert vector.shape == (DIMENSION,)
    assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert (vector == embed_image(content)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_seen_as_its_exif_turns_it(orientation: int) -> None:
    upright = photo(3)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP"):
        assert embed_image(encoded(stored, kind, exif=exif)) @ embed_image(encoded(upright)) > 0.98


def test_transparent_parts_are_grey() -> None:
    picture = photo(4)
    hidden = picture.copy()
    hidden.putalpha(0)
    grey = Image.new("RGB", SIZE, (128, 128, 128))
    assert (embed_image(encoded(hidden, "PNG")) == embed_image(encoded(grey, "PNG"))).all()

    disc = Image.new("L", SIZE, 0)
    ImageDraw.Draw(disc).ellipse((40, 20, 280, 220), fill=255)
    hidden.putalpha(disc)
    grey.paste(picture, mask=disc)
    assert embed_image(encoded(hidden, "PNG")) @ embed_image(encoded(grey, "PNG")) > 0.99


def test_of_an_animation_the_first_picture_counts() -> None:
    first, second = photo(5), photo(6)
    for kind in ("GIF", "WEBP", "PNG"):
        moving = encoded(first, kind, save_all=True, append_images=[second])
        assert embed_image(moving) @ embed_image(encoded(first, kind)) > 0.97


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_read(mode: str) -> None:
    grey = photo(7).convert("L")
    deep = Image.fromarray(numpy.asarray(grey).astype(numpy.uint16) * 257)
    picture = deep if mode == "I;16" else grey.convert(mode)
    likeness = embed_image(encoded(picture, "PNG")) @ embed_image(encoded(grey, "PNG"))
    assert likeness > (0.8 if mode == "1" else 0.99)


def test_a_cmyk_jpeg_is_read() -> None:
    assert embed_image(encoded(photo(8).convert("CMYK"))) @ embed_image(encoded(photo(8))) > 0.98


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (64, 64)])
def test_a_flat_picture_has_a_valid_vector_however_small(colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    vector = embed_image(encoded(Image.new("RGB", size, colour), "PNG"))
    assert numpy.isfinite(vector).all()
    assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8193, 8192), (10_000, 10_000), (60_000, 60_000), (2_000_000_000, 1)])
def test_too_many_pixels_are_refused_before_any_is_decoded(size: tuple[int, int]) -> None:
    """PR7."""
    content = bomb(*size)
    tracemalloc.start()
    with pytest.raises(UnusableImage, match=str(PIXELS_MAX)):
        embed_image(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(photo(1), "TIFF"),
        encoded(photo(1), "BMP"),
    ],
    ids=["empty", "text", "svg", "tiff", "bmp"],
)
def test_other_formats_are_refused(content: bytes) -> None:
    with pytest.raises(UnusableImage, match="not an image in one of the formats JPEG, PNG, GIF, WEBP"):
        embed_image(content)


SAMPLES = [encoded(photo(2).resize((48, 36)), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP")]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=400)
def test_a_damaged_file_gives_a_vector_or_a_reason(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample)
    for place in data.draw(st.lists(st.integers(0, len(sample) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(1, len(sample)))]
    with contextlib.suppress(UnusableImage):
        vector = embed_image(bytes(damaged))
        assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_cut_off_file_is_refused() -> None:
    with pytest.raises(UnusableImage, match="damaged image"):
        embed_image(encoded(photo(1))[:2000])
