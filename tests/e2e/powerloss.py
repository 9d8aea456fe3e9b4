"""What a power cut leaves on a disk.

The library tests/faults/powerloss.c writes a journal of all that a server does to its directory.
Journal reads it. A Disk follows it event by event, and at any of them gives a State: the files as
they might be found if the power had failed there.

What is promised to stay is only what was synced: the data of a file by fsync or fdatasync of it, a
name by fsync of its directory. Of everything else any part may be there:

- a file's data: each sector of 512 bytes has the contents of any moment since its last sync;
- its length: that of any moment since; what is missing then reads as zeros;
- names: either any first part of all changes, in their order (what a file system with a journal
  does), or any of them without the others.

    powerloss.py JOURNAL BASE EVENT SEED OUT

builds a state again that a test has told about.
"""

import mmap
import os
import pathlib
import random
import struct
import sys

import harness

SECTOR = 512

(CREATE, MKDIR, WRITE, ZEROS, TRUNCATE, RENAME, LINK, UNLINK, SYNC_BEGIN, SYNC_END, SYNC_RANGE,
 UNKNOWN) = range(1, 13)
NAMES = ["", "create", "mkdir", "write", "zeros", "truncate", "rename", "link", "unlink",
         "sync-begin", "sync-end", "sync-range", "unknown"]

_HEAD = struct.Struct("<IIQQQII")
_MAGIC = 0x4C575054


def library():
    """The path of powerloss.so, or None: it is built with the unit tests."""
    beside = pathlib.Path(harness.TTSERVER).parent / "tests" / "faults" / "powerloss.so"
    return next((path for path in (beside, harness.ROOT / "build/asan/tests/faults/powerloss.so")
                 if path.exists()), None)


class Event:
    __slots__ = ("number", "kind", "inode", "a", "b", "first", "second", "end")

    def __repr__(self):
        what = self.first if self.kind in (CREATE, MKDIR, RENAME, LINK, UNLINK, UNKNOWN) else ""
        return f"{self.number} {NAMES[self.kind]} inode {self.inode} {self.a} {self.b} {what} " \
               f"{self.second}"


class Journal:
    """The events of a journal; `end` of each is its place. A half event at the end is left out."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.events = list(self._read())

    def _read(self):
        at = number = 0
        while at + _HEAD.size <= len(self.bytes):
            e = Event()
            magic, e.kind, e.inode, e.a, e.b, len1, len2 = _HEAD.unpack_from(self.bytes, at)
            assert magic == _MAGIC, f"no event at {at} of the journal"
            middle = at + _HEAD.size + len1
            e.end = middle + len2
            if e.end > len(self.bytes):
                return
            e.first = self.bytes[at + _HEAD.size:middle]
            e.second = bytes(self.bytes[middle:e.end]).decode()
            if e.kind != WRITE:
                e.first = bytes(e.first).decode()
            e.number = number
            number += 1
            at = e.end
            assert e.kind != UNKNOWN, f"powerloss.c has no model for: {e.first}"
            yield e


class Change:
    """A change of a file's data that is not known to be synced."""

    __slots__ = ("number", "offset", "length", "data", "durable")

    def __init__(self, number, offset, length, data):
        self.number = number
        self.offset = offset
        self.length = length    # None: the file's size becomes `offset`
        self.data = data        # None: zeros
        self.durable = False

    def apply(self, content):
        if self.length is None:
            resize(content, self.offset)
            return
        end = self.offset + self.length
        if len(content) < end:
            resize(content, end)
        content[self.offset:end] = self.data if self.data is not None else bytes(self.length)

    def size_after(self, size):
        return self.offset if self.length is None else max(size, self.offset + self.length)


