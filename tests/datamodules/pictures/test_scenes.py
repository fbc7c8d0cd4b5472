from __future__ import annotations

from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest

from datamodules.pictures.scenes import (
    BACKDROPS,
    CLASSES,
    COLORS,
    COMPANIONS,
    SHAPES,
    TEXTURES,
    Scenes,
    compose,
    render,
)

WHITE, BLACK, GRAY = (list(COLORS).index(name) for name in ('white', 'black', 'grey'))


def compose_seeded(labels: list[int], seed: int = 0) -> Scenes:
    return compose(np.array(labels), np.random.default_rng(seed))


def build_scene(label: int, backdrop: str = 'smooth', companion: int = -1, contrast: float = 1.0) -> Scenes:
    """One scene with nothing left to chance: a white object, black ink, a gray background."""
    return Scenes(
        label=np.array([label]),
        center=np.array([[0.5, 0.5]]),
        radius=np.array([0.4]),
        turn=np.zeros(1),
        period=np.array([0.2]),
        slant=np.zeros(1),
        phase=np.zeros((1, 2)),
        contrast=np.full(1, contrast),
        colors=np.array([[WHITE, BLACK, GRAY, BLACK]]),
        backdrop=np.array([BACKDROPS.index(backdrop)]),
        companion=np.array([companion]),
        beside=np.array([[0.1, 0.1]]),
    )


def draw_gray(scenes: Scenes, size: int = 32) -> np.ndarray:
    """The first scene in gray, (size, size)."""
    gray: np.ndarray = render(scenes, size, np.random.default_rng(0))[0].mean(-1)
    return gray


class TestClasses:
    def test_at_least_twenty_distinct_classes_exist(self) -> None:
        assert len(CLASSES) == len(set(CLASSES)) >= 20

    @pytest.mark.parametrize('pair', list(combinations(range(len(SHAPES)), 2)))
    def test_shapes_differ_in_outline(self, pair: tuple[int, int]) -> None:
        one, other = (draw_gray(build_scene(shape * len(TEXTURES))) for shape in pair)
        assert (np.abs(one - other) > 60).mean() > 0.05

    @pytest.mark.parametrize('shape', range(len(SHAPES)))
    @pytest.mark.parametrize('pair', list(combinations(range(len(TEXTURES)), 2)))
    def test_textures_differ_within_every_shape(self, pair: tuple[int, int], shape: int) -> None:
        one, other = (draw_gray(build_scene(shape * len(TEXTURES) + texture)) for texture in pair)
        assert (np.abs(one - other) > 60).mean() > 0.05

    @pytest.mark.parametrize('label', range(len(CLASSES)))
    def test_the_object_is_at_the_center_of_the_scene(self, label: int) -> None:
        gray = draw_gray(build_scene(label))
        objects = np.abs(gray - COLORS['grey'][0]) > 60
        rows, columns = np.nonzero(objects)
        assert 0.1 < objects.mean() < 0.6
        assert rows.min() >= 1 and rows.max() <= 30 and columns.min() >= 1 and columns.max() <= 30


class TestCompose:
    def test_depends_only_on_the_seed(self) -> None:
        one, same, other = compose_seeded([0, 1, 2]), compose_seeded([0, 1, 2]), compose_seeded([0, 1, 2], seed=1)
        assert all(np.array_equal(getattr(one, field.name), getattr(same, field.name)) for field in fields(Scenes))
        assert not np.array_equal(one.center, other.center)

    def test_keeps_objects_inside_the_picture(self) -> None:
        scenes = compose_seeded([0] * 500)
        assert (np.abs(scenes.center - 0.5) + 0.8 * scenes.radius[:, None] < 0.5).all()
        assert ((scenes.beside > 0) & (scenes.beside < 1)).all()

    def test_object_ink_and_background_differ_in_grayscale(self) -> None:
        luma = np.array(list(COLORS.values())) @ [0.299, 0.587, 0.114]
        seen = luma[compose_seeded([0] * 500).colors[:, :3]]
        assert min(np.abs(seen[:, one] - seen[:, other]).min() for one, other in combinations(range(3), 2)) > 30

    def test_few_textures_are_faded(self) -> None:
        contrast = compose_seeded([0] * 500).contrast
        assert 0.02 < (contrast < 1).mean() < 0.15
        assert contrast.min() >= 0 and contrast.max() == 1

    def test_every_backdrop_companion_and_color_occurs(self) -> None:
        scenes = compose_seeded([0] * 500)
        assert set(scenes.backdrop) == set(range(len(BACKDROPS)))
        assert set(scenes.companion) == set(range(-1, len(COMPANIONS)))
        assert set(scenes.colors[:, :3].ravel()) == set(scenes.colors[:, 3]) == set(range(len(COLORS)))


class TestRender:
    @pytest.mark.parametrize('size', [16, 32, 48])
    def test_draws_uint8_pictures_of_the_requested_size(self, size: int) -> None:
        images = render(compose_seeded([0, 5, 23]), size, np.random.default_rng(0))
        assert images.shape == (3, size, size, 3) and images.dtype == np.uint8
        assert images.min() < 60 and images.max() > 195

    def test_depends_only_on_the_seed(self) -> None:
        scenes = compose_seeded([0, 5, 23])
        one, same, other = (render(scenes, 32, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert np.array_equal(one, same) and not np.array_equal(one, other)

    @pytest.mark.parametrize('companion', range(len(COMPANIONS)))
    def test_draws_the_companion_only_at_its_position(self, companion: int) -> None:
        alone, beside = draw_gray(build_scene(0)), draw_gray(build_scene(0, companion=companion))
        changed = np.abs(alone - beside) > 50
        assert changed[:8, :8].sum() >= 5 and not changed[8:, 8:].any()

    def test_the_companion_stays_behind_the_object(self) -> None:
        scenes = build_scene(0, companion=0)
        scenes.beside[:] = 0.5
        assert np.array_equal(draw_gray(scenes), draw_gray(build_scene(0)))

    @pytest.mark.parametrize('backdrop', BACKDROPS[1:])
    def test_backdrops_show_around_the_object_but_not_on_it(self, backdrop: str) -> None:
        smooth, other = (draw_gray(build_scene(0, backdrop=kind)) for kind in ('smooth', backdrop))
        assert other[:, :2].std() > 1.5 * smooth[:, :2].std()
        assert np.abs(other - smooth)[12:20, 12:20].max() < 1

    @pytest.mark.parametrize('texture', range(1, len(TEXTURES)))
    def test_an_object_with_faded_ink_looks_plain(self, texture: int) -> None:
        plain, faded, fresh = (
            draw_gray(build_scene(*args)) for args in ((0,), (texture, 'smooth', -1, 0.0), (texture,))
        )
        assert np.abs(plain - faded).max() <= 1 < np.abs(plain - fresh).max()

    def test_a_plain_object_has_no_ink(self) -> None:
        assert draw_gray(build_scene(0))[12:20, 12:20].min() > 200
