"""Structures of texts and numbers from a MATLAB file of level 5, such as ImageNet's meta.mat. Never imports torch.

The format: "MAT-File Format" of The MathWorks. A file is a header and elements; an element is its kind, its length and
its bytes; those of a matrix are elements again.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADER, LIMIT = 128, 1 << 26  # bytes; LIMIT: most that a compressed element may unpack to
COMPRESSED, MATRIX = 15, 14  # kinds of elements
STRUCTURE, CHARACTERS = 2, 4  # classes of matrices
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
Value = str | float | None


class Element(NamedTuple):
    """Kind and content of a part of the file."""

    kind: int
    data: bytes


def read_structures(content: bytes) -> list[dict[str, Value]]:
    """The rows of the first array of structures: field -> text, first number, or None for what is empty or neither.

    ValueError if this is no such file.
    """
    if content[HEADER - 2 : HEADER] != b"IM":
        raise ValueError("no little-endian MATLAB file of level 5")
    for element in elements(content[HEADER:]):
        parts = list(elements(element.data)) if element.kind == MATRIX else []
        if parts and parts[0].data[:1] == bytes([STRUCTURE]):
            return rows(parts)
    raise ValueError("it holds no structures")


def elements(data: bytes) -> Iterator[Element]:
    """The elements that bytes consist of; compressed ones unpacked. ValueError where they are cut."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut")
        kind, length = struct.unpack_from("<II", data, place)
        if kind >> 16:  # a small element: length, kind and up to 4 bytes in 8
            yield Element(kind & 0xFFFF, data[place + 4 : place + 4 + (kind >> 16)])
            place += 8
            continue
        place += 8
        content = data[place : place + length]
        if len(content) < length:
            raise ValueError("it is cut")
        if kind == COMPRESSED:
            yield from elements(unpacked(content))
            place += length
        else:
            yield Element(kind, content)
            place += length + -length % 8


def unpacked(data: bytes) -> bytes:
    """What zlib compressed. ValueError if it is damaged or larger than LIMIT."""
    try:
        unpacking = zlib.decompressobj()
        result = unpacking.decompress(data, LIMIT)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof:
        raise ValueError("it is cut or too large")
    return result


def rows(parts: list[Element]) -> list[dict[str, Value]]:
    """The structures of a matrix of them: its flags, shape, name, length of field names, field names, then values."""
    width = int.from_bytes(parts[3].data, "little")
    joined = parts[4].data
    names = [joined[i : i + width].split(b"\0")[0].decode() for i in range(0, len(joined), width)] if width else []
    values = [value(part) for part in parts[5:]]
    if not names or len(values) % len(names):
        raise ValueError("its structures are not complete")
    return [dict(zip(names, values[i : i + len(names)], strict=True)) for i in range(0, len(values), len(names))]


def value(element: Element) -> Value:
    """The text of a matrix of characters, the first number of a numeric one; None if it is empty or neither."""
    parts = list(elements(element.data))
    if len(parts) < 4 or not parts[3].data:
        return None
    matrix_class, (kind, data) = parts[0].data[0], parts[3]
    if matrix_class == CHARACTERS and kind in TEXTS:
        return data.decode(TEXTS[kind])
    return float(np.frombuffer(data, NUMBERS[kind])[0]) if kind in NUMBERS else None
