"""What is measured: data sets, and rows with their goals."""

from dataclasses import dataclass, field

KB = 1024
MB = 1024 * KB

# Key sets: name -> (number of keys, bytes of a value).
READ_SETS = {
    "get": (100_000, KB),
    "h1k": (20_000, KB),
    "h10k": (10_000, 10 * KB),
    "h100k": (1_000, 100 * KB),
    "h1m": (200, MB),
}
# The same bytes once more, evicted and read back from the disk in order: the page cache then holds
# them in larger pieces than just after they were written.
BACK_SETS = {
    "b100k": (1_000, 100 * KB),
    "b1m": (200, MB),
}
SET_KEYS = 100_000
ALL_SETS = {**READ_SETS, **BACK_SETS}


@dataclass
class Row:
    title: str
    ours: str  # a server's name in run.py
    peer: str
    key_set: str = "get"
    connections: int = 50
    pipeline: int = 1
    read: int = 100
    http: bool = False
    with_client_cpu: bool = False  # server + client CPU instead of the server's alone
    cpu_goal: float = None  # at most
    rate_goal: float = None  # at least
    max_requests: int = 0
    samples: list = field(default_factory=list)


def rows():
    table = []
    for pipeline, goal in ((1, 0.9), (32, 0.65)):
        deep = f", {pipeline} deep" if pipeline > 1 else ""
        table.append(Row(f"GET 1 KB{deep}", "read", "memcached", pipeline=pipeline, cpu_goal=goal))
    for pipeline in (1, 32):
        deep = f", {pipeline} deep" if pipeline > 1 else ""
        table.append(Row(f"GET 1 KB{deep}", "read", "redis everysec", pipeline=pipeline))
    writes = dict(key_set="set", read=0, max_requests=400_000)
    for pipeline in (1, 32):
        deep = f", {pipeline} deep" if pipeline > 1 else ""
        table.append(Row(f"SET 1 KB, os{deep}", "os", "memcached", pipeline=pipeline, cpu_goal=1.0,
                         **writes))
        table.append(Row(f"SET 1 KB, interval{deep}", "interval", "redis everysec",
                         pipeline=pipeline, **writes))
        table.append(Row(f"SET 1 KB, always{deep}", "always", "redis always", pipeline=pipeline,
                         cpu_goal=0.7 if pipeline == 1 else None,
                         rate_goal=1.7 if pipeline == 1 else None, **writes))
    table.append(Row("SET 1 KB, always, 200 connections", "always", "redis always", connections=200,
                     cpu_goal=0.5, rate_goal=2.3, **writes))
    for title, key_set, goal in (("1 KB", "h1k", 0.4), ("10 KB", "h10k", 0.5),
                                 ("100 KB", "h100k", 0.8), ("1 MB", "h1m", 0.8),
                                 ("100 KB, read back", "b100k", 0.8), ("1 MB, read back", "b1m", 0.8)):
        table.append(Row(f"HTTP GET {title}", "back" if key_set in BACK_SETS else "read", "nginx",
                         key_set=key_set, http=True, cpu_goal=goal,
                         with_client_cpu=ALL_SETS[key_set][1] >= 64 * KB))
    return table