def resize(content, size):
    if len(content) > size:
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class File:
    """Its synced contents, and the changes since."""

    def __init__(self, content=b""):
        self.content = bytearray(content)
        self.changes = []

    def synced(self, before):
        """Everything up to that event is on the disk."""
        n = 0
        while n < len(self.changes) and self.changes[n].number < before:
            self.changes[n].apply(self.content)
            n += 1
        del self.changes[:n]

    def synced_range(self, offset, length):
        for change in reversed(self.changes):
            if (change.offset, change.length) == (offset, length):
                change.durable = True
                return

    def live(self):
        content = bytearray(self.content)
        for change in self.changes:
            change.apply(content)
        return content

    def after_crash(self, rng):
        """Contents that a power cut may leave."""
        if not self.changes:
            return self.content
        forced = max((n + 1 for n, change in enumerate(self.changes) if change.durable), default=0)
        count = len(self.changes)
        style = rng.choice(["lost", "kept", "first", "last", "any", "any", "sectors"])
        middle = rng.randrange(count + 1)
        sized = {"lost": forced, "kept": count, "last": count}.get(style, middle)
        if style in ("any", "sectors") and rng.random() < 0.5:
            sized = count
        if style == "first":
            sized = min(count, middle + rng.randrange(2))
        sized = max(sized, forced)
        live, out = bytearray(self.content), bytearray(self.content)
        size, limit = len(out), None
        for n, change in enumerate(self.changes):
            change.apply(live)
            if n < sized:
                size = change.size_after(size)
            if change.length is None:
                if n < sized:
                    change.apply(out)
                else:  # behind it nothing new can be found: the old blocks are still the file's
                    limit = min(change.offset, limit if limit is not None else change.offset)
                continue
            share = {"lost": 0, "kept": 1, "first": n < middle, "last": n >= middle,
                     "any": rng.choice([0, 1, 0.5]), "sectors": 0.5}[style]
            if style in ("first", "last") and n == middle:
                share = 0.5
            if change.durable:
                share = 1
            for start, end in some_sectors(rng, change.offset, change.length, share):
                end = min(end, len(live) if limit is None else limit - limit % SECTOR)
                if start < end:
                    if len(out) < start:
                        resize(out, start)
                    out[start:end] = live[start:end]
        resize(out, size)
        return out


def some_sectors(rng, offset, length, share):
    """Ranges of whole sectors out of those that a write touches."""
    first, behind = offset // SECTOR, -(-(offset + length) // SECTOR)
    if share == 0 or first == behind:
        return
    if share == 1:
        yield first * SECTOR, behind * SECTOR
        return
    cuts = sorted({first, behind} | {rng.randint(first, behind) for _ in range(rng.choice([1, 6]))})
    keep = rng.random() < 0.5
    for start, end in zip(cuts, cuts[1:]):
        if keep:
            yield start * SECTOR, end * SECTOR
        keep = not keep


class Directory:
    pass


class Names:
    """A change of names: parts (path, node; None: it goes), the last of a rename being the old
    name's end."""

    def __init__(self, number, *parts):
        self.number = number
        self.parts = parts
        self.durable = [False] * len(parts)


def parent(path):
    return path.rpartition("/")[0]


