"""scripts/setup_pod.sh with stubs for a rented machine's tools: the order of its steps; no file of the user is lost.

It has not been run on a real machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "basename", "cat", "cmp", "cp", "df", "dirname", "du", "git", "ln", "mkdir", "readlink")
PARAMS = "data:\n  root: data/sample\n"
PROFILE = "data:\n  root: data/ffpp\n"
# The stubs record their calls. FAIL lists the calls that fail.
STUB = """#!/bin/bash
call="$(basename "$0") $*"
echo "$call" >> "$CALLS"
IFS=,; for failing in $FAIL; do [[ $call == $failing* ]] && exit 3; done
exit 0
"""
PYTHON = f"""#!/bin/bash
case "$*" in *yaml.safe_load*) exec {shlex.quote(sys.executable)} "$@";; esac
call="python $*"
echo "$call" >> "$CALLS"
IFS=,; for failing in $FAIL; do [[ $call == $failing* ]] && exit 3; done
exit 0
"""


class Pod:
    """A repository with the script, a profile and params.yaml, and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.bin, self.calls = folder / "re po", folder / "bin", folder / "calls"
        for path in ("scripts", "profiles", ".venv/bin"):
            (self.repository / path).mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup_pod.sh", self.repository / "scripts")
        (self.repository / "params.yaml").write_text(PARAMS)
        (self.repository / "profiles/ffpp_a100.yaml").write_text(PROFILE)
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or name)
        self.stub(*(self.bin / name for name in ("nvidia-smi", "make", "gcc", "python3")))
        self.stub(self.repository / ".venv/bin/dvc", self.repository / ".venv/bin/uv")
        self.stub(self.repository / ".venv/bin/python", text=PYTHON)
        self.git("init", "-q")
        self.git("add", "params.yaml")
        self.git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "original")
        self.data = folder / "my data"
        (self.data / "FaceForensics++").mkdir(parents=True)

    def stub(self, *paths: Path, text: str = STUB) -> None:
        for path in paths:
            path.write_text(text)
            path.chmod(0o755)

    def git(self, *arguments: str) -> None:
        subprocess.run(("git", *arguments), cwd=self.repository, check=True)

    def run(
        self,
        *arguments: object,
        fail: str = "python -c import mamba_ssm",
        cwd: Path | None = None,
        variables: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        self.calls.write_text("")
        environment = {
            "PATH": str(self.bin),
            "CALLS": str(self.calls),
            "FAIL": fail,
            "HOME": os.environ["HOME"],
            **(variables or {}),
        }
        done = subprocess.run(
            ["bash", str(self.repository / "scripts/setup_pod.sh"), *map(str, arguments)],
            cwd=cwd or self.repository, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()

    @property
    def params(self) -> str:
        return (self.repository / "params.yaml").read_text()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_help_does_nothing(pod: Pod) -> None:
    code, text = pod.run("--help")
    assert code == 0
    assert text.startswith("usage: bash scripts/setup_pod.sh")
    assert max(map(len, text.splitlines())) <= 100
    assert pod.called == []


@pytest.mark.parametrize("inside", [False, True])
def test_steps_run_in_order_from_any_folder_and_again(inside: bool, pod: Pod, tmp_path: Path) -> None:
    given = "my data/FaceForensics++" if inside else "my data"
    for _ in range(2):
        code, text = pod.run(given, cwd=tmp_path)
        assert code == 0, text
        steps = [
            "nvidia-smi",
            "make install",
            "uv pip install",
            "dvc repro verify_data",
            "python -m pipeline.forecast",
        ]
        places = [next(i for i, call in enumerate(pod.called) if call.startswith(step)) for step in steps]
        assert places == sorted(places)
        assert (pod.repository / "data/ffpp").resolve() == pod.data
        assert pod.params == PROFILE
    assert "params.yaml already equals profiles/ffpp_a100.yaml" in text
    assert [p.name for p in pod.data.iterdir()] == ["FaceForensics++"]  # no link inside the linked folder


def test_changed_parameters_stay(pod: Pod) -> None:
    mine = "data:\n  root: elsewhere\n"
    (pod.repository / "params.yaml").write_text(mine)
    for staged in (False, True):
        if staged:
            pod.git("add", "params.yaml")
        code, text = pod.run(pod.data)
        assert code == 0, text
        assert pod.params == mine
        assert "has changes of yours and stays as it is" in text
        assert "data.root is elsewhere in params.yaml, not data/ffpp" in text


def test_untracked_parameters_stay(pod: Pod) -> None:
    pod.git("rm", "-q", "--cached", "params.yaml")
    pod.git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "untracked")
    code, text = pod.run(pod.data)
    assert (code, pod.params) == (0, PARAMS), text
    shutil.rmtree(pod.repository / ".git")
    code, text = pod.run(pod.data)
    assert (code, pod.params) == (0, PARAMS), text


def test_a_folder_where_the_link_should_be_stays(pod: Pod) -> None:
    (pod.repository / "data/ffpp").mkdir(parents=True)
    (pod.repository / "data/ffpp/precious").touch()
    code, text = pod.run(pod.data)
    assert code == 1
    assert "data/ffpp exists and is not a link" in text
    assert (pod.repository / "data/ffpp/precious").exists()
    assert pod.params == PARAMS


@pytest.mark.parametrize("given", ["data/ffpp", "data/ffpp/FaceForensics++"])
def test_data_where_the_link_should_be_is_used(given: str, pod: Pod) -> None:
    (pod.repository / "data/ffpp/FaceForensics++").mkdir(parents=True)
    for _ in range(2):
        code, text = pod.run(given)
        assert code == 0, text
        assert "data/ffpp is the given folder" in text
        assert not (pod.repository / "data/ffpp").is_symlink()
        assert [p.name for p in (pod.repository / "data/ffpp").iterdir()] == ["FaceForensics++"]
        assert pod.params == PROFILE


def test_without_data_it_prints_which_is_used(pod: Pod) -> None:
    assert "data.root is data/sample in params.yaml" in pod.run()[1]
    assert "data.root is data/ffpp in params.yaml" in pod.run(pod.data)[1]
    code, text = pod.run()
    assert code == 0
    assert "data.root is data/ffpp in params.yaml" in text
    assert "sample" not in text


def test_another_users_repository_is_an_error_with_the_command_to_type(pod: Pod, tmp_path: Path) -> None:
    owner = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "HOME": str(tmp_path)}
    code, text = pod.run(pod.data, variables=owner)
    assert code == 1
    assert "error: git refuses this folder" in text
    line = text.splitlines()[-1].strip()
    assert line.startswith("git config --global --add safe.directory ")
    assert not any(call.startswith("make") for call in pod.called)
    subprocess.run(line, shell=True, check=True, env={**os.environ, "HOME": str(tmp_path)})
    code, text = pod.run(pod.data, variables=owner)
    assert code == 0, text
    assert pod.params == PROFILE


