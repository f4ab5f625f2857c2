"""Jobs that cannot work: ``scaler submit`` says so before Ray or torch is loaded and before a run's folder is made."""

import subprocess
import sys
from pathlib import Path

import pytest
from in_process import Scaler

from scaler.cli.templates import files_of

RECIPE = files_of("classifier")["recipe.py"]
PYTHON_SEARCHES = "Python searches HERE, PYTHONPATH and the installed packages."


@pytest.fixture
def submit(scaler_command: Scaler, tmp_path: Path) -> Scaler:
    """Submit the job of ``scaler init`` with changes, for an embedded cluster."""
    scaler_command("init", ".")

    def command(*settings: str | Path) -> tuple[int, str]:  # type: ignore[misc]
        outcome = scaler_command("submit", "job.yaml", *(part for each in settings for part in ("--set", each)))
        assert outcome.out == ""
        assert not Path("runs").exists()
        return outcome.code, outcome.err.partition("Error: ")[2].replace(str(tmp_path), "HERE")

    return command  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("setting", "code", "error"),
    [
        ("recipe=nosuch:build", 2, f"recipe = nosuch:build: there is no module nosuch.\n  {PYTHON_SEARCHES}\n"),
        (
            "recipe=recipe:biuld",
            2,
            "recipe = recipe:biuld: recipe has no function biuld.\n"
            '  Did you mean "build"? Functions there: build, evaluate.\n',
        ),
        (
            "recipe_args={hiden: 3}",
            2,
            "recipe_args do not fit recipe:build: got an unexpected keyword argument 'hiden'.\n"
            "  Its signature is build(hidden: int=64).\n",
        ),
        (
            "reference.optimizer={name: torch.optim:NAdamm}",
            2,
            "reference.optimizer: torch.optim has no class NAdamm.\n"
            '  Did you mean "torch.optim:NAdam"? A path is module:Class, such as torch.optim:NAdam.\n',
        ),
        (
            "reference.optimizer={name: nosuch_package:Adam}",
            2,
            "reference.optimizer: nosuch_package:Adam needs the module nosuch_package, which is not installed.\n"
            "  Install it, or correct the name.\n",
        ),
        (
            "reference.optimizers={d: {optimizer: {name: torch.optim:Zzzzzz}}}",
            2,
            "reference.optimizer: torch.optim has no class Zzzzzz.\n"
            "  A path is module:Class, such as torch.optim:NAdam.\n",
        ),
    ],
)
def test_a_job_that_does_not_fit_its_recipe(submit: Scaler, setting: str, code: int, error: str) -> None:
    assert submit(setting, "scale.rule=linear", "train.noise_scale_every=null") == (code, error)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "def build(:\n",
            "recipe:build failed: SyntaxError: invalid syntax (recipe.py, line 1)\n"
            '    File "HERE/recipe.py", line 1\n'
            "      def build(:\n"
            "                ^\n"
            "  SyntaxError: invalid syntax\n",
        ),
        (
            "def build():\n    pass\nreturn 1\n",  # the parser accepts it, and the compiler does not
            "recipe:build failed: SyntaxError: 'return' outside function (recipe.py, line 3)\n"
            '    File "HERE/recipe.py", line 3\n'
            "      return 1\n"
            "      ^^^^^^^^\n"
            "  SyntaxError: 'return' outside function\n",
        ),
        (
            f"import nosuch_package.part\n{RECIPE}",
            "recipe:build needs the module nosuch_package, which is not installed.\n  pip install nosuch_package\n",
        ),
        (
            f"from nosuch_package import part\n{RECIPE}",
            "recipe:build needs the module nosuch_package, which is not installed.\n  pip install nosuch_package\n",
        ),
    ],
)
def test_a_recipe_that_cannot_be_imported(submit: Scaler, text: str, error: str) -> None:
    Path("recipe.py").write_text(text)
    assert submit() == (4, error)


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import nosuch_package\nexcept ImportError:\n    pass\n",
        "if False:\n    import nosuch_package\n",
        "def other():\n    import nosuch_package\n",
        "from . import own\n",
        "import own\n",
        "from functools import cache\n@cache\n",  # a decorator may take other arguments
    ],
)
def test_what_the_source_cannot_tell_is_left_to_the_import(tmp_path: Path, text: str) -> None:
    from scaler.training.recipe.lookup import require_importable

    (tmp_path / "own.py").write_text("")
    (tmp_path / "recipe_here.py").write_text(f"{text}def build(hidden=3, *, wide, **more): pass\n")
    require_importable("recipe_here:build", folder=tmp_path, arguments={"wide": 1, "other": 2})


def test_neither_torch_nor_ray_is_loaded(submit: Scaler, tmp_path: Path) -> None:
    script = """
import sys
from scaler.cli import run
assert run(["submit", "job.yaml", "--set", "recipe_args={hiden: 3}"]) == 2
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "ray"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "\n"
