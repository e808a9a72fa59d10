"""Folders of pictures as other tools leave them: numbers, what is no picture, orientation, size."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairnb.errors import UserError
from fairnb.files import write_json
from fairnb.measure import folders
from fairnb.measure.folders import image_batches, picture_rows
from fairnb.measure.images import LONGEST, load_image
from fairnb.measure.judge import judge_images
from fairnb.measure.similarity import mean_image_similarity
from tests.measure.test_generate import Detector, classifier


def draw(path: Path, size: tuple[int, int] = (8, 8), **how) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 200, 200)).save(path, **how)


def numbers(folder: Path) -> list[tuple[int, str, int, str]]:
    return [(row["prompt_id"], row["prompt"], row["image"], row["path"]) for row in picture_rows(folder)[0]]


def test_numbers_of_peers_are_kept(tmp_path: Path) -> None:
    """FFD's layout: prompts 2 and 10, images 3 and 12; a folder and a picture without a number come after them."""
    for name in ("prompt_10/img_12.jpg", "prompt_10/img_3.jpg", "prompt_2/img_0.jpg", "prompt_2/grid.png", "all/a.png"):
        draw(tmp_path / name)
    assert numbers(tmp_path) == [
        (2, "prompt 2", 0, "prompt_2/img_0.jpg"),
        (2, "prompt 2", 1, "prompt_2/grid.png"),
        (10, "prompt 10", 3, "prompt_10/img_3.jpg"),
        (10, "prompt 10", 12, "prompt_10/img_12.jpg"),
        (11, "all", 0, "all/a.png"),
    ]
    assert numbers(tmp_path / "prompt_10") == [(10, "prompt 10", 3, "img_3.jpg"), (10, "prompt 10", 12, "img_12.jpg")]


def test_names_are_counted_as_a_person_counts(tmp_path: Path) -> None:
    for name in ("nurse 10/x_1.png", "nurse 9/x_10.png", "nurse 9/x_9.png", "chef/0/1.png", "cook/0/1.png"):
        draw(tmp_path / name)
    (tmp_path / "chef" / "back").symlink_to(tmp_path)  # a circle
    assert numbers(tmp_path) == [
        (0, "chef/0", 1, "chef/0/1.png"),
        (1, "cook/0", 1, "cook/0/1.png"),
        (2, "nurse 9", 0, "nurse 9/x_9.png"),
        (2, "nurse 9", 1, "nurse 9/x_10.png"),
        (3, "nurse 10", 0, "nurse 10/x_1.png"),
    ]


@pytest.mark.parametrize("twin", ["prompt_02/img_1.png", "prompt_2/img_1.png"])
def test_two_of_the_same_number_are_named(tmp_path: Path, twin: str) -> None:
    draw(tmp_path / "prompt_2" / "img_01.jpg")
    draw(tmp_path / twin)
    with pytest.raises(UserError, match="have the same number: rename or remove one of them"):
        picture_rows(tmp_path)


def test_what_is_no_picture_is_skipped_and_counted(tmp_path: Path) -> None:
    draw(tmp_path / "doctor" / "0.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "doctor" / "without_suffix", format="JPEG")
    for name in (".DS_Store", "Thumbs.db", "0.txt", "1.TXT", "empty", "._0.png", "page.pdf"):
        (tmp_path / "doctor" / name).write_bytes(b"" if name == "empty" else b"%PDF-1.4 hello")
    draw(tmp_path / ".cache" / "a.png")
    records = judge_images(tmp_path, Detector(), classifier("gender:female", "gender:male"))
    assert records.path.tolist() == ["doctor/0.png", "doctor/without_suffix"]
    assert records.attrs["skipped"] == {"hidden": 3, ".db": 1, ".txt": 2, "empty": 1, ".pdf": 1}


@pytest.mark.parametrize("name", ["a.jpg", "b.HEIC", "c.webp"])
def test_a_name_of_a_picture_without_a_picture_is_refused(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "good.png")
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"{name} is not a whole image"):
        picture_rows(tmp_path)
    os.replace(tmp_path / name, tmp_path / "gone")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{name} is not a whole image"):
        picture_rows(tmp_path)


