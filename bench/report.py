"""Medians and ratios of the samples, as a table for the terminal and as bench/results.md."""

import datetime
import os
import platform
import subprocess
from statistics import median

from servers import memcached_program


def cpu_us(row, sample):
    return sample["server_cpu_us"] + (sample["client_cpu_us"] if row.with_client_cpu else 0)


def ratios(row, value):
    """One ratio for each repetition: both sides of a pair ran within seconds of each other."""
    return [value(row, ours) / value(row, peer) for ours, peer in row.samples if value(row, peer) > 0]


def rate(_row, sample):
    return sample["per_second"]


def mark(value, goal, at_most):
    if goal is None:
        return ""
    distance = value / goal if at_most else goal / value
    if distance <= 1.0:
        return "met"
    return "missed" if distance <= 2.0 else "missed by more than 2 x"


def spread(values):
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def row_cells(row):
    cpu, speed = ratios(row, cpu_us), ratios(row, rate)
    sides = [[cpu_us(row, pair[i]) for pair in row.samples] for i in (0, 1)]
    rates = [[pair[i]["per_second"] for pair in row.samples] for i in (0, 1)]
    return [
        row.title,
        row.peer,
        spread(cpu) + (" s+c" if row.with_client_cpu else ""),
        f"<= {row.cpu_goal}" if row.cpu_goal else "",
        mark(median(cpu), row.cpu_goal, True),
        spread(speed),
        f">= {row.rate_goal}" if row.rate_goal else "",
        mark(median(speed), row.rate_goal, False),
        f"{median(sides[0]):.2f} / {median(sides[1]):.2f}",
        f"{median(rates[0]):.0f} / {median(rates[1]):.0f}",
        f"{median(p[0]['all']['p99_us'] for p in row.samples):.0f} / "
        f"{median(p[1]['all']['p99_us'] for p in row.samples):.0f}",
    ]


HEADER = ["work", "peer", "CPU ratio", "goal", "", "throughput ratio", "goal", "",
          "CPU us, ours / peer", "requests/s, ours / peer", "p99 us, ours / peer"]


def text_table(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
                     for line in lines)


def markdown_table(lines):
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    rows.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(rows)


def first_line(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def file_system(path):
    """(type, device) of the mount that holds the path."""
    best = ("", "unknown", "unknown")
    path = os.path.realpath(path)
    with open("/proc/self/mounts") as f:
        for line in f:
            device, where, kind = line.split()[:3]
            inside = path == where or path.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best[0]):
                best = (where, kind, device)
    return best[1], best[2]


def machine_lines(data_path, cores):
    kind, device = file_system(data_path)
    pinned = (f"server on core {cores[0]}, client on core {cores[1]}" if cores[0] is not None
              else "one core only: server and client share it, nothing is pinned")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"- date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"- machine: {cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}",
        f"- data: {kind} on {device}",
        f"- pinning: {pinned}",
    ]


def version_lines(program):
    return [
        f"- {first_line([program, '--version'])}",
        f"- {first_line([memcached_program(), '-V'])}, one thread",
        f"- {first_line(['redis-server', '--version'])}, appendonly yes",
        f"- {first_line(['/usr/sbin/nginx', '-v'])}, one worker, sendfile on, access log off, "
        "else its own defaults",
    ]


EXPLANATION = """Read the ratios: ours divided by the peer's, median over the repetitions (least-most). The
two sides of a ratio ran within seconds of each other, in random order. CPU is the server's own for
each request, from its CPU clock, all threads; "s+c" (from 64 KB up) adds the client's, because on
the loopback device a part of a large send is done on the receiver's account. Every value was
verified to the byte."""


def write_results(path, rows, more, machine, versions, setting):
    lines = [HEADER] + [row_cells(row) for row in rows]
    with open(path, "w") as f:
        f.write("# Results of `make bench`\n\n" + "\n".join(machine + versions) + "\n")
        f.write(f"- {setting}\n")
        if rows:
            f.write(f"\n{EXPLANATION}\n\n{markdown_table(lines)}\n")
        for title, lines in more.items():
            f.write(f"\n## {title}\n\n{markdown_table(lines)}\n")


def print_results(rows, more):
    lines = [HEADER] + [row_cells(row) for row in rows]
    if rows:
        print("\n" + text_table(lines))
    for lines in more.values():
        print("\n" + text_table(lines))
