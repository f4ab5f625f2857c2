"""Ctrl-C at any moment after the start of ``main``: exit code 130 and one word, no traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENTRY = "from scaler.cli import main; main()"
# Sends Ctrl-C to itself at the first import of a module, or, without one, before main.
AT_IMPORT = """
import os, signal, sys
import scaler.cli

class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtImport())
sys.argv = ["scaler", *{arguments!r}]
scaler.cli.main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("scaler.cli.streams", ["--help"]),
        ("click", ["--help"]),
        ("scaler.cli.plan_command", ["plan", "JOB"]),
        ("pydantic", ["plan", "JOB"]),
        ("yaml", ["plan", "JOB"]),
        ("scaler.report.plan.text", ["plan", "JOB"]),  # in the command
        ("torch", ["plan", "JOB", "--set", "train.num_samples=null"]),
        ("scaler.masking", ["plan", "nosuch.yaml"]),
        ("scaler.cli.follow", ["submit", "JOB", "--address", "none", "--quiet"]),
    ],
)
def test_ctrl_c_while_a_module_is_imported_shows_no_traceback(
    digits_path: Path, tmp_path: Path, module: str, arguments: list[str]
) -> None:
    typed = [str(digits_path) if argument == "JOB" else argument for argument in arguments]
    code = AT_IMPORT.format(module=module, arguments=typed)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nInterrupted.\n")


def test_ctrl_c_after_a_command_keeps_its_exit_code() -> None:
    """What is left is the interpreter's own end: exit handlers, threads."""
    code = (
        "import atexit, os, signal, sys\nimport scaler.cli\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['scaler', 'schema'] if {good} else ['scaler', 'nosuch']\nscaler.cli.main()"
    )
    for good, expected in ((True, 0), (False, 2)):
        command = [sys.executable, "-c", code.format(good=good)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == expected
        assert "Traceback" not in done.stderr
        assert "Interrupt" not in done.stderr
        assert bool(done.stdout) is good


def test_ctrl_c_is_ignored_in_a_background_job_of_a_shell() -> None:
    """As in a background job of a script, or under nohup."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nimport scaler.cli\n"
        "class Now:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Now())\nsys.argv = ['scaler', '--version']\nscaler.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_command_line_does_not_change_ctrl_c() -> None:
    code = "import signal, scaler.cli; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_ctrl_c_at_any_moment_shows_no_traceback(digits_path: Path) -> None:
    """From when Python runs main; before that it is the interpreter's own start, which no program can change."""
    code = (
        f"import sys; sys.stderr.write('!'); sys.stderr.flush(); sys.argv[1:] = ['plan', {str(digits_path)!r}]; {ENTRY}"
    )
    for wait_s in (0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.3):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.read(1) == "!"
            time.sleep(wait_s)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode in (130, 0, -signal.SIGINT)  # it had ended already, or the interpreter was closing
        assert "Traceback" not in err
