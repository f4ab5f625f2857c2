"""Make the image of ``docker/Dockerfile`` without a container engine: every instruction is executed.

    make wheel && sudo python docker/try_image.py /tmp/image

The base image is not at hand without a registry, so a Debian of the same release with its Python stands for it: made by
debootstrap, with a virtual environment in /usr/local, where the base image has its Python. Everything else is
executed as it is written: RUN with chroot, COPY, ARG, ENV, USER, WORKDIR. The image is a folder; ``image.json`` beside
it has the rest. pip's settings of this machine hold in it, too. The Dockerfile's own cache is not imitated: a second
run starts anew.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = "ca-certificates,python3,python3-venv"
SETTINGS = re.compile(r"PIP_\w+|SSL_CERT_FILE|https?_proxy|no_proxy")

# Folders with wheels of this machine are seen in the image, too, while a command runs.
MOUNTS = """set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
for folder in $PIP_FIND_LINKS; do
  if [ -d "$folder" ]; then mkdir -p "$0$folder"; mount --bind "$folder" "$0$folder"; fi
done
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile and their arguments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def expanded(text: str, values: dict[str, str]) -> str:
    """Return a text with the values of ARG and ENV in it."""
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def debootstrap(root: Path, release: str) -> None:
    """Make a Debian with Python in /usr/local, which stands for the base image."""
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(root)], check=True)
    chroot(root, "python3 -m venv /usr/local", {})


def chroot(root: Path, command: str, values: dict[str, str], *, user: str = "0", folder: str = "/") -> None:
    """Run a shell command in the image."""
    variables = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **values}
    subprocess.run(
        [
            *("unshare", "--mount", "bash", "-c", f'{MOUNTS} exec "$@"', str(root)),
            *("chroot", f"--userspec={user}", str(root), "env", "-i"),
            *(f"{key}={value}" for key, value in variables.items()),
            *("/bin/sh", "-c", f"cd {folder} && {command}"),
        ],
        check=True,
    )


def take_settings(root: Path) -> dict[str, str]:
    """Copy how this machine reaches Debian's and pip's packages, and return the variables for it."""
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip"):
        if Path(path).is_dir():
            shutil.copytree(path, inside(root, path), dirs_exist_ok=True)
        elif Path(path).exists():
            shutil.copy(path, inside(root, path))
    certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    shutil.copy(certificates, inside(root, "/etc/ssl/certs/ca-certificates.crt"))
    return {name: value for name, value in os.environ.items() if SETTINGS.fullmatch(name)}


def run(root: Path, rest: str, values: dict[str, str], state: dict[str, str], settings: dict[str, str]) -> None:
    """Execute RUN; files that it binds are there only meanwhile."""
    bound = []
    while match := re.match(r"--mount=type=bind,source=(\S+),target=(\S+)\s+", rest):
        source, target = ROOT / match[1], inside(root, match[2])
        shutil.copy(source, target)
        bound.append(target)
        rest = rest[match.end() :]
    print(f"RUN {rest}", flush=True)
    chroot(root, rest, {**settings, **values}, user=state["user"], folder=state["folder"])
    for path in bound:
        path.unlink()


def copy(root: Path, rest: str) -> None:
    """Execute COPY of a folder."""
    match = re.fullmatch(r"--chown=scaler:scaler (\S+) (\S+)", rest)
    assert match is not None, rest
    print(f"COPY {rest}", flush=True)
    shutil.copytree(
        ROOT / match[1],
        inside(root, match[2]),
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("runs", "__pycache__"),
    )
    chroot(root, f"chown -R scaler:scaler {match[2]}", {})


def main(root: Path, file: Path) -> None:
    values: dict[str, str] = {}
    environment: dict[str, str] = {}
    state = {"user": "0", "folder": "/"}
    settings: dict[str, str] = {}
    for name, rest in instructions(file.read_text()):
        rest = rest if name == "RUN" else expanded(rest, {**values, **environment})
        match name:
            case "FROM":
                release = rest.rpartition("-")[2]
                if not (root / "etc").exists():
                    debootstrap(root, release)
                settings = take_settings(root)
            case "ARG":
                key, _, value = rest.partition("=")
                values[key] = os.environ.get(key, value.strip('"'))
            case "ENV":
                environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            case "RUN":
                run(root, rest, {**values, **environment}, state, settings)
            case "COPY":
                copy(root, rest)
            case "USER":
                state["user"] = f"{rest}:{rest}"
            case "WORKDIR":
                state["folder"] = rest
            case "CMD":
                state["command"] = rest
            case _:
                raise SystemExit(f"{file}: {name} is not known here.")
    about = {"environment": environment, "folder": state["folder"], "user": int(state["user"].split(":")[0])}
    about["command"] = json.loads(state["command"])
    root.with_suffix(".json").write_text(json.dumps(about, indent=1))
    size = subprocess.run(["du", "-sm", str(root)], capture_output=True, text=True, check=True).stdout.split()[0]
    print(f"{root}: {size} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), ROOT / "docker" / "Dockerfile")
