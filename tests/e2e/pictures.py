"""Real picture files of the types that the pages take."""

import functools
import io
import random

from PIL import Image, ImageDraw

TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "svg": "image/svg+xml",
    "bmp": "image/bmp",
}

BIG_BYTES = 8 * 1024 * 1024


def _drawing():
    image = Image.new("RGB", (160, 120), "white")
    draw = ImageDraw.Draw(image)
    for i in range(0, 160, 8):
        draw.line((i, 0, 159 - i, 119), fill=(i, 255 - i, 128), width=3)
    draw.ellipse((40, 30, 120, 90), fill="orange", outline="black")
    return image


def _encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _svg():
    # Long enough, and so regular, that php-memcached would compress it if it were allowed to.
    circles = "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="#{x:02x}{y:02x}80"/>\n'
                      for x in range(5, 155, 10) for y in range(5, 115, 10))
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
            f'width="160" height="120">\n{circles}</svg>\n').encode()


@functools.lru_cache(maxsize=None)
def small():
    """{extension: bytes}, one file of each type."""
    image = _drawing()
    return {
        "jpg": _encoded(image, "JPEG", quality=90),
        "png": _encoded(image, "PNG"),
        "gif": _encoded(image.quantize(64), "GIF"),
        "webp": _encoded(image, "WEBP"),
        "svg": _svg(),
        "bmp": _encoded(image, "BMP"),
    }


@functools.lru_cache(maxsize=None)
def big():
    """A JPEG file of 8 MB and a little."""
    noise = Image.effect_noise((2500, 2500), 100)
    data = _encoded(noise, "JPEG", quality=96)
    # The decoder stops at the end mark; what a camera appends behind it is not looked at.
    assert len(data) < BIG_BYTES + 4096
    return data + random.Random(8).randbytes(BIG_BYTES + 4096 - len(data))


def numbered(n):
    """A small JPEG file that differs from all others by its contents."""
    image = Image.new("RGB", (16, 16), (n % 256, n // 256 % 256, 77))
    return _encoded(image, "JPEG", comment=b"picture %d" % n)


def check(data):
    """Fails if a decoder does not read these bytes as a picture."""
    if b"<svg" in data[:200]:
        assert data.rstrip().endswith(b"</svg>")
        return
    Image.open(io.BytesIO(data)).load()
