"""The documents agree with the code: job file, links, paths, numbers, and pages that are made from it."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_language import RETIRED

from scaler.core.rules import RULES
from scaler.core.schedules import SHAPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


FIRST_RUN = (ROOT / "docs/start/first-run.md").read_text()
SCHEDULES = (ROOT / "docs/guides/schedules.md").read_text()


def block_after(text: str, fence: str) -> str:
    """Return the first fenced block of a text."""
    return text.split(f"\n```{fence}\n")[1].split("\n```")[0]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_job_file_shown_is_the_one_that_the_demo_runs() -> None:
    shown = block_after(FIRST_RUN.split("\n## The job file\n")[1], "yaml")
    assert shown == (ROOT / "jobs/digits/job.yaml").read_text().strip()


def test_every_rule_and_schedule_is_named_beside_the_example() -> None:
    example = block_after(SCHEDULES, "yaml")
    scale, schedule = example.split("\ngroups:")[0].split("\nschedule:")
    assert set(re.findall(r"[\w-]+", scale)) >= set(RULES)
    assert set(re.findall(r"[\w-]+", schedule)) >= set(SHAPES) - {"ramp"}


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
ENVIRONMENT = (ROOT / "docs/environment.md").read_text()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:scaler|tests|docs|jobs|benchmarks)/[\w./]+)`", (ROOT / page).read_text())
    assert len(named) > 3
    assert [name for name in named if not (ROOT / name).exists()] == []


def packages() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "scaler").glob("*/__init__.py"))


def test_every_package_is_in_the_map_and_in_the_layers() -> None:
    table = CONTRIBUTING.split("\n## The packages\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `scaler/(\w+)/`", table, flags=re.MULTILINE)) == packages()
    drawn = ARCHITECTURE.split("\n## The packages\n")[1].split("```")[1]
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert re.findall(r"scaler\.\w+", drawn) == [name for layer in rules for name in layer.split(" | ")]


def test_what_can_be_added_is_in_the_map() -> None:
    table = CONTRIBUTING.split("\n## To add something, touch these files\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (an? [^|]+?) \| ", table, flags=re.MULTILINE)
    assert {
        "an optimizer",
        "a rule",
        "a schedule shape",
        "a verdict",
        "a record column",
        "an event",
        "a command",
        "a page of a report",
        "a page of the documentation",
        "a key of the job file",
    } <= set(rows)


PROGRAMS = "RAY|SCALER|AWS|AZURE|GOOGLE|WANDB|MLFLOW|OMP|MKL|NCCL|GLOO|CUDA|TORCH|AUTOSCALER|DASHBOARD"
VARIABLE = re.compile(rf"""["']((?:{PROGRAMS})_\w+|PYTHON[A-Z]+)["']""")
READ = re.compile(r"""(?:environ(?:\.get\(|\.setdefault\(|\.pop\(|\[)|getenv\()\s*["'](\w+)["']""")


def variables(text: str) -> set[str]:
    """The environment variables that a source names: by the prefix of a known program, or as it reads them."""
    return {*VARIABLE.findall(text), *READ.findall(text)}


def test_every_environment_variable_is_on_its_page() -> None:
    found = {name for path in (ROOT / "scaler").rglob("*.py") for name in variables(path.read_text())}
    assert {"RAY_TMPDIR", "PYTHONHASHSEED", "SCALER_RESIZE_CHECK_S", "WANDB_API_KEY", "GLOO_SOCKET_IFNAME"} <= found
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" in found
    assert sorted(found - set(re.findall(r"`(\w+)`", ENVIRONMENT))) == []


def test_a_variable_that_scaler_has_of_its_own_is_still_in_the_code() -> None:
    ours = set(re.findall(r"`(SCALER_\w+)`", ENVIRONMENT))
    code = "".join(path.read_text() for folder in ("scaler", "tests") for path in (ROOT / folder).rglob("*.py"))
    assert sorted(name for name in ours if f'"{name}"' not in code) == []


def test_the_table_of_words_has_every_word_that_the_test_of_the_language_finds() -> None:
    rows = CONTRIBUTING.split("| not | but |")[1].split("\n\n")[0].splitlines()
    words = "\n".join(row.split(" | ")[0] for row in rows)
    assert [pattern for pattern in RETIRED if not re.search(pattern, words)] == []


def test_the_report_of_the_first_run_has_the_lines_of_a_report() -> None:
    def labels(text: str) -> list[str]:
        return [line.split("  ")[0] for line in text.splitlines() if re.match(r"[a-z ]+  ", line)]

    shown = block_after(FIRST_RUN.split("the report follows:")[1], "text")
    assert labels(shown)[:6] == ["trained", "speed", "wall clock", "train loss", "eval accuracy", "eval loss"]
    own = ("eval", "gradient noise scale")  # lines that only the demo has, by its recipe and length
    assert [label for label in labels(shown) if not label.startswith(own)] == [
        label for label in labels((ROOT / "tests/golden/report.txt").read_text()) if not label.startswith(own)
    ]


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("make_job_file_page", "job-file.md"),
        ("make_numbers_page", "numbers.md"),
        ("make_data_page", "data.md"),
        ("make_scaling_table", "scaling-table.md"),
        ("make_evidence", "evidence.md"),
        ("make_auto_page", "auto.md"),
        ("make_rules_experiments", "rules-experiments.md"),
    ],
)
def test_a_generated_page_is_fresh(script: str, page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == loaded(script).page(), "make docs writes it again"


@pytest.mark.parametrize("page", ["commands.md", "exit-codes.md", "python.md"])
def test_a_page_of_the_reference_is_fresh(page: str) -> None:
    made = loaded("make_reference_pages").PAGES[page]()
    assert (ROOT / "docs/reference" / page).read_text() == made, "make docs writes it again"


def loaded(script: str) -> Any:
    """Import a script of docs."""
    spec = importlib.util.spec_from_file_location(script, ROOT / f"docs/{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda page: page.name)
def test_a_decision_is_numbered_as_its_name_says(page: Path) -> None:
    number = int(page.name.split("-")[0])
    assert page.read_text().startswith(f"# {number}. ")


def test_every_link_in_the_documents_has_a_target() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = "".join(target)
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
MEASURED = re.compile(r"\d[\d,.]* ?(?:%|ms\b|us\b|s\b|[GM]iB\b|samples/s|times as fast)")
PROSE = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*/*.md"), *map(ROOT.joinpath, ("docs/limits.md", "docs/comparison.md"))]
)
PROSE = [page for page in PROSE if page.parent.name not in ("decisions", "measured", "reference")]


@pytest.mark.parametrize("page", [*PROSE, ROOT / "docs/benchmarks.md"], ids=lambda page: page.name)
def test_a_figure_in_prose_is_in_the_file_that_its_mark_names(page: Path) -> None:
    """A paragraph with a measured figure has a mark ``<!-- numbers: FILE ... -->`` before it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for paragraph in text.split("\n\n"):
        mark = re.match(r"<!-- numbers: (.+?) -->\n", paragraph)
        if mark is not None:
            sources = "".join((ROOT / name).read_text() for name in mark[1].split())
            shown = NUMBER.findall(
                re.sub(r'\w+="\d+"', "", paragraph.removeprefix(mark[0]))
            )  # not the width of a picture
            missing = [number for number in shown if number not in NUMBER.findall(sources)]
            assert missing == [], f"{mark[1]} lacks these"
        elif page in PROSE and not paragraph.lstrip().startswith("|"):
            assert MEASURED.findall(paragraph) == [], paragraph


DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
USERS_FILES = {
    "path/file.py",
    "src/pkg/train.py",
    "recipe.py",
    "pkg/train.py",
    "train.py",
    "train_accelerate.py",
    "train_lightning.py",
    "train_transformers.py",
    "types.py",
    "datasets.py",
    "job.yaml",
    "my-job/job.yaml",
    "my-job/recipe.py",
    "forecaster/job.yaml",
    "forecaster/recipe.py",
    "recommended.yaml",
    "train.yml",
}  # examples of a user's files
RAYS_PROCESSES = {"_private/log_monitor.py", "_private/monitor.py", "dashboard/dashboard.py"}  # in a table of processes
EXPORTED = {path.name for path in (ROOT / "docker").rglob("*.yaml")}  # written into the folder deploy of a job


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_path_in_a_document_exists(page: Path) -> None:
    """A path is relative to the repository, to ``scaler/`` or ``scaler/cluster/``, to the page, or is exported."""
    paths = set(re.findall(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|toml|j2))(?![\w-])", page.read_text()))
    paths |= set(re.findall(r"`((?:scaler|tests|benchmarks|docs|jobs)/[\w./-]+)`", page.read_text()))
    missing = [
        path
        for path in sorted(paths - USERS_FILES - RAYS_PROCESSES)
        if not path.startswith("runs/")  # of runs and experiments
        and not any(
            (folder / path).exists() for folder in (ROOT, ROOT / "scaler", ROOT / "scaler/cluster", page.parent)
        )
        and path.removeprefix("JOB/deploy/") not in EXPORTED
    ]
    assert not missing, f"{page.name} names files that do not exist: {', '.join(missing)}"


def test_every_decision_that_the_code_names_exists() -> None:
    names = {path.name for path in (ROOT / "docs/decisions").glob("*.md")}
    for source in [
        *(ROOT / "scaler").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*"),
    ]:
        if source.suffix == ".py" and source != Path(__file__):
            for named in re.findall(r"decisions/(\d[\w-]+)", source.read_text()):
                assert any(name.startswith(named) for name in names), f"{source.relative_to(ROOT)}: {named}"
