"""The part of the comparison that is about WAL: archiving a burst, receiving it, and recovering through restore_command."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import time


def segments_between(first, last):
    """Names of 16 MiB segments from one to another."""
    number = lambda name: int(name[8:16], 16) * 256 + int(name[16:], 16)
    return [f"{first[:8]}{n // 256:08X}{n % 256:08X}" for n in range(number(first), number(last) + 1)]


def burst(cluster, count):
    """Writes `count` segments of rows and index entries; returns the names of those that are finished."""
    cluster.sql("DROP TABLE IF EXISTS burst; CREATE TABLE burst (id bigint PRIMARY KEY, at timestamptz, body text)")
    first = cluster.sql("SELECT pg_walfile_name(pg_switch_wal()); CHECKPOINT; SELECT pg_walfile_name(pg_current_wal_lsn())").split()[-1]
    names, row = [], 0
    while len(names) < count:
        cluster.sql(f"INSERT INTO burst SELECT g, clock_timestamp(), md5(g::text) || repeat(md5((g * 7)::text), 3) "
                    f"FROM generate_series({row}, {row + 99999}) g")
        row += 100000
        last = cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").strip()
        names = segments_between(first, last)[:-1]
    cluster.sql("SELECT pg_switch_wal()")
    return names[:count]


def archive_one_by_one(bench, cluster, command_of, names):
    """What the archiver does: one command after the other."""
    before, began = resources(), time.monotonic()
    for name in names:
        bench.run(command_of(f"pg_wal/{name}"), cluster.user, cwd=cluster.data)
    return rates(before, began, len(names))


def resources():
    usage = os.times()
    return usage.children_user + usage.children_system


def rates(before, began, count):
    return {"segments_per_s": count / (time.monotonic() - began), "cpu_ms": 1000 * (resources() - before) / count}


def receive(bench, cluster, asof, names):
    """The receiver catches up with a burst that its slot has kept; the server's share is counted in."""
    end = cluster.sql("SELECT pg_current_wal_flush_lsn()").strip()
    server, before, began = cluster.cpu(), resources(), time.monotonic()
    receiver = bench.spawn([*asof.base, "wal", "receive", "bench"], cluster.user, cluster.log)
    try:
        # Nothing of the server is asked in between: its processor time would count.
        while not stored(bench, cluster, asof, end):
            if receiver.poll() is not None:
                raise bench.Failed("the receiver ended: see server.log")
            time.sleep(0.2)
        wall = time.monotonic() - began
    finally:
        receiver.send_signal(signal.SIGTERM)
        receiver.wait()
    looked = asof.looked
    cpu = resources() - before - looked + cluster.cpu() - server
    return {"segments_per_s": len(names) / wall, "cpu_ms": 1000 * cpu / len(names)}


def stored(bench, cluster, asof, end):
    before = resources()
    status = json.loads(bench.run([*asof.base, "wal", "status", "bench", "--json"], cluster.user))
    asof.looked += resources() - before
    value = lambda lsn: int(lsn.split("/")[0], 16) << 32 | int(lsn.split("/")[1], 16)
    return status["stored_to"] is not None and value(status["stored_to"]) >= value(end)


