"""README, CONTRIBUTING and docs/: what they name exists, what they print works, and the README's figures are those of
metrics/."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import cv2
import numpy as np
import pytest
import yaml

from stf.config import FLAGS, METHODS, DataParams, Params, STFV8Config
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.models.network import build_network

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
AUTHOR = "https://github.com/AbdelRahman-Madboly/STF-Mamba_V8.0"
STAGES = ("verify_data", "train_phase_a", "eval_a", "train_phase_b", "eval_b")
# Options of git, dvc, pip, torchrun and Docker that the pages name by themselves.
FOREIGN_OPTIONS = {"--queue", "--temp", "--shm-size"}
# Waiting for the change that writes weights as safetensors; then dvc.yaml lists them.
SOON = {"weights/phase_a.safetensors", "weights/phase_b.safetensors"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks; a line break counts as a space."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> list[list[str]]:
    """Every command of the bash blocks, and of inline code that begins like one, as words."""
    lines: list[str] = []
    for language, content in blocks(page):
        if language == "bash":
            lines += content.replace("\\\n", " ").splitlines()
    starts = ("python ", "make ", "dvc ", "bash ", "pipeline.")
    lines += [code for code in inline_code(page) if code.startswith(starts)]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [command for command in words if command]


@cache
def tracked() -> frozenset[str]:
    """Files that git has, and their folders."""
    listed = subprocess.run(("git", "ls-files"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [Path(line) for line in listed.splitlines()]
    return frozenset(map(str, files)) | {str(folder) for file in files for folder in file.parents}


@cache
def outputs_of_dvc() -> frozenset[str]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    listed = [
        entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])
    ]
    return frozenset(entry if isinstance(entry, str) else next(iter(entry)) for entry in listed)


def is_ignored(path: str) -> bool:
    return subprocess.run(("git", "check-ignore", "-q", path), cwd=ROOT, check=False).returncode == 0


def is_known(path: str) -> bool:
    """Whether git has it, a stage writes it, or it is below a folder that git ignores as a whole."""
    path = path.rstrip("/")
    if path.startswith(("weights/", "metrics/")):
        return path in tracked() | outputs_of_dvc() | SOON
    return path in tracked() or is_ignored(path) or is_ignored(path + "/")


def looks_like_a_path(word: str) -> bool:
    """Whether it begins with one of the repository's top folders or is a file name of a known kind."""
    if not re.fullmatch(r"[\w.<>-]+(/[\w.<>-]+)*/?", word):
        return False
    top = word.partition("/")[0]
    folders = {path for path in tracked() if (ROOT / path).is_dir() and "/" not in path} - {"."}
    if "/" in word:
        return top in folders | {"data", "weights", "checkpoints", "mlruns", "cache", ".dvc", ".venv"}
    return bool(re.fullmatch(r"\.?[\w-]+\.(py|md|sh|yaml|toml|lock)", word)) or word in (
        "Makefile",
        "LICENSE",
    )


def options_of(main: click.Command) -> set[str]:
    return {option for parameter in main.params for option in parameter.opts}


def command_of(name: str) -> click.Command:
    """pipeline.{name}'s Click command."""
    return importlib.import_module(f"pipeline.{name}").main


@cache
def every_option() -> frozenset[str]:
    names = [path.stem for path in (ROOT / "pipeline").glob("*.py") if path.stem not in ("__init__", "cli")]
    options = set().union(*(options_of(command_of(name)) for name in names))
    script = (ROOT / "scripts/setup_pod.sh").read_text(encoding="utf-8")
    return frozenset(options | {"--help"} | set(re.findall(r"^ +(--[\w-]+)", script, re.MULTILINE)))


@pages
def test_every_path_exists_or_is_an_output(page: Path) -> None:
    words = [word for _, content in blocks(page) for word in re.split(r"[\s='\"]+", content)]
    words += [word for code in inline_code(page) for word in code.split()]
    unknown = {word for word in words if looks_like_a_path(word) and not is_known(word)}
    assert unknown == set()


@pages
def test_every_link_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.partition("#")[0] for link in links if "://" not in link]
    paths = [str((page.parent / link).resolve().relative_to(ROOT)) for link in local]
    assert [path for path in paths if path not in tracked()] == []
    addresses = {address.rstrip(".,)>") for address in re.findall(r"https?://[^\s`]+", text)}
    assert addresses <= {AUTHOR}


def test_every_page_is_linked_from_the_readme() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[2:] if f"(docs/{page.name})" not in text] == []


@pages
def test_every_command_line_is_accepted(page: Path) -> None:
    """Our commands' own parsers take the words as printed; nothing is run."""
    for words in commands(page):
        module = next((word for word in words if re.fullmatch(r"pipeline\.\w+", word)), None)
        if module is None:
            continue
        name, arguments = module.partition(".")[2], words[words.index(module) + 1 :]
        if words[0] == module:  # in a sentence: the name, and an option that it is about
            options = {word for word in arguments if word.startswith("-")}
            assert options <= options_of(command_of(name))
        else:
            command_of(name).make_context(name, list(arguments))


@pages
def test_every_option_exists(page: Path) -> None:
    options = {
        code.partition(" ")[0].partition("=")[0] for code in inline_code(page) if code.startswith("--")
    }
    assert options - every_option() - FOREIGN_OPTIONS == set()


@pages
def test_every_make_target_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = {words[words.index("make") + 1] for words in commands(page) if "make" in words[:-1]}
    assert used - targets == set()


