"""``python -m tests.soak``: run it, show it, write it down; exit 1 if anything was wrong."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actorbus import Audit, DrainReport
from tests.figures import save, where
from tests.soak import watch
from tests.soak.chores import all_of
from tests.soak.load import Load, hurry


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--rate", type=int, default=2000, help="events a second of the steady mix, at most"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw SVG charts")
    options = parser.parse_args(arguments)
    logging.getLogger("actorbus").setLevel(logging.CRITICAL)  # failures are what it is made of
    hurry()
    looks = max(1, math.ceil(options.minutes * 60 / watch.EVERY))
    report = {**where(), **asyncio.run(soak(looks, options.rate, options.seed))}
    show(report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        save(report, options.json)
    if options.plot:
        from tests.soak.plot import draw  # needs matplotlib

        draw(report, options.plot)
    return 1 if report["faults"] else 0


async def soak(looks: int, rate: int, seed: int) -> dict[str, Any]:
    """Load a bus and watch it for so many seconds; then drain it, and count."""
    load = Load(seed)
    before = (threading.active_count(), watch.open_files())
    async with load.bus:
        working = asyncio.create_task(all_of(load, rate))
        watching = asyncio.create_task(watch.watch(load.bus, looks, tell))
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        seen, faults = await watching
        await load.bus.settle(600.0)
        await asyncio.sleep(2.0)  # the handler that outlives its delivery ends too
        drained = await load.bus.close(600.0)
    audit, drift = load.bus.audit(), watch.drifts(seen)
    faults += [*wrong_counts(load, audit), *await left_over(drained, before)]
    if len(seen) >= watch.JUDGED:
        faults += watch.too_large(drift)
    return {
        "seconds": len(seen), "rate": rate, "seed": seed, "faults": faults, "drift": drift,
        "judged": len(seen) >= watch.JUDGED, "gaps": watch.gaps(seen),
        "late_median": sorted(each.late for each in seen)[len(seen) // 2],
        "late_most": max(each.late for each in seen),
        "totals": {**asdict(audit.totals), "published": load.published},
        "counts": counts(load), "drain": asdict(drained), "looks": watch.columns(seen),
    }  # fmt: skip


def wrong_counts(load: Load, audit: Audit) -> list[str]:
    """Say where the ledger and the soak's own counts differ."""
    faults = [] if audit.balanced else [f"out of balance at the end: {audit.differences}"]
    if audit.totals.pending:
        faults.append(f"{audit.totals.pending} deliveries are pending after the drain")
    own = {"events published": load.published, "witness": load.handled["witness"]}
    if len({*own.values(), load.bus.get_stats()["events_published"]}) > 1:
        faults.append(f"{load.bus.get_stats()['events_published']} events published, but {own}")
    for name in sorted(load.sure):
        acked = audit.subscriptions[name].acked
        if acked != load.handled[name]:
            faults.append(f"{name}: {acked} acked, {load.handled[name]} handlers returned")
    return faults


async def left_over(drained: DrainReport, before: tuple[int, int]) -> list[str]:
    """Say what the bus has left behind."""
    faults = [] if drained.complete else [f"not drained: {drained}"]
    loop = asyncio.get_running_loop()
    await loop.shutdown_default_executor()
    if tasks := [each.get_name() for each in asyncio.all_tasks(loop)][1:]:
        faults.append(f"tasks left: {tasks}")
    after = (threading.active_count(), watch.open_files())
    if after[0] > before[0] or after[1] > before[1]:
        faults.append(f"threads and open files: {before} before, {after} after")
    return faults


def counts(load: Load) -> dict[str, int]:
    """Return what has happened, by name."""
    found = Counter(load.done)
    for row in load.bus.reading().actors:
        for name in ("errors", "timeouts", "cancelled", "retries", "restarts"):
            found[name] += getattr(row.ledger, name)
        for reason, number in row.ledger.dead.items():
            found[f"dead: {reason}"] += number
    return dict(sorted(found.items()))


def tell(seen: list[watch.Look]) -> None:
    """Show how it goes: every second on a terminal, else every minute."""
    last, terminal = seen[-1], sys.stderr.isatty()
    if not terminal and len(seen) % 60:
        return
    line = (
        f"{last.second:6.0f} s  {last.published:,} events  {last.settled:,} settled  "
        f"{last.pending:,} pending  {last.rss_mib:.1f} MiB  {last.tasks} tasks  "
        f"{last.threads} threads  {last.fds} fds  {last.objects:,} objects  late {last.late:.3f} s"
    )
    sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
    sys.stderr.flush()


def show(report: dict[str, Any]) -> None:
    """Print what it came to."""
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    for name in ("totals", "counts", "drain", "drift"):
        print(name)
        for key, value in report[name].items():
            print(f"  {key:20} {value:,}" if isinstance(value, int) else f"  {key:20} {value}")
    print(f"late: median {report['late_median']} s, most {report['late_most']} s, "
          f"{len(report['gaps'])} gaps")  # fmt: skip
    if not report["judged"]:
        print(f"drift is judged from {watch.JUDGED} s on")
    for fault in report["faults"]:
        print("FAULT", fault)
    print("FAILED" if report["faults"] else f"ok: {report['seconds']} s")


if __name__ == "__main__":
    sys.exit(main())
