"""Claims about the calls that stand for programs: they say and end as these do."""

import subprocess

from tests.workflow.conftest import Project


def test_a_call_says_and_ends_as_the_program_and_what_is_no_verb_of_ours_is_the_program(tmp_path):
    project = Project(tmp_path)
    for line in ("python -m pipeline train nobody", "python -m pipeline nonsense", "python -c 1/0"):
        called = project.run(line, check=False)
        real = subprocess.run(
            line.split(),
            cwd=tmp_path,
            env=project.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (called.returncode, called.stdout) == (real.returncode, real.stdout) and real.returncode
