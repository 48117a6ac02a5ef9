"""Where a run took place."""

import subprocess
from pathlib import Path

from loadtests.fingerprint import PACKAGES, environment, git_commit


def test_the_machine_is_described() -> None:
    """Cores, memory, kernel, Python and the versions of what can move a figure are there."""
    found = environment()

    assert found.cores >= 1
    assert found.memory_bytes > 10**8
    assert found.processor
    assert found.kernel
    assert found.python.startswith("CPython 3.")
    assert set(found.packages) <= set(PACKAGES)
    assert "msgspec" in found.packages
    assert found.postgres is None


def git(directory: Path, *arguments: str) -> None:
    """Run git in a repository of the test's own."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, timeout=20)


def test_the_commit_is_told_and_whether_it_was_changed(tmp_path: Path) -> None:
    """A commit is 40 digits, with `-dirty` where files differ from it; a tag does not hide it."""
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "tag", "-m", "t", "v1")
    clean = git_commit(tmp_path)
    (tmp_path / "a").write_text("2")

    assert clean is not None
    assert len(clean) == 40
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_no_repository_has_no_commit(tmp_path: Path) -> None:
    """A directory without git has none, also inside another's repository."""
    git(tmp_path, "init")
    (tmp_path / "inner").mkdir()

    assert git_commit(tmp_path / "inner") is None
    assert git_commit(tmp_path) is None