@pages
def test_every_parameter_exists(page: Path) -> None:
    flat = Params().flat()
    sections = {key.partition(".")[0] for key in flat if "." in key}
    words = [word for code in inline_code(page) for word in re.split(r"[\s:=]+", code)]
    words += [word.partition("=")[0] for command in commands(page) for word in command]
    parameters = {word for word in words if re.fullmatch(rf"({'|'.join(sections)})\.\w+", word)}
    files = {f"{path.parent.name}.{path.stem}" for path in ROOT.glob("*/*.py")}
    assert parameters - set(flat) - files == set()
    flags = {word for word in words if word.startswith("use_")}
    assert flags <= set(FLAGS)


@pages
def test_every_name_is_in_the_file_that_is_given_for_it(page: Path) -> None:
    """`NAME` in `path.py`."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    for name, path in re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", text):
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", (ROOT / path).read_text(encoding="utf-8")), (
            name,
            path,
        )


@pages
def test_python_snippets_run(page: Path) -> None:
    for words in commands(page):
        if words[:2] == ["python", "-c"]:
            exec(words[2], {})  # one of ours, printed in docs/


def test_the_readme_fits_a_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_the_readme_gives_the_stages_in_order() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert " → ".join(STAGES) in text
    assert tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]) == STAGES


def test_the_readme_lists_every_flag() -> None:
    rows = re.findall(r"^\| `(use_\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(rows) == FLAGS


def recorded_auc(phase: str, group: str) -> dict[str, float]:
    """{"auc", and where it is on disk "low" and "high"} of a method or "overall", each in [0, 1].

    The interval of a single method stands in the details, which a fresh clone does not have before `make repro`.
    """
    figures: dict[str, float] = {}
    for path in (ROOT / "metrics").glob(f"eval_{phase}*.json"):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, suffix in (("auc", ""), ("low", "_low"), ("high", "_high")):
            if (key := f"{phase}_auc_{group}{suffix}") in values:
                figures[name] = values[key]
        if "qualities" in values:
            details = values["qualities"]["c23"]["groups"][group]
            figures |= {"auc": details["auc"], "low": details["auc_low"], "high": details["auc_high"]}
    return figures


@pytest.mark.parametrize("group", [*METHODS, "overall"])
def test_the_readmes_results_are_those_of_metrics(group: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {group} \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert row is not None
    for phase, cell in zip("ab", row.groups(), strict=True):
        printed = dict(zip(("auc", "low", "high"), re.findall(r"\d+\.\d", cell), strict=True))
        recorded = {name: f"{100 * value:.1f}" for name, value in recorded_auc(phase, group).items()}
        assert "auc" in recorded
        assert recorded == {name: printed[name] for name in recorded}


def test_the_readmes_sizes_are_those_of_the_networks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(
        r"^\| full size \| ([\d.]+) M parameters \| ([\d.]+) M \| ([\d.]+) M \|$", text, re.MULTILINE
    )
    assert row is not None
    for printed, config in zip(
        row.groups(), (STFV8Config(), STFV8Config.phase_a(), STFV8Config.phase_b()), strict=True
    ):
        parameters = sum(parameter.numel() for parameter in build_network(config).parameters())
        assert printed == f"{parameters / 1e6:.1f}"


@pytest.fixture(scope="module")
def picture_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_pairs", ROOT / "scripts/sample_pairs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_real_fake_and_mask(picture_script: ModuleType, shared_tree: Path) -> None:
    """Real and fake differ where the mask is white, and where it is black by rounding alone."""
    config = STFV8Config.debug()
    config.data_root, config.num_frames, config.img_size = str(shared_tree), 12, picture_script.FACE_PX
    data = DataParams(root=str(shared_tree), num_frames=12)
    sheet = picture_script.draw(VideoSBIDataset("val", config, data=data), (0, 1))
    tile, x = picture_script.TILE_PX, picture_script.LABEL_PX
    real, fake, mask = (
        sheet[picture_script.GAP_PX + row * tile :][: tile - 4, x : x + tile - 4].astype(int)
        for row in range(3)
    )
    change = abs(real - fake)
    assert change[mask > 200].mean() > 1
    assert change[mask == 0].max() <= 1


def test_the_picture_is_small_and_of_the_scripts_size(picture_script: ModuleType) -> None:
    path = ROOT / picture_script.PICTURE
    assert path.stat().st_size < 200_000
    height, width = (
        3 * picture_script.TILE_PX + picture_script.GAP_PX,
        len(picture_script.FRAMES) * picture_script.TILE_PX,
    )
    blocks_px = len(picture_script.PAIRS) * (width + 2 * picture_script.GAP_PX)
    assert cv2.imread(str(path)).shape == (height, picture_script.LABEL_PX + blocks_px, 3)


@pytest.mark.skipif(
    not (ROOT / "data/sample/FaceForensics++").exists(), reason="the sample is not generated yet"
)
def test_the_picture_is_what_the_script_draws_of_the_sample(
    picture_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    picture_script.main(["--output", str(tmp_path / "new.jpg")], standalone_mode=False)
    new, old = cv2.imread(str(tmp_path / "new.jpg")), cv2.imread(str(ROOT / picture_script.PICTURE))
    assert np.abs(new.astype(int) - old).mean() < 1, "draw it again: python scripts/sample_pairs.py"


def test_license_is_the_one_that_pyproject_names() -> None:
    assert 'license = "MIT"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 STF-Mamba authors\n")


def test_the_hooks_are_the_checks_of_make_lint_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    checks = [line.strip().removesuffix(" .") for line in recipe.splitlines()[1:]]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]] == checks


def test_git_ignores_weights_videos_and_arrays_but_no_tracked_file() -> None:
    listed = subprocess.run(
        ("git", "ls-files", "-i", "-c", "--exclude-standard"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == ""
    for name in ("a.pth", "a.pt", "a.tar", "a.mp4", "a.npz", "a.npy", "wandb/run", ".vscode/settings.json"):
        assert is_ignored(f"docs/{name}"), name
    assert is_ignored("weights/phase_a.safetensors")
