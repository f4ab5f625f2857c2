"""Run a benchmark and write what it prints to a page of the documentation, from which the prose takes its figures.

Run: python benchmarks/write_measured.py NAME [ARGUMENTS of the benchmark]

``NAME`` is a script of this folder without ``.py``. The page is ``docs/measured/NAME.md``, with ``-`` for ``_``.
"""

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "docs/measured"
PAGE = """# {title}

From `python benchmarks/write_measured.py {command}`: it runs `benchmarks/{name}.py`, which says what it measures and
how, and writes here what that prints. A virtual machine of {cores} cores without a GPU, torch {torch}, Ray {ray}.

{output}
"""


def main() -> None:
    name, *arguments = sys.argv[1:]
    script = HERE / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(script.read_text())) or ""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    page = PAGE.format(
        title=docstring.split(".")[0].replace("\n", " "),
        command=" ".join([name, *arguments]),
        name=name,
        cores=os.cpu_count(),
        torch=version("torch").partition("+")[0],
        ray=version("ray"),
        output=done.stdout.strip(),
    )
    print(page)
    (PAGES / f"{name.replace('_', '-')}.md").write_text(page)


if __name__ == "__main__":
    main()
