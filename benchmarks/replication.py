"""Replication to an object store beside Litestream: how late, at what price, and how fast it is back.

Both write to one SeaweedFS on this machine, one after the other. Litestream copies SQLite files that this process
writes; Forge is a node that this process writes to over HTTP, so what its archive costs is the difference to a node
without one.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers.litestream import Litestream
from benchmarks.peers.processes import raise_open_files
from benchmarks.replication_contestants import BUCKET, ForgeSide, LitestreamSide
from benchmarks.replication_measures import changed, cost, lag, restore
from benchmarks.report import Report
from forge.stack.weed import Weed

OPTIONS = ("seconds", "databases", "updates", "size_mib")
INTERVALS_S = (1.0, 0.1)  # what both come with, and what they can be set to


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, one contestant after the other."""
    raise_open_files()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Weed(folder, supervised=False) as weed:
            client = weed.s3_client()
            client.create_bucket(Bucket=BUCKET)
            sides = (LitestreamSide(weed, folder / "litestream", options.peers), ForgeSide(weed))
            figures["peer"] = Litestream(weed, BUCKET, "", folder, options.peers).version
            figures["options"] = {name: getattr(options, name) for name in OPTIONS}
            for seconds in INTERVALS_S:
                found = {side.name: await lag(side, client, options.seconds, seconds) for side in sides}
                figures[f"lag_every_{seconds:g}_s"] = found
            for count in options.databases:
                figures[f"cost_{count}"] = {side.name: await cost(side, count, options.seconds) for side in sides}
            figures["changed"] = {side.name: await changed(side, client, options.updates) for side in sides}
            figures["restore"] = {side.name: await restore(side, options.size_mib) for side in sides}
            client.close()
    return figures


def report(figures: dict[str, Any]) -> Report:
    """Return the figures with their ratios: Forge to Litestream, less is better."""
    result = Report("replication", figures)
    for section, sides in figures.items():
        if section in ("peer", "options"):
            continue
        forge, peer = sides["forge"], sides["litestream"]
        for name in sorted(forge.keys() & peer.keys()):
            if name.endswith(("_ms", "percent", "rss_mib", "per_mib", "restore_s", "moment_s")) and peer[name] > 0:
                ratio = f"{section}_{name}_to_litestream"
                result.ratio(ratio, forge[name] / peer[name])
                result.target(ratio, at_most=1.0)
    return result


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look; nothing is stored")
    parser.add_argument("--seconds", type=float, default=20.0, help="of writing 100 rows a second (20)")
    parser.add_argument("--databases", type=int, nargs="+", default=[1, 100, 1000], help="how many cost (1 100 1000)")
    parser.add_argument("--updates", type=int, default=2000, help="rows of a KiB that change (2000)")
    parser.add_argument("--size-mib", type=int, default=1024, help="of the database that is restored (1024)")
    parser.add_argument("--peers", type=Path, help="where litestream is, if not beside this Python")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.databases, options.updates, options.size_mib = 4.0, [1, 10], 200, 16
    report(uvloop.run(run(options))).write(store=not options.quick)


if __name__ == "__main__":
    main()
