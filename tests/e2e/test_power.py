"""Power cuts: whatever of the unsynced writes a disk may have kept, the server starts on it and has
everything acknowledged.

The server runs under tests/faults/powerloss.c, which journals all that it does to its disk. From
the journal many disks are built that a cut at some moment could leave (powerloss.py), and the real
server opens each. The next run goes on from one of them. POWER_ROUNDS sets the number of runs of
each test, POWER_STATES the number of disks of each run, TEST_SEED repeats the choices of a run (not
its timing).
"""

import os
import random
import shutil

import pytest

import harness
import powerloss
from crash_model import Load

ROUNDS = int(os.environ.get("POWER_ROUNDS", "2"))
STATES = int(os.environ.get("POWER_STATES", "8"))

pytestmark = [pytest.mark.timeout(120 + ROUNDS * (60 + 10 * STATES)),
              pytest.mark.skipif(not powerloss.library(), reason="there is no powerloss.so")]


class Cut:
    """A power cut: the event behind which it came, and what the disk made of the rest."""

    def __init__(self, event, seed):
        self.event = event
        self.seed = seed
        self.found = None       # the records that a server has shown


class PowerTest:
    def __init__(self, new_server, directory, options, strict, rng):
        self.new_server = new_server
        self.directory = directory
        self.options = options
        self.strict = strict    # everything acknowledged must be there
        self.rng = rng
        self.load = Load(rng, 900_000, self.place, flush_every=400)
        self.round = 0
        self.cut = None         # where the run before this one was cut

    def path(self, name):
        return self.directory / f"{name}{self.round}"

    def place(self):
        return os.stat(self.path("journal")).st_size

    def run(self):
        """One run under load. Returns its events and the disk before them."""
        root = self.path("disk")
        shutil.copytree(root, self.path("base"))
        disk = powerloss.Disk(root)
        server = self.new_server(*self.options, data=root / "data")
        server.more_environment = {"LD_PRELOAD": str(powerloss.library()),
                                   "POWERLOSS_DIR": str(root),
                                   "POWERLOSS_JOURNAL": str(self.path("journal"))}
        server.start()
        if self.cut:
            self.check(server, self.cut)
            self.load.go_on_from(self.cut.found)
        self.load.run(server, int(50 * 60 ** self.rng.random()), server.stop)
        return powerloss.Journal(self.path("journal")).events, disk

    def places(self, cut):
        return cut.event.end if self.strict else 0, cut.event.end

    def check(self, server, cut):
        self.load.check_server(server, *self.places(cut))
        assert " error " not in server.log(), server.log()

    def open_disk(self, disk, cut):
        """Builds the disk that the cut leaves, and looks at it with a server of its own."""
        root = self.path("cut")
        disk.after_crash(cut.seed, root)
        if self.strict and (root / "data" / "STORE").exists():
            harness.check_directory(root / "data", index_may_be_lost=True)
        server = self.new_server(*self.options, data=root / "data").start()
        self.check(server, cut)
        with server.connect() as c:
            c.ask(harness.set_command("after", b"x"), b"STORED\r\n")
        if self.rng.random() < 0.3:
            server.kill()
            server.start()
            self.check(server, cut)
            with server.connect() as c:
                assert harness.mc_get(c, "after") is not None
        server.stop()
        harness.check_directory(root / "data")
        cut.found = self.load.check_files(root / "data", *self.places(cut))
        shutil.rmtree(root)

    def one_round(self):
        events, disk = self.run()
        cuts = [Cut(events[n], f"{self.rng.random()}")
                for n in powerloss.choose_cuts(disk, events, STATES, self.rng)]
        next_cut = self.rng.choice(cuts)
        waiting = list(cuts)
        for event in events:
            disk.apply(event)
            while waiting and waiting[0].event is event:
                cut = waiting.pop(0)
                print(f"{self.path('journal')} {self.path('base')} {event.number} {cut.seed}: "
                      f"{event}")
                self.open_disk(disk, cut)
                if cut is next_cut:
                    self.round += 1
                    disk.after_crash(cut.seed, self.path("disk"))
                    self.round -= 1
        assert disk.differences(self.path("disk")) == []
        for name in ("disk", "base"):
            shutil.rmtree(self.path(name))
        os.unlink(self.path("journal"))
        self.cut = next_cut
        self.round += 1

    def all_rounds(self):
        self.path("disk").mkdir()
        for _ in range(ROUNDS):
            self.one_round()


@pytest.mark.parametrize("options, strict", [
    (["--sync", "always", "--segment-size", "4m"], True),
    (["--sync", "interval=50", "--segment-size", "4m"], False),
], ids=["always", "interval"])
def test_what_a_power_cut_leaves_is_opened(new_server, tmp_path, options, strict):
    rng = random.Random(harness.test_seed())
    PowerTest(new_server, tmp_path, options, strict, rng).all_rounds()
