"""What commands load before their first work: budgets of time rest on it, and it can be told without a clock."""

import json
import subprocess
import sys

import pytest

from benchmarks._harness import ROOT
from benchmarks.startup import PARAMS, STARTS, Start

# One process, which loads what the starts that follow share, and forks for each.
FORKING = """
import json, os, sys
done = ""
for name, before, code, modules in json.load(sys.stdin):
    if before != done:
        exec(done := before)
    child = os.fork()
    if not child:
        try:
            exec(code, {})
            said = [module for module in modules if module in sys.modules]
        except BaseException as error:
            said = [repr(error)]
        print("@" + json.dumps([name, said]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def loaded(starts: dict[str, Start]) -> dict[str, list[str]]:
    """Start -> what of `unloaded` it has loaded all the same."""
    cases, held = [], {"help": "", "light": PARAMS, "torch": f"{PARAMS}import torch, torch.utils.data"}
    for group, before in held.items():
        for name, start in starts.items():
            own = "help" if "numpy" in start.unloaded else "light" if "torch" in start.unloaded else "torch"
            if own == group:
                cases.append((name, before, start.code, sorted(start.unloaded)))
    done = subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(cases), cwd=ROOT, text=True, capture_output=True, check=True
    )
    return dict(json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@"))


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    # A trainer is five seconds of Lightning's own imports, and it is what is asked for.
    return loaded({name: start for name, start in STARTS.items() if name != "train"})


@pytest.mark.parametrize("name", [name for name in STARTS if name != "train"])
def test_a_start_loads_nothing_that_its_first_work_does_not_need(found, name):
    assert found[name] == []


def test_a_start_that_loads_what_it_should_not_is_seen():
    broken = {
        "one": Start("import json\nimport numpy", None, frozenset({"numpy"})),
        "two": Start("1 / 0", None, frozenset()),
    }
    assert loaded(broken) == {"one": ["numpy"], "two": ["ZeroDivisionError('division by zero')"]}
