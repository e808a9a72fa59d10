"""The wheel: installed into a fresh environment, its commands work in an empty folder whose path has a space."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from fairnb.files import root


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", str(root()), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run([*build, "-q", "--disable-pip-version-check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = folder.glob("fairnb-*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The Python of an environment that holds the wheel, and its copy of the package.

    The dependencies are those of the environment of the tests, which a .pth file makes visible.
    """
    place = tmp_path_factory.mktemp("a fresh environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    packages = Path(asked.stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)  # what pip does with a pure wheel
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages / "fairnb"


def test_the_wheel_carries_what_a_run_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("data/mini-sd/unet/diffusion_pytorch_model.safetensors", "data/prompts/mini.json"):
        assert f"fairnb/shipped/{name}" in names
    for name in ("05_finetune_bias_neurons.ipynb", "profiles/mini.yaml", "profiles/mini/exp-1.yaml"):
        assert f"fairnb/shipped/notebooks/{name}" in names
    assert "fairnb/figures/page.html.j2" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "outputs/"))]


def test_its_commands_work_in_an_empty_folder_whose_path_has_a_space(fresh, tmp_path):
    python, package = fresh
    place = tmp_path / "an empty folder"
    place.mkdir()
    before = {path for path in package.rglob("*") if "__pycache__" not in path.parts}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert Path(call("-c", "import fairnb; print(fairnb.__file__)").strip()).parent == package
    assert "FAIL" not in call("-m", "fairnb", "check")
    (place / "my prompts.txt").write_text("a photo of a pilot\n")
    small = ["--profile", "smoke", "--set", "device=cpu", "--set", "sampling.steps=2", "--images", "2"]
    call("-m", "fairnb", "audit", "fairnb:data/mini-sd", "--prompts", "my prompts.txt", "--out", "my audit", *small)
    assert (place / "my audit" / "audit.html").is_file() and (place / "my audit" / "records.parquet").is_file()
    said = call("-m", "fairnb", "run", "A1", "--profile", "smoke", "--set", "device=cpu")
    assert "A1_build_the_mini_world" in said and "done in" in said
    assert (place / "outputs" / "smoke" / "notebooks" / "A1_build_the_mini_world.ipynb").is_file()
    assert {path for path in package.rglob("*") if "__pycache__" not in path.parts} == before
