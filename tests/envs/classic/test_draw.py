import numpy as np
import pytest

from envs.classic import draw


def close(pixel, color):
    return np.abs(pixel.astype(int) - color).max() <= 2


@pytest.mark.parametrize("size", [(640, 360), (200, 400)])
def test_units_and_directions(size):
    """The span fits, x runs to the right and y up, and a circle is round."""
    canvas = draw.Canvas(*size, center=(1.0, 2.0), span=(4.0, 4.0))
    canvas.disc((2.0, 3.0), 0.5, draw.BLUE)
    image = canvas.pixels()
    scale = min(size) / 4
    row, column = round(size[1] / 2 - scale), round(size[0] / 2 + scale)
    assert close(image[row, column], draw.BLUE)
    assert close(image[-row, column], draw.SKY)
    blue = (np.abs(image.astype(int) - draw.BLUE) <= 2).all(-1)
    assert blue.sum() == pytest.approx(np.pi * (0.5 * scale) ** 2, rel=0.06)
    assert np.ptp(np.where(blue)[0]) == pytest.approx(np.ptp(np.where(blue)[1]), abs=1)


def test_rods_have_round_ends():
    canvas = draw.Canvas(400, 400, center=(0.0, 0.0), span=(4.0, 4.0))
    canvas.rod([(-1.0, 0.0), (1.0, 0.0)], 0.4, draw.RED)
    image = canvas.pixels()
    assert close(image[200, 200], draw.RED)
    assert close(image[200, 315], draw.RED)  # within the end's radius
    assert close(image[183, 317], draw.SKY)  # the corner that a square end would fill
    assert close(image[225, 200], draw.SKY)


def test_lines_polygons_circles_and_text_leave_a_mark():
    def marks(paint):
        canvas = draw.Canvas(320, 180, center=(0.0, 0.0), span=(2.0, 2.0))
        paint(canvas)
        return (canvas.pixels() != draw.SKY).any(-1).mean()

    assert marks(lambda c: None) == 0
    assert 0 < marks(lambda c: c.line([(-1, 0), (0, 0.5), (1, 0)], draw.INK)) < 0.05
    assert 0 < marks(lambda c: c.circle((0, 0), 0.5, draw.INK)) < 0.05
    assert 0 < marks(lambda c: c.text((0, 0), "goal", "ma")) < 0.05
    assert 0 < marks(lambda c: c.caption("x +1.00 m")) < 0.05
    assert marks(lambda c: c.polygon([(-9, -9), (-9, 0), (9, 0), (9, -9)], draw.GROUND)) == (
        pytest.approx(0.5, abs=0.02)
    )
