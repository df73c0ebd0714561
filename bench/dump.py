#!/usr/bin/env python3
"""Asof's dump and load against pg_dump and pg_restore: the same data and options, back to back, as ratios of one run.

  python3 bench/dump.py --size-gib 2 --runs 5 --bindir /usr/lib/postgresql/15/bin

Makes a cluster with the data set of bench.py. In every round each step is done three times, in turn: by pg_dump or pg_restore, with a file; by Asof
with the same options, with a file; and by Asof with the repository, which compresses, seals and signs whatever the options are. A load by
Asof makes the database as well, and of a file it is the same file that pg_restore reads. Printed are medians of the wall time, their
ratios to the stock programs, and the largest process of Asof and what it ran, with the repository. The page cache is left warm. Needs the release
binary: cargo build --release -p asof-cli. Root runs the tools and the server as the user postgres. Everything lies in a new directory
below --work, which is removed at the end, also when a step fails; each round has a repository of its own, so that they do not add up.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench


def timed(command, user, env):
    """Wall seconds, and the largest resident set of the process and its children that were waited for."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env,
                               cwd=env["HOME"], preexec_fn=bench.become(user))
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise bench.Failed(f"{' '.join(command)}: {said.decode()}")
    return wall, usage.ru_maxrss / 1024


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


class Run:
    def __init__(self, arguments, work):
        self.cluster, self.asof, self.work = bench.Cluster(arguments, work), arguments.asof, work
        self.bindir, self.user, self.jobs = arguments.bindir, bench.owner(), arguments.jobs
        self.home = self.cluster.directory("home")
        self.env = {"HOME": self.home, "PATH": f"{self.bindir}:/usr/bin:/bin", "PGHOST": self.cluster.socket,
                    "PGPORT": str(self.cluster.port), "PGUSER": "postgres"}
        self.results = {}

    def asof_run(self, *words):
        return timed([self.asof, "-q", *words], self.user, self.env)

    def stock(self, program, *words):
        return timed([f"{self.bindir}/{program}", *words], self.user, self.env)

    def prepare(self, gib):
        self.cluster.start()
        self.cluster.fill(gib)

    def begin_round(self):
        """An empty home, with a new repository."""
        for name in os.listdir(self.home):
            remove(f"{self.home}/{name}")
        self.asof_run("init", f"{self.home}/repository")
        self.asof_run("instance", "add", "prod", "--pg", f"host={self.cluster.socket} port={self.cluster.port} user=postgres dbname=postgres")

    def note(self, pair, who, result):
        self.results.setdefault(pair, {}).setdefault(who, []).append(result)

    def fresh(self):
        for name in os.listdir(self.home):
            if name.startswith("out"):
                remove(f"{self.home}/{name}")

    def dumps(self, number):
        jobs = str(self.jobs)
        pairs = [
            ("dump, uncompressed", ["-Fc", "-Z0"], ["--compress", "0"]),
            ("dump, default compression", ["-Fc"], []),
        ]
        for pair, stock, ours in pairs:
            self.fresh()
            self.note(pair, "stock", self.stock("pg_dump", *stock, "-f", "out.stock", "postgres"))
            self.note(pair, "file", self.asof_run("dump", "prod", "--out", "out.ours", *ours))
            self.note(pair, "repository", self.asof_run("dump", "prod", "--name", f"{pair} {number}"))
        pair = f"dump, {jobs} jobs"
        self.fresh()
        self.note(pair, "stock", self.stock("pg_dump", "-Fd", "-Z0", "-j", jobs, "-f", "out.stock", "postgres"))
        self.note(pair, "file", self.asof_run("dump", "prod", "-F", "directory", "--compress", "0", "-j", jobs, "--out", "out.ours"))
        self.note(pair, "repository", self.asof_run("dump", "prod", "-j", jobs, "--name", f"{pair} {number}"))

    def loads(self, number):
        self.fresh()
        self.stock("pg_dump", "-Fc", "-Z0", "-f", "out.stock", "postgres")
        self.asof_run("dump", "prod", "--name", f"load {number}")
        for jobs in ("1", str(self.jobs)):
            pair = f"load, {jobs} job{'s' if jobs != '1' else ''}"
            self.cluster.sql("CREATE DATABASE out_stock TEMPLATE template0")
            self.note(pair, "stock", self.stock("pg_restore", "-j", jobs, "-d", "out_stock", "out.stock"))
            self.cluster.sql("DROP DATABASE out_stock")
            for who, what in (("file", "out.stock"), ("repository", f"load {number}")):
                on = ["--on", "prod"] if who == "file" else []
                self.note(pair, who, self.asof_run("load", what, "--new-database", "out_ours", "-j", jobs, "--no-analyze", *on))
                self.cluster.sql("DROP DATABASE out_ours")

    def report(self):
        print("| step | pg_dump or pg_restore s | to or from a file s | ratio | to or from the repository s | ratio | peak MiB |")
        print("|---|---|---|---|---|---|---|")
        for pair, who in self.results.items():
            wall = {name: statistics.median(result[0] for result in results) for name, results in who.items()}
            peak = {name: max(result[1] for result in who[name]) for name in ("file", "repository")}
            ratio = {name: wall[name] / wall["stock"] for name in ("file", "repository")}
            print(f"| {pair} | {wall['stock']:.2f} | {wall['file']:.2f} | **{ratio['file']:.2f}** | {wall['repository']:.2f} | "
                  f"**{ratio['repository']:.2f}** | {peak['file']:.0f}, {peak['repository']:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gib", type=float, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--bindir", default="/usr/lib/postgresql/15/bin")
    parser.add_argument("--asof", default=os.path.join(os.path.dirname(__file__), "../target/release/asof"))
    parser.add_argument("--work", help="everything lies in a new directory below this [default: /var/tmp]")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    arguments = parser.parse_args()
    arguments.asof = os.path.abspath(arguments.asof)
    arguments.port = arguments.port or bench.free_port()
    work, run = tempfile.mkdtemp(prefix="asof-bench-", dir=arguments.work or "/var/tmp"), None
    try:
        os.chown(work, bench.owner().pw_uid, bench.owner().pw_gid)
        run = Run(arguments, work)
        run.prepare(arguments.size_gib)
        for number in range(arguments.runs):
            run.begin_round()
            run.dumps(number)
            run.loads(number)
            print(f"round {number + 1} of {arguments.runs}", file=sys.stderr)
        run.report()
    except bench.Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if run:
            run.cluster.stop()
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
