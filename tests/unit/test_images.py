"""Pictures that nobody vouches for."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from uedpo.data.images import MAX_BYTES, check_image, find_image, load_image
from uedpo.data.rejects import RowProblem


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(size=(40, 30), mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def code(source, decode=False):
    with pytest.raises(RowProblem) as caught:
        check_image(source, decode)
    assert caught.value.field == "image"
    return caught.value.code


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"\0" * 400, "starts with 0000000000000000"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"%PDF-1.7", "a PDF, not a picture"),
        (b"\xff\xd8\xff\xe0 cut", "a JPEG that is damaged or cut short"),
        (encoded(noise(), "BMP"), "a BMP picture; use JPEG"),
        (b"\0\0\0\x18ftypheic", "a HEIC or AVIF picture"),
    ],
)
def test_what_is_no_picture_is_named(data, kind):
    assert code(data) == "IMAGE_UNREADABLE"
    with pytest.raises(RowProblem, match=kind):
        check_image(data)


def test_formats_without_need_are_refused():
    assert code(encoded(noise(), "TIFF")) == "IMAGE_UNREADABLE"
    assert code(encoded(noise(), "BMP")) == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files_are_found_without_asking_for_a_decode(format):
    data = encoded(noise((200, 150)), format)
    check_image(data)
    assert load_image(data).mode == "RGB"
    for share in (0.3, 0.6, 0.9):
        assert code(data[: int(share * len(data))]) == "IMAGE_UNREADABLE"


def test_broken_inside_is_found_by_decoding_only():
    data = bytearray(encoded(noise((200, 150)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    check_image(bytes(data))
    assert code(bytes(data), decode=True) == "IMAGE_UNREADABLE"
    with pytest.raises(RowProblem, match="cannot be decoded"):
        load_image(bytes(data))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((10_001, 5_000), "IMAGE_TOO_LARGE"), ((65_535, 65_535), "IMAGE_TOO_LARGE"),
        ((2**31 - 1, 4), "IMAGE_TOO_LARGE"), ((1, 1), "IMAGE_TOO_SMALL"), ((3, 100), "IMAGE_TOO_SMALL"),
        ((4, 401), "IMAGE_ASPECT"),
    ],
)  # fmt: skip
def test_sizes_are_refused_by_the_header(size, wanted):
    assert code(png_header(*size)) == wanted


def test_sizes_at_the_limits_are_taken():
    for size in ((4, 400), (4, 4), (400, 4)):
        check_image(encoded(noise(size), "PNG"), decode=True)
    check_image(png_header(10_000, 5_000))


def test_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(), "PNG"))
    os.truncate(path, MAX_BYTES + 1)
    assert code(path) == "IMAGE_TOO_LARGE"


def test_text_chunks_do_not_unfold():
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 50_000_000, zip=True)
    assert code(encoded(noise(), "PNG", pnginfo=info)) == "IMAGE_UNREADABLE"


def test_16_bit_is_scaled_not_clipped():
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert check_image(data) == "16-bit"
    assert np.array_equal(np.asarray(load_image(data))[..., 0], (ramp / 257).round().astype(np.uint8))


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert load_image(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert check_image(encoded(half, "PNG")) == "transparent"
    assert load_image(encoded(half, "PNG")).getpixel((0, 0)) == (255, 127, 127)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 255] * 256)
    assert load_image(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_is_converted_and_counted():
    data = encoded(noise(mode="CMYK"), "JPEG")
    assert check_image(data) == "CMYK"
    assert load_image(data).mode == "RGB"


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert check_image(data) == "animated"
    assert load_image(data).getpixel((4, 4)) == (255, 0, 0)


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(noise((60, 40)), "JPEG", exif=exif)).size == (40, 60)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_other_modes_become_rgb(mode):
    image = noise(mode="L").convert("P").convert("PA") if mode == "PA" else noise().convert(mode)
    assert load_image(encoded(image, "WEBP" if mode == "PA" else "PNG")).mode == "RGB"


def test_only_regular_files_inside_the_root(tmp_path):
    root = (tmp_path / "imgs").resolve()
    root.mkdir()
    (root / "a.png").write_bytes(encoded(noise(), "PNG"))
    for outside in (tmp_path / "imgs_evil", tmp_path / "b.png"):
        outside.write_bytes(encoded(noise(), "PNG"))
    (root / "inner.png").symlink_to(root / "a.png")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    (root / "null.png").symlink_to("/dev/null")
    assert find_image(root, "a.png") == find_image(root, "inner.png") == root / "a.png"
    assert find_image(root, "./x/../a.png") == root / "a.png"
    for path, wanted in {
        "../b.png": "IMAGE_MISSING", "../imgs_evil": "IMAGE_MISSING", f"{tmp_path}/b.png": "IMAGE_MISSING",
        "/etc/passwd": "IMAGE_MISSING", "~/a.png": "IMAGE_MISSING", "link.png": "IMAGE_MISSING",
        "loop.png": "IMAGE_MISSING", "null.png": "IMAGE_MISSING", "a\0.png": "IMAGE_MISSING",
        "a" * 5000: "IMAGE_MISSING", "pipe.png": "IMAGE_NOT_A_FILE", ".": "IMAGE_NOT_A_FILE",
        "": "IMAGE_TYPE", " ": "IMAGE_TYPE",
    }.items():  # fmt: skip
        with pytest.raises(RowProblem) as caught:
            find_image(root, path)
        assert caught.value.code == wanted, path
        assert len(str(caught.value)) < 600


def test_a_file_swapped_for_a_pipe_or_link_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert code(tmp_path / "pipe.png") == "IMAGE_NOT_A_FILE"
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    assert code(tmp_path / "link.png") == "IMAGE_MISSING"