def recover(bench, cluster, base, restore_command, number):
    """Seconds from the start of a server on a copy of `base` until it is promoted."""
    target = f"{cluster.work}/recovered-{number}"
    bench.run(["cp", "-a", base, target], cluster.user)
    with open(f"{target}/postgresql.auto.conf", "a") as config:
        config.write(f"restore_command = '{restore_command}'\n")
    open(f"{target}/recovery.signal", "w").close()
    os.chown(f"{target}/recovery.signal", cluster.user.pw_uid, cluster.user.pw_gid)
    settings = {"port": cluster.port, "unix_socket_directories": target, "listen_addresses": "", "archive_mode": "off",
                "shared_buffers": "512MB", "max_wal_size": "8GB", "hot_standby": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    began = time.monotonic()
    server = bench.spawn([f"{cluster.bindir}/postgres", "-D", target, *options], cluster.user, cluster.log)
    try:
        while subprocess.run([f"{cluster.bindir}/pg_isready", "-q", "-h", target, "-p", str(cluster.port)]).returncode:
            if server.poll() is not None:
                raise bench.Failed("the recovering server ended: see server.log")
            time.sleep(0.05)
        return time.monotonic() - began
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()
        shutil.rmtree(target)


def compare(bench, cluster, arguments):
    """All of it; prints and returns medians."""
    # Only now: the page cache of the backups is not shared with it.
    cluster.sql("ALTER SYSTEM SET wal_keep_size = '6GB'")
    cluster.sql("SELECT pg_reload_conf()")
    asof = bench.Asof(cluster, arguments)
    asof.prepare(cluster.directory("wal-asof"))
    asof.looked = 0.0
    peers = [bench.PgBackRest(cluster, program) for program in arguments.pgbackrest]
    for peer in peers:
        peer.prepare(cluster.directory(f"wal-{id(peer)}"))
    base = cluster.directory("base")
    bench.run([f"{cluster.bindir}/pg_basebackup", "-h", cluster.socket, "-p", str(cluster.port), "-U", "postgres", "-D", base, "-c",
               "fast", "-X", "none"], cluster.user)
    first = open(f"{base}/backup_label").read().split("file ", 1)[1][:24]
    # The receiver makes its slot and stops; then the slot keeps the burst.
    receiver = bench.spawn([*asof.base, "wal", "receive", "bench"], cluster.user, cluster.log)
    while not stored(bench, cluster, asof, "0/1"):
        time.sleep(0.2)
    receiver.send_signal(signal.SIGTERM)
    receiver.wait()
    names = segments_between(first, burst(cluster, arguments.wal_segments)[-1])
    asof.looked = 0.0
    print(f"WAL: {len(names)} segments", flush=True)
    results = {"asof wal receive": receive(bench, cluster, asof, names)}
    pushing = bench.Asof(cluster, arguments)
    pushing.prepare(cluster.directory("wal-push"))
    results["asof wal push"] = archive_one_by_one(
        bench, cluster, lambda path: [*pushing.base, "wal", "push", "--instance", "bench", path], names)
    for peer in peers:
        results[f"{peer.name} archive-push"] = archive_one_by_one(
            bench, cluster, lambda path: [*peer.base, "archive-push", path], names)
    reference = results.get(f"{peers[-1].name} archive-push") if peers else None
    print(f"{'':36} {'segments/s':>10} {'CPU ms':>8} {'ratio rate':>10} {'ratio CPU':>10}")
    for name, row in results.items():
        ratios = [row[key] / reference[key] if reference else float("nan") for key in ("segments_per_s", "cpu_ms")]
        print(f"{name:36} {row['segments_per_s']:10.1f} {row['cpu_ms']:8.1f} {ratios[0]:10.2f} {ratios[1]:10.2f}", flush=True)
    plain = cluster.directory("plain")
    for name in names:
        bench.run(["cp", f"{cluster.data}/pg_wal/{name}", f"{plain}/{name}"], cluster.user)
    commands = {"cp": f"cp {plain}/%f %p",
                "asof wal get": " ".join([*pushing.base, "wal", "get", "--instance", "bench", "%f", "%p"])}
    # The port and the memory are the recovering server's now.
    cluster.stop()
    times = {name: [] for name in commands}
    for number in range(arguments.recoveries):
        for name, command in commands.items():
            times[name].append(recover(bench, cluster, base, command, number))
            print(f"  recovery by {name}: {times[name][-1]:.2f} s", flush=True)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"recovery of {len(names)} segments by {name}: {median:.2f} s, {median / statistics.median(times['cp']):.2f} of cp")
    return {"wal": results, "recovery": times}