def test_an_audits_own_folder_is_its_pictures(tmp_path: Path) -> None:
    prompts = [{"prompt_id": 7, "prompt": "a photo of a cook", "occupation": "cook", "split": "test"}]
    write_json(tmp_path / "images" / "generation.json", {"prompts": prompts, "images": 1, "seed": 3})
    for name in ("images/prompt_7/img_0.png", "figures/gender_shares.png"):
        draw(tmp_path / name)
    (row,) = picture_rows(tmp_path)[0]
    assert row == prompts[0] | {"image": 0, "seed": 3, "path": "images/prompt_7/img_0.png"}
    assert picture_rows(tmp_path / "images")[0] == [row | {"path": "prompt_7/img_0.png"}]
    os.replace(tmp_path / "images", tmp_path / "original")
    with pytest.raises(UserError, match=r"holds what fairnb generated into .*original: measure that by itself"):
        picture_rows(tmp_path)


@pytest.mark.parametrize(("mode", "name"), [("RGB", "a.jpg"), ("RGBA", "a.png"), ("L", "a.tif")])
def test_pictures_are_upright(tmp_path: Path, mode: str, name: str) -> None:
    """EXIF orientation 6: the camera was turned, the first row of the file is the right side."""
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (0, 0, 16, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.convert(mode).save(tmp_path / name, exif=exif, quality=100)
    image = load_image(tmp_path / name)
    assert image.shape == (3, 16, 8) and image[:, :, 5:].min() > 0.9 and image[:, :, :3].max() < -0.9


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)),
        Image.new("LA", (4, 4), (0, 0)),
        Image.new("P", (4, 4), 0),
        Image.new("L", (4, 4), 0),
    ],
    ids=lambda picture: picture.mode,
)
def test_what_is_transparent_is_seen_on_white(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png", **({"transparency": 0} if picture.mode in "PL" else {}))
    assert (load_image(tmp_path / "a.png") == 1).all()


def test_numbers_without_a_known_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 100_000, np.int32)).save(tmp_path / "long.tif")
    for name in ("float.tif", "long.tif"):
        with pytest.raises(UserError, match=f"{name} holds .* numbers without a known white"):
            load_image(tmp_path / name)


def test_large_pictures_are_reduced_and_their_boxes_are_those_of_the_file(tmp_path: Path) -> None:
    draw(tmp_path / "large.png", (2 * LONGEST, 192))
    draw(tmp_path / "most.png", (LONGEST, 96))
    assert load_image(tmp_path / "large.png").shape == (3, 96, LONGEST)
    assert load_image(tmp_path / "most.png").shape == (3, 96, LONGEST)

    class Corner(Detector):
        def detect(self, pictures):
            return [np.array([[10.0, 20, 110, 120]])] * len(pictures), [np.array([0.9])] * len(pictures)

    row = judge_images(tmp_path, Corner(), classifier("gender:female", "gender:male")).iloc[0]
    assert row.path == "large.png" and row[["box_x0", "box_y0", "box_x1", "box_y1"]].tolist() == [20, 40, 220, 240]


def test_few_large_pictures_are_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        draw(tmp_path / f"{number}.png", (8, 8) if number < 5 else (12, 8))
    rows = picture_rows(tmp_path)[0]

    def sizes(most: int) -> list[tuple[int, int]]:
        return [(len(some), images.shape[-1]) for some, images in image_batches(tmp_path, rows, most)]

    assert sizes(4) == [(4, 8), (1, 8), (2, 12)]
    monkeypatch.setattr(folders, "PIXELS", 2 * 64)
    assert sizes(4) == [(2, 8), (2, 8), (1, 8), (1, 12), (1, 12)]


def test_similarity_pairs_by_number_not_by_format(tmp_path: Path) -> None:
    class Mean:
        mean = torch.zeros(1)

        def image_features(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

    for name in ("one/prompt_2/img_0.png", "one/prompt_10/img_0.png", "two/prompt_2/img_0.jpg"):
        draw(tmp_path / name)
    with pytest.raises(UserError, match="prompt_10/img_0.png has no counterpart in .*two"):
        mean_image_similarity(Mean(), tmp_path / "one", tmp_path / "two")
    Image.new("RGB", (16, 8), (50, 50, 50)).save(tmp_path / "two" / "10.png")
    (tmp_path / "two" / "prompt_10").mkdir()
    os.replace(tmp_path / "two" / "10.png", tmp_path / "two" / "prompt_10" / "img_0.png")
    assert mean_image_similarity(Mean(), tmp_path / "one", tmp_path / "two") == pytest.approx(0, abs=1e-6)
