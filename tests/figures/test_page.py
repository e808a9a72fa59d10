import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fairnb.errors import UserError
from fairnb.figures.page import write_report
from fairnb.measure.provenance import provenance
from fairnb.profiles import Profile, load_profile


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return load_profile("mini", {"output": str(tmp_path)})


def fill(folder: Path, **summary: object) -> None:
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "figures" / "before_after.png")
    (folder / "figures" / "before_after.txt").write_text("Before & after <the patch>.")
    Image.new("RGB", (4, 4)).save(folder / "figures" / "map.png")
    (folder / "figures" / "map.json").write_text(json.dumps({"caption": "Where neurons live"}))
    Image.new("RGB", (4, 4)).save(folder / "figures" / "no_caption.png")
    pd.DataFrame({"occupation": ["doctor"], "bias": [0.123456]}).to_csv(
        folder / "tables" / "by_prompt.csv", index=False
    )
    (folder / "summary.json").write_text(json.dumps(summary))


def test_the_page_stands_alone_and_holds_everything(profile: Profile) -> None:
    gender = {
        "bias_before": 0.871,
        "intervals": {"bias_before": [0.8, 0.93]},
        "bias_after": None,
        "floor": 0.1,
        "explicit_obeyed": 0.953,
        "n_images": 512,
    }
    minutes = {"05_finetune_bias_neurons": 7.25, "total": 7.25}
    fill(profile.folder, gender=gender, minutes=minutes, provenance=provenance(profile))
    page = write_report(profile).read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 3 and "[0.8, 0.93]" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "@import" not in page and "url(" not in page
    for text in ["Before &amp; after &lt;the patch&gt;.", "Where neurons live", "no caption", "doctor", "0.123"]:
        assert text in page
    for text in ["<b>0.871</b>", "<b>undefined</b>", "<b>95%</b>", "<b>512</b>", "05_finetune_bias_neurons", "7.2"]:
        assert text in page
    for text in ["floor", "perceived appearance", "prefers-color-scheme:dark", "width=device-width", "torch 2"]:
        assert text in page
    assert str(Path(profile.prompts).parent) not in page


def test_a_run_that_made_little_still_gives_a_page(profile: Profile) -> None:
    profile.folder.mkdir(parents=True)
    (profile.folder / "summary.json").write_text("{}")
    page = write_report(profile).read_text(encoding="utf-8")
    assert "How to read this" in page and "<h2>Figures" not in page


def test_nothing_run_yet(profile: Profile) -> None:
    with pytest.raises(UserError, match="summary.json is missing: run notebook 00_start_here"):
        write_report(profile)
    assert not profile.folder.exists()


def test_a_damaged_table_is_named(profile: Profile) -> None:
    fill(profile.folder)
    (profile.folder / "tables" / "by_prompt.csv").write_text("")
    with pytest.raises(UserError, match="by_prompt.csv"):
        write_report(profile)
    assert not (profile.folder / "report.html").exists()


def test_prompts_of_any_kind_stand_in_the_page(profile: Profile) -> None:
    fill(profile.folder, gender={"bias": 0.5})
    prompts = ["the singer Tra$$", "<script>alert(1)</script> & co", "NA", "null", '"', "a" * 300]
    table = pd.DataFrame({"prompt": prompts, "bias": [0.5, 0.5, 0.5, 0.5, 0.5, None]})
    table.to_csv(profile.folder / "tables" / "gender.csv", index=False)
    page = write_report(profile).read_text(encoding="utf-8")
    assert "<script" not in page and "<td>&lt;script&gt;alert(1)&lt;/script&gt; &amp; co</td>" in page
    for text in (*prompts[:1], *prompts[2:4], prompts[5], "–"):
        assert f"<td>{text}</td>" in page
