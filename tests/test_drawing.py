"""Drawing of boxes and class names on images."""

import numpy as np
import pytest

from compactdet import drawing


@pytest.mark.parametrize('num_classes', [1, 3, 8, 20, 80])
def test_each_class_has_a_color_of_its_own(num_classes: int) -> None:
    assert len(set(drawing.class_colors(num_classes))) == num_classes


@pytest.mark.parametrize('size', [(40, 60), (160, 160), (480, 640), (1500, 2000)])
def test_lines_and_text_scale_with_the_image(size: tuple[int, int]) -> None:
    blank = np.full((*size, 3), 255, np.uint8)
    box = np.array([0.25 * size[1], 0.75 * size[0], 0.75 * size[1], 0.95 * size[0]])
    drawn = drawing.draw_detections(blank, box[None], [2], [0.987], ['a', 'b', 'c'])
    assert blank.min() == 255  # the original is not changed
    height, width, _ = drawn.shape
    assert max(height, width) == max(640, *size)  # small images are enlarged
    assert width / height == pytest.approx(size[1] / size[0], rel=0.01)
    box *= width / size[1]
    is_drawn = (drawn == drawing.class_colors(3)[2]).all(2)
    line_width = is_drawn[round(0.9 * height), : width // 2].sum()
    assert 0 <= line_width - max(1, height // 300) <= 2
    plate_height = round(box[1]) - np.nonzero(is_drawn)[0].min()
    assert max(10, 0.025 * height) < plate_height < max(20, 0.06 * height)


def test_the_detection_of_highest_score_is_drawn_last() -> None:
    blank = np.zeros((640, 640, 3), np.uint8)
    boxes = np.array([[128, 320, 512, 576]] * 2)
    drawn = drawing.draw_detections(blank, boxes, [1, 0], [0.9, 0.8], ['a', 'b'])
    assert tuple(drawn[575, 320]) == drawing.class_colors(2)[1]


@pytest.mark.parametrize('box', [(0, 0, 30, 30), (98, 98, 100, 100), (-20, 40, 130, 45), (60, 1, 61, 99)])
def test_text_stays_inside_the_image(box: tuple[int, ...]) -> None:
    blank = np.full((100, 100, 3), 255, np.uint8)
    drawn, wanted = (
        drawing.draw_boxes(blank, [place], ['ring 0.50'], [(0, 255, 0)])
        for place in (box, (20, 50, 80, 90))
    )
    ink, wanted_ink = ((image[:, :, 1] < 200).sum() for image in (drawn, wanted))
    assert ink == wanted_ink > 50


def test_plates_of_neighboring_boxes_do_not_overlap() -> None:
    boxes = [(100, 100, 180, 160), (104, 102, 190, 170), (110, 98, 200, 150), (0, 0, 30, 30)]
    plates = drawing.place_plates(boxes, [(90, 20)] * 4, (300, 300))
    assert plates[3] == (0, 0, 90, 20)  # no room above
    assert plates[2] == (110, 78, 200, 98)  # above, since the later box is placed first
    for i, plate in enumerate(plates):
        assert 0 <= plate[0] < plate[2] <= 300
        assert 0 <= plate[1] < plate[3] <= 300
        assert all(drawing._overlap(plate, other) == 0 for other in plates[:i])
