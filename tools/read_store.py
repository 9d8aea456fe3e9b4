#!/usr/bin/python3
"""Reads a ttserver data directory as docs/format.md describes it, and checks all checksums.

    read_store.py DIR        prints the records as a client would see them, a line each

read(DIR) yields (key, value, flags, expires_ms, attributes, cas), by key. No server may run on DIR.
Needs Debian's python3-xxhash.
"""

import os
import struct
import sys
import time
from collections import namedtuple

from xxhash import xxh3_64_intdigest as xxh3

Stamp = namedtuple("Stamp", "version node epoch")  # in the order of comparison
Segment = namedtuple("Segment", "number data start first_seq previous flushes clock compacted")
Record = namedtuple("Record", "kind seq flags expires base logged cut big slots key attrs value")


class Damage(Exception):
    pass


def check(condition, *what):
    if not condition:
        raise Damage(" ".join(map(str, what)))


def stamp_at(data, at):
    version, epoch, node = struct.unpack_from("<QIH", data, at)
    return Stamp(version, node, epoch)


def read_store_file(directory):
    text = open(os.path.join(directory, "STORE"), "rb").read()
    before, _, total = text.rpartition(b"checksum ")
    check(text.startswith(b"ttserver store\nformat 1\n"), "STORE is of another program or format")
    check(int(total, 16) == xxh3(before), "STORE is damaged")
    fields = dict(line.split(" ", 1) for line in before.decode().splitlines())
    return bytes.fromhex(fields["uuid"]), int(fields["segments"]), fields["sync"]


def read_segment(path, uuid):
    """A segment with its header's fields. None: it has no good header."""
    data = open(path, "rb").read()
    if len(data) < 192 or data[:8] != b"TTSEGM01":
        return None
    total, length, form, number, bits, vectors = struct.unpack_from("<QIIQII", data, 8)
    if total != xxh3(data[16:length]):
        return None
    check(form == 1 and length == 192 + vectors and data[40:56] == uuid, path, "is not ours")
    first_seq, *previous = struct.unpack_from("<QQQQ", data, 64)
    flushes = stamp_at(data, 120), stamp_at(data, 134), *struct.unpack_from("<q", data, 148)
    clock, = struct.unpack_from("<Q", data, 104)
    last_seq, _, end = struct.unpack_from("<QQQ", data, 156)
    return Segment(number, data, length, first_seq, previous, flushes, clock,
                   (last_seq, end) if bits & 2 else None)


def read_record(data, offset, salt):
    """The good record that stands there and its length, or (None, 0)."""
    if len(data) - offset < 76 or data[offset:offset + 4] != b"TTR1":
        return None, 0
    (total, kind, bits, extra, key_len, attrs_len, value_len, flags, seq, expires,
     body_sum) = struct.unpack_from("<QBBHIIIIQq20xQ", data, offset + 4)
    base, at, body = stamp_at(data, offset + 48), offset + 76, offset + 76 + extra
    end = body + key_len + attrs_len + value_len
    if (total != xxh3(data[offset + 12:body], salt) or bits & ~0x4f or end > len(data)
            or body_sum != xxh3(data[body:end])):
        return None, 0
    logged, big, slots = base, None, []
    if bits & 1:
        logged, at = stamp_at(data, at), at + 14
    at += 14 if bits & 2 else 0
    if bits & 4:
        big, at = struct.unpack_from("<QQQ", data, at), at + 24
    for i in range(data[at] if bits & 8 else 0):
        slots.append((stamp_at(data, at + 1 + 22 * i),
                      *struct.unpack_from("<q", data, at + 15 + 22 * i)))
    attrs, value = body + key_len, body + key_len + attrs_len
    return Record(kind, seq, flags, expires, base, logged, bits & 64, big, slots,
                  data[body:attrs], data[attrs:value], data[value:end]), end - offset