def test_cdpath_is_ignored(pod: Pod, tmp_path: Path) -> None:
    code, text = pod.run("my data", cwd=tmp_path, variables={"CDPATH": str(tmp_path)})
    assert code == 0, text
    assert (pod.repository / "data/ffpp").resolve() == pod.data


@pytest.mark.parametrize(
    ("missing", "packages"),
    [
        (["make"], "make"),
        (["git"], "git"),
        (["gcc", "make"], "make gcc"),
        (["python3"], "python3-venv"),
        ([], "python3-venv"),
    ],
)
def test_missing_packages_are_an_error_before_anything_else(
    missing: list[str], packages: str, pod: Pod
) -> None:
    for name in missing:
        (pod.bin / name).unlink()
    code, text = pod.run(pod.data, fail="" if missing else "python3 -c import ensurepip")
    assert code == 1
    assert text.splitlines()[-1].endswith(f": apt-get install {packages}")
    assert not any(call.startswith(("nvidia-smi", "make")) for call in pod.called)
    assert pod.params == PARAMS


@pytest.mark.parametrize(("free_gb", "used_gb", "warns"), [(100, 0, True), (188, 0, False), (100, 88, False)])
@pytest.mark.parametrize("cache", ["cache/faces", ""])
def test_little_space_for_the_face_cache_is_a_warning(
    free_gb: int, used_gb: int, warns: bool, cache: str, pod: Pod
) -> None:
    (pod.repository / "profiles/ffpp_a100.yaml").write_text(f'{PROFILE}runtime:\n  face_cache: "{cache}"\n')
    for name, output in (
        ("df", f"  Avail\n{free_gb * 10**9 // 1024}"),
        ("du", f"{used_gb * 10**9 // 1024}\t."),
    ):
        (pod.bin / name).unlink()
        pod.stub(pod.bin / name, text=f"#!/bin/bash\necho '{output}'\n")
    code, text = pod.run(pod.data)
    assert code == 0, text
    assert ("for the face cache (cache/faces); all of FF++ needs 187 GB" in text) == (warns and cache != "")
    assert ("warning: 100 GB are free" in text) == (warns and cache != "")


