#!/usr/bin/env python3
"""Asof against pgBackRest and pg_basebackup: the same data, back to back, as ratios of one run.

  python3 bench/bench.py --size-gib 6 --runs 5 --bindir /usr/lib/postgresql/15/bin --pgbackrest "$PGBACKREST"

Makes a cluster (half pgbench, three tenths text and JSON, a fifth vectors), then for each round and each tool: a full backup
into a fresh repository, a restore into an empty directory, one per cent of the rows changed, a second backup. Rounds are
interleaved, so that a slow minute of the machine hits all tools alike. Wall time and processor time (user and system, of the
tool with all its processes, and the server's share) are printed as medians, and as ratios to pgBackRest. The page cache is
left warm: what is measured is work, not the disk's mood. Needs the release binary: cargo build --release -p asof-cli.
Then a burst of WAL: archived segment by segment, received through a slot, and recovered through restore_command, against cp. Root
runs the tools and the server as the user postgres. Everything lies below --work and is removed at the end.
"""

import argparse
import json
import os
import pwd
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import wal


class Failed(Exception):
    pass


def owner():
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def become(user):
    def change():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
    return change


def spawn(command, user, log, **options):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=become(user), **options)


def run(command, user, env=None, cwd="/"):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, cwd=cwd,
                          preexec_fn=become(user))
    if done.returncode:
        raise Failed(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree_bytes(path):
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            total += os.lstat(os.path.join(directory, name)).st_size
    return total


class Cluster:
    """A server with the data set."""

    def __init__(self, arguments, work):
        self.bindir, self.user, self.work = arguments.bindir, owner(), work
        self.data, self.socket, self.port = f"{work}/data", f"{work}/socket", arguments.port
        self.process = None

    def directory(self, name):
        path = f"{self.work}/{name}"
        os.makedirs(path)
        os.chown(path, self.user.pw_uid, self.user.pw_gid)
        os.chmod(path, 0o700)
        return path

    def start(self):
        self.directory("socket")
        run([f"{self.bindir}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-k", "--locale=C", "-E", "UTF8"], self.user)
        settings = {"port": self.port, "unix_socket_directories": self.socket, "listen_addresses": "", "fsync": "on",
                    "shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off",
                    "wal_level": "replica", "synchronous_commit": "off", "archive_mode": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.log = open(f"{self.work}/server.log", "ab")
        self.process = spawn([f"{self.bindir}/postgres", "-D", self.data, *options], self.user, self.log)
        for _ in range(600):
            if subprocess.run([f"{self.bindir}/pg_isready", "-q", "-h", self.socket, "-p", str(self.port)]).returncode == 0:
                return
            if self.process.poll() is not None:
                raise Failed("the server ended: see server.log")
            time.sleep(0.1)
        raise Failed("the server does not answer")

    def sql(self, text):
        return run([f"{self.bindir}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.socket, "-p",
                    str(self.port), "-U", "postgres", "-c", text], self.user)

    def fill(self, gib):
        mib = int(gib * 1024)
        scale = max(1, int(mib * 0.5 / 15.4))
        run([f"{self.bindir}/pgbench", "-i", "-q", "-s", str(scale), "-F", "92", "-h", self.socket, "-p", str(self.port), "-U",
             "postgres", "postgres"], self.user)
        documents = int(mib * 0.3 * 1024 * 1024 / 1300)
        self.sql(f"""CREATE TABLE documents (id bigint PRIMARY KEY, meta jsonb, body text);
            INSERT INTO documents SELECT g, jsonb_build_object('author', md5((g % 997)::text), 'words', g % 4000),
              (SELECT string_agg(substr(md5((g * 31 + w)::text), 1, 2 + w % 9), ' ') FROM generate_series(1, 150) w)
            FROM generate_series(1, {documents}) g""")
        vectors = int(mib * 0.2 * 1024 * 1024 / 1640)
        self.sql(f"""CREATE TABLE vectors (id bigint PRIMARY KEY, embedding real[]);
            ALTER TABLE vectors ALTER embedding SET STORAGE PLAIN;
            INSERT INTO vectors SELECT g, e.v FROM generate_series(1, {vectors}) g,
              LATERAL (SELECT array_agg((random() - 0.5)::real) v FROM generate_series(1, 384) WHERE g > 0) e""")
        self.sql("VACUUM ANALYZE")
        self.sql("CHECKPOINT")

    def change(self, seed):
        """About one per cent of the pages, at random places."""
        self.sql(f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE hashint8(aid + {seed}) % 6000 = 0;"
                 f"UPDATE documents SET meta = meta || '{{\"seen\": {seed}}}' WHERE hashint8(id + {seed}) % 600 = 0")
        self.sql("CHECKPOINT")

    def cpu(self):
        """Processor seconds of the server and all its processes so far."""
        tick, total = os.sysconf("SC_CLK_TCK"), 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(pid) == self.process.pid:
                total += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self.process.pid:
                total += sum(map(int, fields[11:13]))
        return total / tick

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()


def measured(cluster, command, env=None):
    """Wall time, processor time of the tool, of the server, and the largest process, of one command."""
    before, began = cluster.cpu(), time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = spawn(command, cluster.user, log, env=env, cwd=cluster.work)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        if process.returncode:
            log.seek(0)
            raise Failed(f"{' '.join(command)}: {log.read().decode(errors='replace')}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "server": cluster.cpu() - before,
            "rss_mib": usage.ru_maxrss / 1024}


class Asof:
    name = "asof"

    def __init__(self, cluster, arguments):
        self.cluster, self.program = cluster, arguments.asof

    def prepare(self, place):
        self.place = place
        self.base = [self.program, "--quiet", "--config", f"{place}/asof.toml"]
        c = self.cluster
        run([*self.base, "init", f"{place}/repository"], c.user)
        run([*self.base, "instance", "add", "bench", "--pg", f"host={c.socket} port={c.port} user=postgres dbname=postgres"], c.user)

    def backup(self):
        return measured(self.cluster, [*self.base, "backup", "create", "bench", "--jobs", "2", "--name", str(time.monotonic_ns())])

    def restore(self, target):
        os.rmdir(target)
        return measured(self.cluster, [*self.base, "restore", "bench", "--target-backup", "--to", target, "--jobs", "2"])

    def size(self):
        return tree_bytes(f"{self.place}/repository")


class PgBackRest:
    def __init__(self, cluster, program):
        self.cluster, self.program = cluster, program
        self.name = "pgbackrest " + run([program, "version"], cluster.user).split()[-1]

    def prepare(self, place):
        self.place, c = place, self.cluster
        with open(f"{place}/pgbackrest.conf", "w") as config:
            config.write(f"[global]\nrepo1-path={place}/repository\nlog-path={place}\nlock-path={place}\nspool-path={place}\n"
                         "log-level-file=off\nrepo1-bundle=y\ncompress-type=zst\ncompress-level=1\nprocess-max=2\nstart-fast=y\n"
                         "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=bench\nrepo1-retention-full=9\narchive-check=n\n")
            if not self.name.endswith("2.45"):
                config.write("repo1-block=y\n")
            config.write(f"[bench]\npg1-path={c.data}\npg1-port={c.port}\npg1-socket-path={c.socket}\npg1-user=postgres\n")
        self.base = [self.program, f"--config={place}/pgbackrest.conf", "--stanza=bench"]
        run([*self.base, "--no-online", "stanza-create"], c.user)

    def backup(self):
        kind = "incr" if os.path.exists(f"{self.place}/made") else "full"
        result = measured(self.cluster, [*self.base, f"--type={kind}", "backup"])
        open(f"{self.place}/made", "w").close()
        return result

    def restore(self, target):
        return measured(self.cluster, [*self.base, f"--pg1-path={target}", "--type=none", "restore"])

    def size(self):
        return tree_bytes(f"{self.place}/repository")


class PgBasebackup:
    name = "pg_basebackup (plain copy)"

    def __init__(self, cluster, arguments):
        self.cluster, self.program = cluster, f"{arguments.bindir}/pg_basebackup"

    def prepare(self, place):
        self.place = place

    def backup(self):
        c = self.cluster
        shutil.rmtree(f"{self.place}/copy", ignore_errors=True)
        return measured(c, [self.program, "-h", c.socket, "-p", str(c.port), "-U", "postgres", "-D", f"{self.place}/copy", "-c",
                            "fast", "-X", "none"])

    def restore(self, target):
        return measured(self.cluster, ["cp", "-a", f"{self.place}/copy/.", target])

    def size(self):
        return tree_bytes(f"{self.place}/copy")


def one_round(cluster, tool, number, results):
    place = cluster.directory(f"round-{number}-{tool.name.split()[0]}-{id(tool)}")
    tool.prepare(place)
    rows = results.setdefault(tool.name, {})
    def note(step, value):
        rows.setdefault(step, []).append(value)
        print(f"  {tool.name:28} {step:10} " + json.dumps({k: round(v, 2) for k, v in value.items()}), flush=True)
    note("full", tool.backup())
    size = tool.size()
    rows.setdefault("full_mib", []).append(size / 2**20)
    target = cluster.directory(f"restored-{number}-{id(tool)}")
    note("restore", tool.restore(target))
    shutil.rmtree(target)
    cluster.change(number * 1000 + len(results))
    note("second", tool.backup())
    rows.setdefault("second_mib", []).append((tool.size() - size) / 2**20)
    shutil.rmtree(place)


def median(values):
    return statistics.median(values)


def report(results, peer):
    print(f"\nmedians; ratios to {peer}; CPU is the tool's and the server's together")
    print(f"{'tool':28} {'step':8} {'wall s':>8} {'CPU s':>8} {'ratio wall':>10} {'ratio CPU':>10} {'MiB':>9} {'peak MiB':>9}")
    for name, rows in results.items():
        for step in ("full", "restore", "second"):
            cpu = lambda tool: median([v["cpu"] + v["server"] for v in results[tool][step]])
            wall = lambda tool: median([v["wall"] for v in results[tool][step]])
            size = median(rows.get(f"{step}_mib", [0]))
            peak = max(v["rss_mib"] for v in rows[step])
            print(f"{name:28} {step:8} {wall(name):8.2f} {cpu(name):8.2f} {wall(name) / wall(peer):10.2f} "
                  f"{cpu(name) / cpu(peer):10.2f} {size:9.0f} {peak:9.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--size-gib", type=float, default=6)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--wal-segments", type=int, default=200, help="0 leaves the WAL part out")
    parser.add_argument("--recoveries", type=int, default=3)
    parser.add_argument("--bindir", default="/usr/lib/postgresql/15/bin")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--work", default=None)
    parser.add_argument("--asof", default=os.path.join(here, "target/release/asof"))
    parser.add_argument("--pgbackrest", action="append", default=[], help="may be given more than once; the last is the peer")
    arguments = parser.parse_args()
    arguments.port = arguments.port or free_port()
    work = tempfile.mkdtemp(prefix="asof-bench-", dir=arguments.work)
    os.chown(work, owner().pw_uid, owner().pw_gid)
    cluster = Cluster(arguments, work)
    try:
        cluster.start()
        print(f"filling {arguments.size_gib} GiB …", flush=True)
        cluster.fill(arguments.size_gib)
        print(f"{tree_bytes(cluster.data) / 2**30:.2f} GiB of data directory, warm page cache", flush=True)
        tools = [Asof(cluster, arguments)]
        tools += [PgBackRest(cluster, program) for program in arguments.pgbackrest]
        tools += [PgBasebackup(cluster, arguments)]
        results = {}
        for number in range(arguments.runs):
            for tool in tools:
                one_round(cluster, tool, number, results)
        peer = tools[-2].name if len(tools) > 2 else tools[0].name
        if arguments.runs:
            report(results, peer)
        if arguments.wal_segments:
            results["wal"] = wal.compare(sys.modules[__name__], cluster, arguments)
        print("\n" + json.dumps({"size_gib": arguments.size_gib, "runs": arguments.runs, "results": results}))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        cluster.stop()
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
