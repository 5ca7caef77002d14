"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, at about memory speed in numpy.

Source: RFC 3720, appendix B.4.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_FOLD = (5685, 1362, 426)
"""x^5685 + x^1362 + x^426 + 1 is a multiple of the CRC-32C polynomial, 0x11EDC6F41."""


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """CRC-32C (Castagnoli, RFC 3720) of bytes, at about memory speed for large ones.

    The bytes are one polynomial over GF(2), of which the remainder counts. As
    x^a = x^b + x^c + 1 modulo the CRC's polynomial, leading bytes can be xored onto the bytes
    a - b, a - c and a places further on instead of being divided. Squaring keeps that identity, so
    it holds in whole bytes as well as in bits. The last few thousand bytes go through a table.
    """
    rest = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    crc = 0xFFFFFFFF
    if rest.size > _FOLD[0]:
        rest = rest.copy()
        rest[:4] ^= 0xFF
        crc = 0
    for stride in (32, 1):
        a, b, c = (stride * exponent for exponent in _FOLD)
        start = 0
        while (count := min(a - b, rest.size - start - a)) > 0:
            lead = rest[start : start + count]
            for target in (start + a - b, start + a - c, start + a):
                rest[target : target + count] ^= lead
            start += count
        rest = rest[start:]
    table = _crc_table()
    for byte in rest.tobytes():
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
