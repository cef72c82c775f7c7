"""Drawing a map over an image: colour tables, the published drawing, blending, frames, contour, boxes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from attnbias.data.transforms.opencv import resize_image
from attnbias.methods.engine.display.overlay import (
    COLOUR_TABLES,
    DrawnBox,
    draw,
    focus_edge,
    inferno,
    jet,
    published_overlay,
    resize_bilinear,
)


@pytest.fixture
def image() -> Image.Image:
    rows, columns = np.mgrid[0:60, 0:90]
    return Image.fromarray(np.stack([rows * 4, columns * 2, 255 - rows], axis=-1).astype(np.uint8))


def spot(height: int, width: int, row: int, column: int) -> np.ndarray:
    heat = np.zeros((height, width), dtype=np.float32)
    heat[row, column] = 1
    return heat


def test_jet_is_opencvs() -> None:
    table = jet()
    assert table.shape == (256, 3)
    assert [tuple(table[level]) for level in (0, 1, 2, 32, 96, 255)] == [
        (0, 0, 128),
        (0, 0, 132),
        (0, 0, 136),
        (0, 0, 255),
        (2, 255, 254),
        (128, 0, 0),
    ]
    np.testing.assert_array_equal(table[::-1, ::-1], table)  # red falls as blue rises


def test_inferno_grows_brighter_with_every_level() -> None:
    lightness = inferno() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.6).all()
    assert (lightness[0], lightness[-1]) == (pytest.approx(0.3, abs=0.5), pytest.approx(248, abs=3))


def test_resizing_to_the_same_size_changes_nothing(image: Image.Image) -> None:
    pixels = np.asarray(image)
    np.testing.assert_array_equal(resize_image(pixels, (60, 90)), pixels)
    np.testing.assert_array_equal(resize_bilinear(pixels[..., 0], (60, 90)), pixels[..., 0])


def test_resizing_down_does_not_antialias() -> None:
    stripes = np.tile(np.array([0, 0, 255, 0], dtype=np.float32), (4, 8))
    assert set(np.unique(resize_bilinear(stripes, (4, 8)))) == {127.5}  # the mean would be 63.75


def test_the_published_drawing_of_a_map_without_positive_values_is_blank(image: Image.Image) -> None:
    drawn = published_overlay(np.asarray(image), np.full((4, 4), -1, dtype=np.float32), (32, 32))
    assert not drawn.mask.any()
    assert (drawn.overlay[..., 2].mean() - drawn.overlay[..., 0].mean()) > 0  # JET's blue everywhere


def test_negative_values_do_not_wrap_around_in_the_published_drawing(image: Image.Image) -> None:
    heat = spot(4, 4, 1, 1)
    with_negative = heat - 0.4 * spot(4, 4, 3, 3)
    ours = published_overlay(np.asarray(image), heat, (32, 32)).overlay
    np.testing.assert_array_equal(published_overlay(np.asarray(image), with_negative, (32, 32)).overlay, ours)


def test_without_opacity_the_image_is_untouched(image: Image.Image) -> None:
    drawn = draw(image, spot(4, 6, 1, 1), opacity=0)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(image))


@pytest.mark.parametrize("opacity", [0.25, 1.0])
def test_the_image_s_own_colours_fade_as_opacity_grows(image: Image.Image, opacity: float) -> None:
    """At 1 it is grey where the map is empty, as CSS's grayscale() of the page makes it."""
    drawn = np.asarray(draw(image, np.zeros((4, 6), np.float32), opacity=opacity))
    colour = np.asarray(image, dtype=float)
    grey = (colour @ [0.2126, 0.7152, 0.0722])[..., None]
    np.testing.assert_allclose(drawn, (1 - opacity) * colour + opacity * grey, atol=1)


@pytest.mark.parametrize("colours", COLOUR_TABLES)
def test_the_map_is_drawn_where_it_is_high(image: Image.Image, colours: str) -> None:
    none = np.asarray(draw(image, np.zeros((4, 6), np.float32), colours=colours)).astype(int)
    change = np.abs(np.asarray(draw(image, spot(4, 6, 3, 0), colours=colours)).astype(int) - none).sum(-1)
    assert change[45:, :15].max() > 100
    assert change[:30].max() == 0
    assert change[:, 45:].max() == 0


def test_a_frame_puts_the_map_on_the_part_that_the_network_saw(image: Image.Image) -> None:
    frame = (15.0, 0.0, 60.0, 60.0)
    none = np.asarray(draw(image, np.zeros((4, 4), np.float32), frame=frame, opacity=0.5)).astype(int)
    drawn = np.asarray(draw(image, spot(4, 4, 0, 0), frame=frame, opacity=0.5)).astype(int)
    rows, columns = np.nonzero(np.abs(drawn - none).sum(-1))
    assert (rows.min(), columns.min()) == (0, 15)
    assert columns.max() < 45
    plain = np.asarray(draw(image, np.zeros((4, 4), np.float32), opacity=0.5)).astype(int)
    assert (none[:, :15] < plain[:, :15].clip(1)).mean() > 0.9  # what was not seen is dimmed
    np.testing.assert_array_equal(none[:, 15:75], plain[:, 15:75])


def test_a_frame_may_reach_beyond_the_image(image: Image.Image) -> None:
    drawn = draw(image, spot(4, 4, 3, 3), frame=(-15.0, -30.0, 120.0, 120.0))
    assert drawn.size == image.size


def test_the_contour_rings_the_focus_from_inside() -> None:
    values = np.zeros((9, 9), np.float32)
    values[2:7, 2:7] = 0.5
    edge = focus_edge(values)
    assert edge.sum() == 16
    assert not edge[3:6, 3:6].any()
    assert not focus_edge(np.ones((5, 5), np.float32)).any()


def test_boxes_and_labels_stand_where_they_are_asked_for(image: Image.Image) -> None:
    large = image.resize((360, 240))
    plain = np.asarray(draw(large, np.zeros((2, 2), np.float32)))
    boxed = np.asarray(draw(large, np.zeros((2, 2), np.float32), boxes=[DrawnBox(100, 80, 200, 180, "dog 0.9")]))
    rows, columns = np.nonzero((plain != boxed).any(-1))
    assert (columns.min(), rows.max(), columns.max()) == (100, 180, 200)
    assert rows.min() < 80  # the tab with the name
    np.testing.assert_array_equal(boxed[100:160, 120:180], plain[100:160, 120:180])
