"""Real servers on loopback for tests: PostgreSQL, and Ceph's object store, which speaks S3.

    eval "$(python3 tests/servers.py start)"    # then pytest finds them in the environment
    python3 tests/servers.py stop

`start` installs from Debian's packages what is not there, if it is root, and starts what does not
run; named servers alone, if any are named. A server that cannot be had is left out, with the reason
on standard error, and the tests that need it skip. `stop` ends them and removes their data.

Of the standard library alone, since it runs before there is an environment.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "dagster-metaxy-servers"
"""Where the servers keep their data, logs and process ids."""

PASSWORD = "of-tests"


class Missing(Exception):
    """A server that cannot be had here."""


def run(*command: str | Path) -> str:
    """What a command prints.

    Raises:
        Missing: It fails; with what it says.
    """
    done = subprocess.run(
        command,
        cwd="/",
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"{Path(command[0]).name}: {said[-1] if said else done.returncode}")
    return done.stdout


def program(name: str) -> str | None:
    """Where a program is; Debian keeps those of PostgreSQL aside."""
    aside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(aside[-1]) if aside else shutil.which(name)


def install(needed: str, *packages: str) -> None:
    """Install Debian packages where a program is not there."""
    if program(needed):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Missing(f"{needed} is not installed (Debian: {' '.join(packages)})")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def wait(port: int, log: Path, seconds: float = 60) -> None:
    """Wait until somebody listens at a port.

    Raises:
        Missing: Nobody does; with the end of the log.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    raise Missing(f"nobody listens at port {port}: {' '.join(said[-1:])}")


def postgres(folder: Path) -> Mapping[str, str]:
    """Start PostgreSQL, as its own user where we are root."""
    install("postgres", "postgresql")
    port, password, data = free_port(), folder / "password", folder / "data"
    password.write_text(PASSWORD)
    user: tuple[str, ...] = ()
    if os.geteuid() == 0:  # as whom PostgreSQL does not run
        user = ("runuser", "-u", "postgres", "--")
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
    control = (*user, str(program("pg_ctl")), "-D", data)
    initial = f"--username=postgres --pwfile={password} --auth=scram-sha-256 --no-sync -E UTF8"
    run(*control, "initdb", "-o", initial)
    # What is in it need not survive the machine.
    settings = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c max_connections=200"
    run(*control, "-l", folder / "log", "-w", "-o", settings, "start")
    pid = (data / "postmaster.pid").read_text().splitlines()[0]
    (folder / "pids").write_text(pid)
    return {
        "DAGSTER_METAXY_TEST_POSTGRES": f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
    }


def ceph(folder: Path) -> Mapping[str, str]:
    """Start a monitor, an OSD that keeps everything in memory, and the RADOS gateway."""
    install("radosgw", "radosgw", "ceph-mon", "ceph-osd")
    monitor, gateway = free_port(), free_port()
    cluster = "00000000-0000-4000-8000-000000000001"
    (folder / "ceph.conf").write_text(f"""\
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}]
mon initial members = a
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data = {folder}/mon
mon data avail crit = 0
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
rgw frontends = beast endpoint=127.0.0.1:{gateway}
""")
    own = ("--conf", folder / "ceph.conf")
    pids: list[str] = []

    def start(*command: str | Path) -> None:
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *own, "-f"],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pids.append(str(process.pid))
        (folder / "pids").write_text("\n".join(pids))

    address = f"[v2:127.0.0.1:{monitor}]"
    run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, folder / "monmap")
    (folder / "osd").mkdir()
    run("ceph-mon", *own, "--mkfs", "-i", "a", "--monmap", folder / "monmap")
    start("ceph-mon", "-i", "a")
    wait(monitor, folder / "mon.a.log")
    run("timeout", "60", "ceph", *own, "osd", "create", cluster)
    run("ceph-osd", *own, "--mkfs", "-i", "0", "--osd-uuid", cluster)
    start("ceph-osd", "-i", "0")
    user = ("user", "create", "--uid=tests", "--display-name=tests")
    keys = ("--access-key=tests", f"--secret-key={PASSWORD}")
    run("timeout", "120", "radosgw-admin", *own, *user, *keys)
    start("radosgw", "-n", "client.admin")
    wait(gateway, folder / "client.admin.log")
    return {
        "DAGSTER_METAXY_TEST_S3": f"http://127.0.0.1:{gateway}",
        "DAGSTER_METAXY_TEST_S3_KEY": "tests",
        "DAGSTER_METAXY_TEST_S3_SECRET": PASSWORD,
    }


SERVERS: Mapping[str, Callable[[Path], Mapping[str, str]]] = {"postgres": postgres, "ceph": ceph}


def processes(folder: Path) -> list[int]:
    """The processes of a server that still run; an id may have gone to another process since."""
    found = (folder / "pids").read_text().split() if (folder / "pids").exists() else []
    commands = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in found}
    return [
        pid
        for pid, command in commands.items()
        if command.exists() and str(folder) in command.read_text()
    ]


def stop(name: str) -> None:
    """End a server that runs, and remove its data."""
    folder = FOLDER / name
    # Ceph's monitor last; PostgreSQL's clients are not waited for.
    for pid in reversed(processes(folder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    ends = time.monotonic() + 10
    while left := processes(folder):
        if time.monotonic() > ends:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def start(name: str) -> str:
    """Start a server, unless it runs, and give the lines for a shell that say where it is.

    Raises:
        Missing: It cannot be had.
    """
    folder = FOLDER / name
    there = folder / "environment"
    if not (there.exists() and processes(folder)):
        stop(name)
        folder.mkdir(parents=True)
        try:
            found = SERVERS[name](folder)
        except Missing:
            stop(name)
            raise
        there.write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in found.items()))
    return there.read_text()


def main(what: str, *names: str) -> None:
    """Start or stop servers."""
    for name in names or SERVERS:
        if what == "stop":
            stop(name)
            continue
        try:
            sys.stdout.write(start(name))
        except Missing as reason:
            sys.stderr.write(f"no {name}: {reason}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("start", "stop") or {*sys.argv[2:]} - {*SERVERS}:
        sys.exit(__doc__)
    main(*sys.argv[1:])