def test_a_link_to_other_data_is_replaced(pod: Pod, tmp_path: Path) -> None:
    (pod.repository / "data").mkdir()
    (pod.repository / "data/ffpp").symlink_to(tmp_path / "old")
    code, text = pod.run(pod.data)
    assert code == 0
    assert f"linked to {tmp_path / 'old'} before" in text
    assert (pod.repository / "data/ffpp").resolve() == pod.data


def test_without_data_the_sample_is_prepared(pod: Pod) -> None:
    code, text = pod.run("--no-forecast")
    assert code == 0, text
    assert pod.params == PARAMS
    assert not (pod.repository / "data").exists()
    assert "dvc repro verify_data" in pod.called
    assert not any("forecast" in call for call in pod.called)


@pytest.mark.parametrize("missing", [False, True])
def test_no_gpu_and_no_extra_are_warnings(missing: bool, pod: Pod) -> None:
    if missing:
        (pod.bin / "nvidia-smi").unlink()
    code, text = pod.run(fail="nvidia-smi")
    assert code == 0, text
    assert "warning: nvidia-smi finds no working NVIDIA GPU" in text
    assert not any(call.startswith("uv") for call in pod.called)
    (pod.bin / "nvidia-smi").unlink(missing_ok=True)
    pod.stub(pod.bin / "nvidia-smi")
    code, text = pod.run(fail="python -c import mamba_ssm,uv")
    assert code == 0, text
    assert "warning: mamba-ssm cannot be installed here" in text
    assert "== ready" in text
    code, text = pod.run("--no-cuda-extra", fail="python -c import sys; import torch")
    assert not any("mamba" in call for call in pod.called)


@pytest.mark.parametrize(
    ("fail", "message", "never"),
    [
        ("make", "make install failed", "dvc"),
        ("dvc", "the data is not ready", "python -m pipeline.forecast"),
        ("python -m pipeline.forecast", "the forecast failed", "x"),
    ],
)
def test_a_failing_step_ends_the_script(fail: str, message: str, never: str, pod: Pod) -> None:
    code, text = pod.run(pod.data, fail=fail)
    assert code == 1
    assert message in text.splitlines()[-1]
    assert "== ready" not in text
    assert not any(call.startswith(never) for call in pod.called)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown"], "unknown option --unknown"),
        (["nowhere"], "nowhere is not a folder"),
        (["scripts"], "there is no FaceForensics++/ in"),
        (["scripts", "profiles"], "give one DATA folder, not two"),
        (["--profile"], "--profile needs a file"),
        (["--profile", "none.yaml"], "none.yaml does not exist"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_runs(arguments: list[str], message: str, pod: Pod) -> None:
    code, text = pod.run(*arguments)
    assert code == 2
    assert message in text
    assert len(text.splitlines()) == 1
    assert pod.called == []


def test_a_profile_of_the_user_is_used(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data:\n  root: data/ffpp\nmine: 1\n")
    code, text = pod.run(pod.data, "--profile", "mine.yaml", cwd=tmp_path)
    assert code == 0, text
    assert "mine: 1" in pod.params
