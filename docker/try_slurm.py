"""Run ``slurm.sh`` on a real Slurm of two nodes, both on this machine.

    sudo apt-get install slurmctld slurmd slurm-client munge && sudo python docker/try_slurm.py

The job is exported and submitted, and gets Slurm's signal in training, as before the end of its time: the run saves,
the job queues again, and the run resumes and ends. Slurm's daemons are started in a folder of their own and ended.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAIT_S = 300
SETTINGS = """
ClusterName=try
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort=17000
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=1 RealMemory=5000
PartitionName=main Nodes=ALL Default=YES
"""


def start(folder: Path) -> list[Path]:
    """Start munge, Slurm's controller and two nodes; return the files with their process ids."""
    folder.joinpath("slurm.conf").write_text(SETTINGS.format(folder=folder))
    folder.joinpath("state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munge.log"}
    options = [f"--{name}={folder / file}" for name, file in {**files, "seed-file": "munge.seed"}.items()]
    for command in (["munged", "--force", *options], ["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
        subprocess.run(command, check=True)
    return [folder / name for name in ("slurmd-n2.pid", "slurmd-n1.pid", "slurmctld.pid", "munged.pid")]


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(1)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(folder: Path) -> None:
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    pids = start(folder)
    try:
        runs = folder / "runs"
        changes = [f"storage={runs}", "train.epochs=400", "checkpoint.every={epochs: 20}"]
        export = [str(Path(sys.executable).parent / "scaler"), "export", "slurm", "jobs/digits", "--run-id", "digits-1"]
        sets = [part for change in changes for part in ("--set", change)]
        subprocess.run([*export, *sets, "--output", str(folder)], cwd=ROOT, check=True)
        job = output("sbatch", "--parsable", f"--output={folder}/job.out", str(folder / "slurm.sh"))
        wait_until(lambda: list(runs.glob("*/checkpoints/*.json")))
        output("scancel", "--signal=USR1", "--batch", job)
        wait_until(lambda: not output("squeue", "--noheader", f"--jobs={job}"))
        print((folder / "job.out").read_text())
        print((runs / "digits-1" / "status.json").read_text())
    finally:
        for path in pids:
            if path.exists():
                os.kill(int(path.read_text()), 15)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        main(Path(made))
