"""README and RESULTS.md say what the shipped files say, and name only what exists."""

import json
import re
import shlex

import nbformat
import pytest
import typer

from fairnb.cli.app import app
from fairnb.diffusion.pipeline import load_pipeline
from fairnb.experiments.results import read_results
from fairnb.experiments.results_page import results_page
from fairnb.files import root
from fairnb.measure.spread import NEURONS_MINUS_RANDOM, read_spread

README = (root() / "README.md").read_text(encoding="utf-8")
MINI = root() / "data" / "mini-sd"


def short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def test_the_results_page_is_written_from_the_shipped_results():
    assert (MINI / "RESULTS.md").read_text(encoding="utf-8") == results_page(MINI, read_results([MINI]))


def test_the_headline_is_that_of_the_shipped_spread():
    figures = json.loads((MINI / "spread.json").read_text())["figures"]
    before, after, control, floor = (
        figures[f"gender.{name}"] for name in ("bias_before", "bias_after", "bias_random_control", "floor")
    )

    def span(values: list[float]) -> str:
        return f"({short(min(values))} to {short(max(values))})"

    row = f"| gender bias | {mean(before)} | **{mean(after)}** {span(after)} | {mean(control)} {span(control)} |"
    assert f"{row} {mean(floor)} |\n" in README
    percent = 100 * sum(figures["neurons.fraction"]) / len(figures["neurons.fraction"])
    text = README.replace("\n", " ")
    assert f"change {short(percent)} % of the U-Net's weights" in text
    assert f"obeyed in {mean(figures['gender.explicit_obeyed'])} of the images" in text
    assert "Five trainings" in text and len(after) == 5
    assert "shows seed 0, the second best" in text and after[0] == sorted(after)[1]
    assert "In each of the five" in text and all(a < c for a, c in zip(after, control, strict=True))
    lead = -read_spread(MINI / "spread.json").loc[f"gender.{NEURONS_MINUS_RANDOM}", ["mean", "mean high", "mean low"]]
    assert "stay behind, by {} on average ({} to {}, 95 %)".format(*map(short, lead)) in text and lead["mean high"] > 0
    assert "32 held-out occupations" in text and figures["gender.n_occupations"][0] == 32


def arm(sweep: str, name: str) -> list[dict]:
    """Of the arms of Adam whose names begin so, all seeds of the one whose validation words the guide saw least biased
    with the first seed."""
    results = [each for each in read_results([MINI / f"{sweep}.json"]) if each["experiment"].startswith(name)]
    adam = [each for each in results if each["identity"]["finetune"]["optimizer"] == "adamw"]
    first = min(each["seed"] for each in adam)
    best = min((each for each in adam if each["seed"] == first), key=lambda each: each["validation_bias"])
    return [each for each in adam if each["experiment"] == best["experiment"]]


def after(sweep: str, name: str) -> list[float]:
    return [each["kinds"]["occupations"]["bias"]["gender"]["after"]["mean"] for each in arm(sweep, name)]


def mean(values: list[float]) -> str:
    return short(sum(values) / len(values))


def test_the_sweeps_of_the_readme_are_the_shipped_ones():
    text = README.replace("\n", " ")
    total = sum(weight.numel() for weight in load_pipeline(MINI, device="cpu").unet.parameters())
    for size, share in ((3, ".03"), (30, ".28")):
        assert short(100 * arm("weights", f"found-{size}-")[0]["parameters"] / total) == share
    found, random, anywhere = (after("weights", f"{choice}-3-") for choice in ("found", "random", "anywhere"))
    assert (len(found), len(random), len(anywhere)) == (3, 3, 1)
    few = f"bias ends at {mean(found)} for those found, {mean(random)} for random ones of the same tensors"
    assert f"with .03 % of the weights {few} (three seeds each) and {mean(anywhere)} for random ones of the" in text
    obeyed = [mean([each["obeyed"]["gender"] for each in arm("weights", f"{of}-3-")]) for of in ("found", "random")]
    assert "a named class is obeyed in {} and {}".format(*obeyed) in text
    many = [mean(after("weights", f"{choice}-30-")) for choice in ("found", "random", "anywhere")]
    assert "With .28 % they lie closer, at {}, {} and {}.".format(*many) in text
    few, many = after("words", "words-10"), after("words", "words-160")
    assert f"Located on all words, but trained on 10, bias ends at {mean(few)}, on 160 at {mean(many)}." in text


def test_the_class_tokens_of_the_readme_are_the_shipped_ones():
    result = next(each for each in read_results([MINI]) if each["experiment"] == "tokens-3")
    bias, text = result["kinds"]["occupations"]["bias"], README.replace("\n", " ")
    for name in ("gender", "skin_tone"):
        before, now = (short(bias[name][when]["mean"]) for when in ("before", "after"))
        assert f"{name.replace('_', ' ')} from {before} to {now} (fair: {short(bias[name]['after']['floor'])})" in text
    assert f"obeyed in {short(min(result['obeyed'].values()))}" in text


def test_the_course_table_names_every_notebook_with_its_minutes():
    rows = re.findall(r"^\| (\w\d) [^|]+\|[^|]+\| ([\d.]+) \|$", README, re.MULTILINE)
    books = {path.stem[:2]: path for path in (root() / "notebooks").glob("*.ipynb")}
    measured = {
        name: nbformat.read(path, as_version=4).metadata["fairnb"]["minutes"]["mini"] for name, path in books.items()
    }
    assert {name: float(minutes) for name, minutes in rows} == measured


def test_results_stand_in_no_other_place_of_the_readme():
    rest = README.replace(README[README.index("## The result on") : README.index("## The package")], "")
    assert not re.findall(r"(?<![\w.])\d?\.\d+", rest.replace("3.11", "")), "a number that no file is tied to"


def test_the_readme_is_short_and_opens_with_the_two_commands():
    assert len(README.splitlines()) <= 150
    assert re.search(r"```bash\n(.*?)```", README, re.DOTALL).group(1).split()[::7][0] == "make"
    first = re.search(r"```bash\n(.*?)```", README, re.DOTALL).group(1).splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make reproduce", "make test"]


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in [*lines, *re.findall(r"`(fairnb [^`]+)`", README)] if line.startswith("fairnb")]


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_parses(line):
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line)[1:]
    command = group.get_command(None, name)
    assert command, f"there is no command {name}"
    if arguments:
        command.make_context(name, arguments)


def test_every_target_and_file_of_the_readme_exists():
    targets = re.findall(r"^([a-z-]+):", (root() / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", README)) <= set(targets)
    for name in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"-f (notebooks/\S+)", README):
        assert (root() / name).is_file(), name
    for room in re.findall(r"^\| `(\w+)/`", README, re.MULTILINE):
        assert (root() / "fairnb" / room).is_dir()
