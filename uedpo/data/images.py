"""Images from files that nobody vouches for: found, checked and decoded without surprises.

A path stays inside its root, links followed; only regular files are opened, and nothing is fetched.
Size limits are read off the header, before anything is decoded.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from uedpo.data.rejects import RowProblem
from uedpo.errors import InputError, local_path

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 4
MAX_SCANS = 64  # of a progressive JPEG; encoders make about ten
MAX_READS = 200_000  # of pieces of a file; a PNG of 64 MiB has some 30,000
MAX_ASPECT = 100
BACKGROUND = (255, 255, 255, 255)  # what shows through where an image is transparent

_URL = re.compile(r"\s*(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//|\\\\)")
_KINDS = {
    b"<svg": "an SVG drawing", b"<html": "an HTML page", b"<!doctype": "an HTML page", b"%pdf": "a PDF",
    b"version https://git-lfs": "a Git LFS pointer (fetch the files with git lfs pull)",
    b"<?xml": "an XML file", b"pk\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file", b"{": "a JSON file",
}  # fmt: skip
_DAMAGED = {
    magic: f"a {name} that is damaged or cut short"
    for magic, name in ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"RIFF", "WEBP"))
}
_OTHER_PICTURES = {b"II*\0": "a TIFF picture", b"MM\0*": "a TIFF picture", b"BM": "a BMP picture"}


def image_folder(image_root: str | None, default: Path) -> Path:
    """The resolved folder that paths of images start from.

    Raises:
        InputError: there is no such folder.
    """
    folder = default if image_root is None else local_path(image_root)
    if image_root is not None and not folder.is_dir():
        raise InputError(
            f"data.image_root={image_root}: no such folder; name the one that the paths of images start from"
        )
    return folder.resolve()


def find_image(root: Path, value: object) -> Path:
    """The regular file `value` names, inside `root` with links followed.

    Args:
        root: resolved folder.

    Raises:
        RowProblem: IMAGE_TYPE, IMAGE_URL, IMAGE_MISSING or IMAGE_NOT_A_FILE.
    """
    if not isinstance(value, str) or not value.strip():
        raise RowProblem("image", "IMAGE_TYPE", f"must be a path relative to {root}, or null")
    if _URL.match(value):
        raise RowProblem(
            "image", "IMAGE_URL", f"{_short(value)} is an address; nothing is fetched, store the files first"
        )
    try:
        path = (root / value).resolve()
        mode = path.stat().st_mode if path.is_relative_to(root) else None
    except (OSError, ValueError, RuntimeError):  # no file, NUL, too long, a loop of links
        mode = None
    if mode is None:
        whole = value.startswith("/") and not value.startswith(f"{root}/")
        folder = "a folder above all images" if whole else "the folder that paths start from"
        remedy = f"add the file, or set data.image_root to {folder}"
        raise RowProblem("image", "IMAGE_MISSING", f"{_short(value)} is not a file inside {root}; {remedy}")
    if not stat.S_ISREG(mode):
        raise RowProblem("image", "IMAGE_NOT_A_FILE", f"{_short(value)} is no regular file; give a picture")
    return path


def check_image(source: Path | bytes, decode: bool = False) -> str | None:
    """What a picture is beside plain 8-bit RGB (None for nothing), from its header.

    Decodes only if asked to, or where the end of the file is not that of its format.

    Raises:
        RowProblem: the file cannot be used.
    """
    with _opened(source) as (file, image):
        what = _conversion(image)
        if decode or not _ends_well(file, image.format):
            _rgb(image)
        return what


def load_image(source: Path | bytes) -> Image.Image:
    """The picture as 8-bit RGB [width x height]: first frame, EXIF rotation applied, 16 bit scaled to 8,
    transparency on white.

    Raises:
        RowProblem: the file cannot be used.
    """
    with _opened(source) as (_, image):
        return _rgb(image)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[BinaryIO, Image.Image]]:
    file = io.BytesIO(source) if isinstance(source, bytes) else _regular(source)
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size == 0:
            raise RowProblem("image", "IMAGE_UNREADABLE", f"{_name(source)}is empty (0 bytes); replace it")
        if size > MAX_BYTES:
            raise RowProblem(
                "image", "IMAGE_TOO_LARGE", f"{_name(source)}has {size} bytes, allowed {MAX_BYTES}; shrink it"
            )
        try:
            # a truncated picture must be an error whatever other libraries set
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            image = Image.open(_Pieces(file), formats=FORMATS)
        except RowProblem as problem:
            raise RowProblem("image", problem.code, f"{_name(source)}{problem.detail}") from None
        except Exception as error:  # Pillow's plugins raise anything on garbage
            file.seek(0)
            kind = _kind(file.read(512))
            reason = f" ({_line(error)})" if isinstance(error, Image.DecompressionBombError) else ""
            code = "IMAGE_TOO_LARGE" if reason else "IMAGE_UNREADABLE"
            raise RowProblem(
                "image", code, f"{_name(source)}is {kind}{reason}; use {', '.join(FORMATS)}"
            ) from None
        try:
            _check_size(*image.size)
            _check_scans(file, image)
            yield file, image
        except RowProblem as problem:
            raise RowProblem("image", problem.code, f"{_name(source)}{problem.detail}") from None
        finally:
            image.close()


class _Pieces:
    """A file that is read in so many pieces and no more: Pillow goes through millions of them one by one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MAX_READS

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            said = f"is made of more than {MAX_READS} pieces; save it anew"
            raise RowProblem("image", "IMAGE_TOO_LARGE", said)
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _regular(path: Path) -> BinaryIO:
    """Open without following a link or waiting for a pipe, both of which `find_image` has excluded before."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "became a link" if error.errno == errno.ELOOP else str(error.strerror)
        raise RowProblem(
            "image", "IMAGE_MISSING", f"{_name(path)}cannot be opened ({reason}); restore it"
        ) from None
    if path.is_absolute() and os.path.realpath(path.parent) != str(path.parent):
        os.close(handle)
        said = f"{_name(path)}is behind a folder that became a link; restore it"
        raise RowProblem("image", "IMAGE_MISSING", said)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RowProblem("image", "IMAGE_NOT_A_FILE", f"{_name(path)}is no regular file; give a picture")
    return os.fdopen(handle, "rb")


def _check_scans(file: BinaryIO, image: Image.Image) -> None:
    """A progressive JPEG is decoded once a scan, each as long as the whole picture."""
    if "progressive" not in image.info:
        return
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")  # inside a scan 0xff stands before 0x00 only
    file.seek(place)
    if scans > MAX_SCANS:
        said = f"is a JPEG of {scans} scans, allowed {MAX_SCANS}; save it anew"
        raise RowProblem("image", "IMAGE_TOO_LARGE", said)


def _check_size(width: int, height: int) -> None:
    size = f"is {width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise RowProblem("image", "IMAGE_TOO_LARGE", f"{size}, allowed {MAX_PIXELS} in all; shrink it")
    if min(width, height) < MIN_SIDE:
        raise RowProblem("image", "IMAGE_TOO_SMALL", f"{size}, at least {MIN_SIDE} a side; leave the row out")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RowProblem(
            "image", "IMAGE_ASPECT", f"{size}, sides differ more than {MAX_ASPECT} fold; crop it"
        )


def _conversion(image: Image.Image) -> str | None:
    try:
        if getattr(image, "is_animated", False):
            image.seek(0)  # asking has moved to the second frame
            return "animated"
        if _is_16_bit(image):
            return "16-bit"
        return "transparent" if image.has_transparency_data else "CMYK" if image.mode == "CMYK" else None
    except RowProblem:
        raise
    except Exception as error:
        raise _unreadable(error) from None


def _rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
        _check_size(*image.size)  # a frame may be larger than its header said
        ImageOps.exif_transpose(image, in_place=True)
        if _is_16_bit(image):
            # convert("RGB") would clip at 255
            grey = (np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", clear.size, BACKGROUND), clear).convert("RGB")
        return image.convert("RGB")
    except RowProblem:
        raise
    except Exception as error:  # Pillow's decoders raise anything on garbage
        raise _unreadable(error) from None


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _unreadable(error: Exception) -> RowProblem:
    return RowProblem("image", "IMAGE_UNREADABLE", f"cannot be decoded ({_line(error)}); replace it")


def _ends_well(file: BinaryIO, format: str | None) -> bool:
    """Whether a file ends as its format does; else it may be truncated, which only decoding tells."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 64, 0))
    tail = file.read()
    file.seek(0)
    head = file.read(12)
    if format == "PNG":
        return b"IEND" in tail
    if format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return tail.rstrip(b"\0").endswith(b";") if format == "GIF" else b"\xff\xd9" in tail


def _kind(head: bytes) -> str:
    for magic, kind in (_DAMAGED | _OTHER_PICTURES).items():
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF picture, or a film"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, kind in _KINDS.items():
        if start.startswith(magic):
            return f"{kind}, not a picture"
    return f"a file that starts with {head[:8].hex()}, not a picture"


def _name(source: Path | bytes) -> str:
    return "" if isinstance(source, bytes) else f"{_short(source.name)} "


def _short(value: Any) -> str:
    text = repr(str(value))
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _line(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text and text[0] else type(error).__name__
