"""A real Slurm of two small nodes on this machine, for tests.

Debian's packages are unpacked into a folder and not installed: with an ``srun`` on everybody's PATH Lightning
complains in every ordinary run. No root, systemd, cgroups or data base is needed, and nothing is written elsewhere.

    python tests/slurm_here.py    unpacks the packages, or says in one line why it cannot
"""

import ctypes
import getpass
import os
import platform
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
UNPACKED = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "lit_unlearn", "slurm")
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
CPUS, NODES = 4, 2
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 240  # seconds: a busy machine is slow
Found = TypeVar("Found")

CONFIG = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# How long a job that was put back waits before it may start again: 120 s otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
# Nodes may claim more than the machine has.
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=3
ReturnToService=2
# Lightning takes its port from the end of the job's number.
FirstJobId={first}
PartitionName=here Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """Slurm cannot be had here; the message says why in one line."""


def unpack(target: Path = UNPACKED) -> Path:
    """Downloads and unpacks the packages, once.

    Raises:
        Unavailable: if this is no Debian, or its packages cannot be downloaded.
    """
    done = target / ".complete"
    if done.exists():
        return target
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Unavailable("there is no apt-get, from whose packages Slurm is unpacked")
    # A simulated installation names what is missing, with versions, and needs no root.
    plan = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES], capture_output=True, text=True
    )
    chosen = [f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) .*?\((\S+)", plan.stdout, re.MULTILINE)]
    if not chosen:
        raise Unavailable(f"apt-get knows no {' and '.join(PACKAGES)}: {plan.stderr.strip().partition(chr(10))[0]}")
    part = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    got = subprocess.run(["apt-get", "download", "-qq", *chosen], cwd=part, capture_output=True, text=True)
    archives = sorted(part.glob("*.deb"))
    if got.returncode or not archives:
        shutil.rmtree(part)
        raise Unavailable(f"apt-get cannot download Slurm: {got.stderr.strip().partition(chr(10))[0]}")
    for archive in archives:
        subprocess.run(["dpkg", "--extract", archive, part], check=True)
        archive.unlink()
    for daemon in ("slurmctld", "slurmd", "slurmstepd"):
        link = part / "usr/sbin" / daemon
        if not link.exists():
            link.symlink_to(f"{daemon}-wlm")  # an installation makes this link, and Slurm looks at its own name
    (part / ".complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


class Slurm:
    """A cluster of two nodes, whose daemons are children of this process.

    Args:
        folder: for its settings, keys and logs; a short path.
        packages: what :func:`unpack` has unpacked.
    """

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder, self.packages = folder, packages
        self.libraries = packages / f"usr/lib/{platform.machine()}-linux-gnu"
        self.settings = folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment of somebody on this cluster."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PL_", "SUBMITIT"))}
        return own | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def start(self) -> None:
        """Starts the daemons and waits until both nodes are idle.

        Raises:
            Unavailable: with the last line of a log, if they are not within 30 seconds.
        """
        self._write()
        names = [self._node(number) for number in range(NODES)]
        for name in ("state", *(f"spool-{node}" for node in names)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        munge = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "seed", "pid", "log")]
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *munge)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-i", "-f", self.settings)
        for node in names:
            self._daemon("slurmd", "-D", "-f", self.settings, "-N", node, "-d", self._program("slurmstepd"))
        self._wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * NODES, "the nodes")

    def stop(self) -> None:
        """Ends the jobs, then the daemons."""
        if len(self._daemons) > 1:
            self.ask("scancel", "--me")
            deadline = time.monotonic() + 15
            while self.ask("squeue", "-h").strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons = []

    def ask(self, client: str, *args: str) -> str:
        """Calls a client command; returns what it printed, or nothing if it failed."""
        done = subprocess.run(
            [self.folder / "bin" / client, *args], capture_output=True, text=True, timeout=20, env=self.environment
        )
        return done.stdout if done.returncode == 0 else ""

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = _free_ports(1 + NODES)
        host = socket.gethostname().partition(".")[0]
        settings = CONFIG.format(
            host=host,
            ports=ports,
            user=getpass.getuser(),
            folder=self.folder,
            plugins=self.libraries / "slurm-wlm",
            first=random.randint(1000, 60000),
        )
        for number, port in enumerate(ports[1:]):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            settings += f"NodeName={self._node(number)} {where} CPUs={CPUS} RealMemory=16000 State=UNKNOWN\n"
        self.settings.write_text(settings)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "bin").mkdir(exist_ok=True)
        for client in CLIENTS:
            script = self.folder / "bin" / client
            script.write_text(
                f'#!/bin/sh\nexport SLURM_CONF="{self.settings}"\nexport LD_LIBRARY_PATH="{self._search_path()}"\n'
                f'exec "{self._program(client)}" "$@"\n'
            )
            script.chmod(0o755)

    def _node(self, number: int) -> str:
        # Lightning finds the first task by the name of its node, which must therefore be one that resolves.
        host = socket.gethostname().partition(".")[0]
        return host if number == 0 else f"{host}-{number + 1}"

    def _program(self, name: str) -> Path:
        for folder in ("usr/sbin", "usr/bin"):
            if (self.packages / folder / name).exists():
                return self.packages / folder / name
        raise Unavailable(f"the packages hold no {name}")

    def _search_path(self) -> str:
        return f"{self.libraries / 'slurm-wlm'}:{self.libraries}"

    def _daemon(self, name: str, *args: object) -> None:
        environment = self.environment | {"LD_LIBRARY_PATH": self._search_path(), "SLURM_CONF": str(self.settings)}
        with (self.folder / f"{name}.out").open("ab") as out:
            command = [str(self._program(name)), *map(str, args)]
            daemon = subprocess.Popen(command, env=environment, stdout=out, stderr=out, preexec_fn=_end_with_parent)
            self._daemons.append(daemon)

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not ready():
            dead = [daemon for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                lines = [line for log in sorted(self.folder.glob("*.log")) for line in log.read_text().splitlines()]
                said = next(
                    (line for line in reversed(lines) if "error" in line or "fatal" in line), "nothing is logged"
                )
                raise Unavailable(f"{what} did not come up: {said}")
            time.sleep(0.1)


class User:
    """Somebody with a clone of the project who submits jobs from it.

    Args:
        slurm: the cluster.
        folder: where the clone lies.
    """

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        for name in ("configs", "checkpoints"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "bin").mkdir()
        (folder / "bin/lit-unlearn").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lit_unlearn "$@"\n')
        (folder / "bin/lit-unlearn").chmod(0o755)
        self.environment = slurm.environment | {
            "PATH": f"{folder / 'bin'}:{slurm.environment['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Starts a command, whose output goes to ``out.txt``."""
        with (self.folder / "out.txt").open("a") as out:
            words = [str(word) for word in command]
            return subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=out, stderr=out, text=True)

    def sbatch(self, *words: object) -> str:
        """Submits a script; returns the job's number."""
        command = ["sbatch", "--parsable", *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """The state of every job that the cluster remembers, by its number."""
        lines = self.slurm.ask("squeue", "--array", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def until(self, ready: Callable[[], Found], what: str) -> Found:
        """Waits for something to become true, and returns it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := ready()):
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}; the jobs are {self.jobs()}"
            time.sleep(0.1)
        return found

    def ended(self, job: str) -> str:
        """Waits until a job has ended; returns its last state."""
        return self.until(lambda: (self.jobs().get(job, "") in ("COMPLETED", "FAILED")) and self.jobs()[job], "an end")


def _end_with_parent() -> None:
    """Asks Linux to end this process when the one that started it is killed."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    try:
        print(unpack())
    except Unavailable as error:
        sys.exit(str(error))