def segments_in_order(directory, uuid, newest):
    """Without those that a compacted one stands for."""
    found = []
    for name in sorted(os.listdir(os.path.join(directory, "log"))):
        segment = read_segment(os.path.join(directory, "log", name), uuid)
        check(segment or int(name[:8]) > newest, name, "has no good header")
        check(not segment or segment.number == int(name[:8]), name, "has another number")
        found += [segment] if segment else []
    check(newest in [s.number for s in found], "segment", newest, "is missing")
    ranges = [(s.number, s.first_seq, s.compacted[0]) for s in found if s.compacted]
    found = [s for s in found if not any(s.number < number and first <= s.first_seq <= last
                                         for number, first, last in ranges)]
    found.sort(key=lambda s: (s.first_seq, s.number))
    for before, s in zip([None] + found, found):
        if before and before.compacted:
            check(s.previous[2] == before.compacted[0], "before", s.number, "one is missing")
        else:
            check(s.previous[0] == (before.number if before else 0), "no one before", s.number)
    return found


def read_log(directory, uuid, newest, sync):
    """All segments' headers and all records, in the log's order."""
    segments, salt = segments_in_order(directory, uuid, newest), xxh3(uuid)
    for s, after in zip(segments, segments[1:] + [None]):
        end = s.compacted[1] if s.compacted else after.previous[1] if after else len(s.data)
        offset, seq = s.start, s.first_seq
        yield s
        while offset < end:
            record, length = read_record(s.data, offset, salt)
            good = record and (record.seq >= seq if s.compacted else record.seq == seq)
            if not good and not s.compacted and (not after or sync != "always"):
                return  # the end of the log, or what was unfinished when the server ended
            check(good, "segment", s.number, "offset", offset, "no good record stands here")
            yield record
            offset, seq = offset + length, record.seq + 1


def read_big(directory, uuid, record):
    number, length, total = record.big
    segment = read_segment(os.path.join(directory, "big", f"{number:016x}.val"), uuid)
    inner, _ = read_record(segment.data, segment.start, xxh3(uuid)) if segment else (None, 0)
    check(inner and segment.number == number and inner.key == record.key and
          len(inner.value) == length and
          xxh3(inner.key + inner.attrs + inner.value) == total, "big value", number, "is damaged")
    return inner.value


def read_attributes(data, at=0):
    found = {}
    while at < len(data):
        tag, length = struct.unpack_from("<BH", data, at)
        found[tag], at = data[at + 3:at + 3 + length], at + 3 + length
    return found


def read(directory, now_ms=None):
    uuid, newest, sync = read_store_file(directory)
    live, clock, flush, pending, moment = {}, 0, Stamp(0, 0, 0), Stamp(0, 0, 0), 0
    for r in read_log(directory, uuid, newest, sync):
        if isinstance(r, Segment):
            clock, flush = max(clock, r.clock), max(flush, r.flushes[0])
            if r.flushes[1] >= pending:
                _, pending, moment = r.flushes
            continue
        clock = max(clock, r.base.version, r.logged.version)
        if 0 < moment <= r.logged.version >> 16:
            flush, moment = max(flush, Stamp(moment << 16, 0, 0)), 0
        if r.kind == 5:
            flush = max(flush, r.base) if r.expires == 0 else flush
            pending, moment = max((pending, moment), (r.base, r.expires))
        elif r.kind == 4 and r.key in live and live[r.key].base == r.base:
            live[r.key] = live[r.key]._replace(expires=r.expires)
        elif r.kind == 2 or r.cut:
            live.pop(r.key, None)
        elif r.kind in (1, 3):
            live[r.key] = r
    now_ms = max(now_ms or int(time.time() * 1000), clock >> 16)
    if 0 < moment <= now_ms:
        flush = max(flush, Stamp(moment << 16, 0, 0))
    for key, r in sorted(live.items()):
        if r.base <= flush or (r.expires != 0 and r.expires <= now_ms):
            continue
        attributes = read_attributes(r.attrs)
        value = read_big(directory, uuid, r) if r.big else r.value
        if r.kind == 3:
            value = b"%d" % (max(0, int(value) + sum(n for _, n in r.slots)) % 2**64)
        cas = int.from_bytes(attributes.get(5, r.base.version.to_bytes(8, "little")), "little")
        cas += sum(stamp.version - r.base.version for stamp, _ in r.slots)
        yield key, value, r.flags, r.expires, attributes, cas % 2**64


if __name__ == "__main__":
    for record in read(sys.argv[1]):
        print(record[0], len(record[1]), *record[2:], record[1][:40])