class Disk:
    """What is on the disk and what only in memory, event by event."""

    def __init__(self, root):
        """Begins with the present contents of that directory, all of it taken as synced."""
        self.durable = {}   # path: node
        self.inodes = {}    # inode: (node, path)
        self.pending = []   # Names not wholly synced, and those before them
        self.syncs = {}     # number of a sync under way: event of its beginning
        root = pathlib.Path(root)
        self._add(root, "")
        for path in sorted(root.rglob("*")):
            if path.name != "lock.mdb":
                self._add(path, str(path.relative_to(root)))
        self.names = dict(self.durable)

    def _add(self, path, name):
        node = Directory() if path.is_dir() else File(path.read_bytes())
        self.durable[name] = node
        self.inodes[path.stat().st_ino] = (node, name)

    def apply(self, e):
        node = self.inodes.get(e.inode, (None,))[0]
        if e.kind == WRITE:
            node.changes.append(Change(e.number, e.a, len(e.first), e.first))
        elif e.kind == ZEROS:
            node.changes.append(Change(e.number, e.a, e.b, None))
        elif e.kind == TRUNCATE:
            node.changes.append(Change(e.number, e.a, None, None))
        elif e.kind == SYNC_BEGIN:
            self.syncs[e.a] = e.number
        elif e.kind == SYNC_END:
            self._synced(e.inode, self.syncs.pop(e.a))
        elif e.kind == SYNC_RANGE:
            node.synced_range(e.a, e.b)
        elif e.kind in (CREATE, MKDIR):
            node = File() if e.kind == CREATE else Directory()
            self.inodes[e.inode] = (node, e.first)
            self._rename(Names(e.number, (e.first, node)))
        elif e.kind == RENAME:
            self._rename(Names(e.number, (e.second, self.names[e.first]), (e.first, None)))
        elif e.kind == LINK:
            self._rename(Names(e.number, (e.second, self.names[e.first])))
        elif e.kind == UNLINK:
            self._rename(Names(e.number, (e.first, None)))

    def _rename(self, change):
        self.pending.append(change)
        apply_parts(self.names, change.parts)

    def _synced(self, inode, before):
        node, path = self.inodes[inode]
        if isinstance(node, File):
            node.synced(before)
            return
        for change in self.pending:
            for i, (name, _) in enumerate(change.parts):
                if change.number < before and name and parent(name) == path:
                    change.durable[i] = True
            if change.durable == [False, True]:
                change.durable = [True, True]  # an old name goes with the new one's coming only
        while self.pending and all(self.pending[0].durable):
            apply_parts(self.durable, self.pending.pop(0).parts)

    def differences(self, root):
        """Where the files are not as the journal says: a call went past it."""
        found = {str(path.relative_to(root)): path for path in pathlib.Path(root).rglob("*")
                 if path.name != "lock.mdb"}
        wrong = [f"{name}: only on one side" for name in set(found) ^ (set(self.names) - {""})]
        for name in set(found) & set(self.names):
            node = self.names[name]
            if isinstance(node, File) and node.live() != found[name].read_bytes():
                wrong.append(f"{name}: other contents")
        return wrong

    def _names_after_crash(self, rng):
        names = dict(self.durable)
        count = len(self.pending)
        forced = max((n + 1 for n, c in enumerate(self.pending) if any(c.durable)), default=0)
        style = rng.choice(["order", "any"])
        kept = rng.choice([forced, count, rng.randint(forced, count)])
        for n, change in enumerate(self.pending):
            if style == "order":
                parts = change.parts if n < kept else ()
            else:
                some = rng.randint(0, len(change.parts))
                parts = [part for i, part in enumerate(change.parts)
                         if i < some or change.durable[i]]
            apply_parts(names, parts)
        return names

    def after_crash(self, seed, out):
        """Builds in the directory `out`, which must not be there, what a power cut may leave."""
        rng = random.Random(seed)
        names = self._names_after_crash(rng)
        out = pathlib.Path(out)
        out.mkdir(parents=True)
        built = {}
        for name in sorted(names):
            node = names[name]
            if not name or not (out / name).parent.is_dir():
                continue  # its directory is lost
            if isinstance(node, Directory):
                (out / name).mkdir()
            elif node in built:
                os.link(built[node], out / name)
            else:
                (out / name).write_bytes(node.after_crash(rng))
                built[node] = out / name


def apply_parts(names, parts):
    for path, node in parts:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def labels(disk, events):
    """What each event is about, without numbers: ("write", "data/log/.seg")."""
    paths = {inode: path for inode, (_, path) in disk.inodes.items()}
    for e in events:
        if e.kind in (CREATE, MKDIR):
            paths[e.inode] = e.first
        path = paths.get(e.inode, e.first) if e.inode else e.first
        yield NAMES[e.kind], "".join(c for c in path if not c.isdigit())


def choose_cuts(disk, events, count, rng):
    """Numbers of events at which to cut: half of them anywhere in the journal, half near events of
    some kind, rare or not."""
    kinds = {}
    for e, label in zip(events, labels(disk, events)):
        kinds.setdefault(label, []).append(e.number)
    cuts = []
    for n in range(count):
        if n % 2:
            cut = rng.randrange(len(events))
        else:
            cut = rng.choice(kinds[rng.choice(sorted(kinds))]) + rng.randint(-1, 2)
        cuts.append(min(max(cut, 0), len(events) - 1))
    return sorted(cuts)


def main():
    journal, base, event, seed, out = sys.argv[1:]
    disk = Disk(base)
    for e in Journal(journal).events[:int(event) + 1]:
        disk.apply(e)
    disk.after_crash(seed, out)


if __name__ == "__main__":
    main()
