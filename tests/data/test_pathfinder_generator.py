"""The Pathfinder generator: pictures equal those of a plain second implementation, labels are
right, statistics are as stated, and any number of processes writes complete files."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from lastax.data import DataError, _pathfinder_scenes, pathfinder_generator
from lastax.data._pathfinder_settings import SETTINGS
from lastax.data._pathfinder_snakes import make_kit
from lastax.data._random_tree import below, children, root_key, uniform
from lastax.data.pathfinder import PATHFINDER, open_pathfinder
from lastax.data.pathfinder_generator import draw_images, generate, sample_sheet

from .plain_pathfinder import LENGTHS, SIZES, Plain, Snake, back, dilated, disk, move, step

# Random numbers


def test_keys_have_the_outputs_of_splitmix64_as_children():
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert children(np.zeros(3, np.uint64), np.arange(3)).tolist() == known


def test_children_do_not_depend_on_their_neighbors():
    keys = children(np.repeat(root_key(3), 100), np.arange(100))
    assert len(set(keys.tolist())) == 100
    assert np.array_equal(uniform(keys, 7)[40:41], uniform(keys[40:41], 7))


def test_numbers_below_a_limit_are_uniform():
    keys = children(np.repeat(root_key(1), 60_000), np.arange(60_000))
    counts = np.bincount(below(6, keys, 0), minlength=6)
    assert len(counts) == 6
    assert np.abs(counts - 10_000).max() < 5 * 10_000**0.5


# Pictures beside those of the plain implementation


def follow(plain, ends):
    """The paddles of a snake as the plain implementation has them, and its pivots."""
    tail = tuple(np.rint(ends[0, 0]).astype(int))
    angle = np.round(np.rad2deg(np.arctan2(*(ends[0, 1] - ends[0, 0])))) * np.pi / 180
    snakes = [Snake(plain.pivot_of_first(tail, angle)[1], angle, [(tail, angle)])]
    for near, far in ends[1:]:
        last = snakes[-1]
        pivot = step(last.pivot, last.direction, plain.length + 2 * plain.margin)
        head = tuple(np.rint(far).astype(int))
        direction = np.arctan2(*(np.array(head) - pivot))
        np.testing.assert_allclose(head + move(back(direction), plain.length), near)
        snakes.append(Snake(pivot, direction, [*last.paddles, (head, back(direction))]))
    return snakes


def present(distractors):
    return [snake for snake in distractors if not np.isnan(snake).any()]


@pytest.mark.parametrize(("side", "count"), [(32, 12), (64, 4), (128, 3), (256, 1)])
def test_pictures_are_those_of_the_plain_implementation(side, count):
    drawn = draw_images(side, "hard", 0, 0, count)
    shown = drawn.parameters
    for index, image in enumerate(drawn.images):
        plain = Plain(side, shown.margins[index])
        contours, short = shown.contours[index], present(shown.distractors[index])
        tail, head = shown.marked[index]
        expected = plain.picture(
            [paddle for snake in contours for paddle in follow(plain, snake)[-1].paddles],
            [paddle for snake in short for paddle in follow(plain, snake)[-1].paddles],
            [contours[tail, 0, 0], contours[head, -1, 1]],
        )
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_conflicts_are_those_of_whole_pictures(side, seed):
    rng = np.random.default_rng(seed)
    margin = SETTINGS[side].margins[-1]
    plain, kit = Plain(side, margin), make_kit(SETTINGS[side], margin)
    # A crowd about a pivot, not too near: else hardly anything would be free.
    pivot = rng.integers(plain.border, side - plain.border, 2)
    away = rng.uniform(0.6, 2.5, 4) * (plain.length + 3 * margin)
    places = np.rint(pivot + [move(angle, far) for angle, far in zip(range(4), away, strict=True)])
    directions = rng.integers(0, len(kit.paddles.raster), 4)
    mask = plain.empty()
    for place, direction in zip(places.astype(int), directions, strict=True):
        mask = np.maximum(mask, plain.paddle(place, kit.paddles.angles[direction])[1])
    taken, collide = kit.conflicts.look_up(
        kit.paddles.raster[directions].astype(np.int32)[:, None],
        places.astype(np.int32)[:, :, None],
        pivot.astype(np.int32)[:, None],
    )
    dilated_mask = dilated(mask, disk(margin))
    for number, head in enumerate(map(tuple, pivot + kit.paddles.heads)):
        if not plain.inside(head):
            assert taken[0, number] == 255
            continue
        assert taken[0, number] == round(255 * dilated_mask[head])
        room = plain.paddle(head, kit.paddles.angles[360 + number])[1]
        assert collide[0, number] == plain.collides(mask, room)


def assert_obeys(plain, mask, before, after):
    """That `after`, which is `before` and one paddle more, keeps to the rules."""
    pivot, heads, directions, weights = plain.candidates(mask, before)
    head, angle = after.paddles[-1]
    choice = heads.index(head)
    assert (pivot, directions[choice]) == (after.pivot, after.direction)
    assert weights[choice] > 1e-6
    assert not plain.collides(mask, plain.paddle(head, angle)[1])


@pytest.mark.parametrize(("side", "count"), [(32, 6), (64, 3), (128, 2), (256, 1)])
def test_every_paddle_obeys_the_rules(side, count):
    shown = draw_images(side, "hard", 1, 0, count).parameters
    for index in range(count):
        plain = Plain(side, shown.margins[index])
        room = lambda snake, plain=plain: plain.paddle(*snake.paddles[-1])[1]  # noqa: E731
        mask = plain.empty()
        first, second = (follow(plain, snake) for snake in shown.contours[index])
        tail, angle = first[0].paddles[0]
        assert tail in set(map(tuple, plain.free_tails(mask, angle, 2 * plain.apart)))
        distance = np.hypot(*np.subtract(tail, second[0].paddles[0][0]))
        assert abs(distance - plain.apart) <= 0.5**0.5
        for link in range(1, len(first)):
            for snake in (first, second):
                assert_obeys(plain, mask, snake[link - 1], snake[link])
                mask = np.maximum(mask, room(snake[link - 1]))
        mask = np.maximum(mask, room(second[-1]))
        for ends in present(shown.distractors[index]):
            snake = follow(plain, ends)
            tail, angle = snake[0].paddles[0]
            assert tail in set(map(tuple, plain.free_tails(mask, angle, 1)))
            for before, after in itertools.pairwise(snake):
                assert_obeys(plain, mask, before, after)
                mask = np.maximum(mask, room(before))
            mask = np.maximum(mask, room(snake[-1]))


def both_means(fast, plain):
    """How many standard errors two samples' means lie apart."""
    error = (np.var(fast) / len(fast) + np.var(plain) / len(plain)) ** 0.5
    return abs(np.mean(fast) - np.mean(plain)) / error


def turns(ends):
    """By how many degrees snakes (..., length, 2, 2) turn from paddle to paddle."""
    way = np.diff(ends, axis=-2)[..., 0, :]
    angle = np.rad2deg(np.arctan2(way[..., 0], way[..., 1]))
    return np.abs((np.diff(angle, axis=-1) + 180) % 360 - 180)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "level", "count"), [(32, "easy", 250), (128, "easy", 25)])
def test_snakes_are_distributed_as_by_the_plain_implementation(side, level, count):
    rng = np.random.default_rng(0)
    length, short_length = LENGTHS[level]
    total = SIZES[side][-1] // short_length
    samples = {"tries": [], "turns": [], "short": [], "free": []}
    margin = {32: 1, 128: 2}[side]
    for _ in range(count):
        plain, tries, long = Plain(side, margin), 0, None
        while long is None:
            long, tries = plain.try_long(rng, length), tries + 1
        snakes, mask = long
        samples["tries"].append(tries)
        ends = [[(point, point + move(angle, plain.length)) for point, angle in s.paddles]
                for s in snakes]  # fmt: skip
        ends = np.array(ends)
        ends[:, 1:] = ends[:, 1:, ::-1]
        samples["turns"] += turns(ends).reshape(-1).tolist()
        samples["short"].append(len(plain.short_snakes(rng, mask, total, short_length)))
        samples["free"].append((mask <= 0.3).mean())
    shown = draw_images(side, level, 0, 0, {32: 3000, 128: 600}[side]).parameters
    alike = shown.margins == margin
    assert both_means(shown.tries[alike], samples["tries"]) < 4
    assert both_means(turns(shown.contours[alike]).reshape(-1), samples["turns"]) < 4
    found = (~np.isnan(shown.distractors[alike]).any(axis=(2, 3, 4))).sum(axis=1)
    if np.var(samples["short"]) > 0:
        assert both_means(found, samples["short"]) < 4
    else:
        assert abs(found.mean() - samples["short"][0]) < 0.1


@pytest.mark.parametrize(
    ("side", "level", "stated", "count"),
    [(32, "easy", 20, 500), (32, "intermediate", 49, 300), (32, "hard", 237, 150),
     (128, "hard", 540, 100)],
)  # fmt: skip
def test_long_snakes_take_about_as_many_tries_as_stated(side, level, stated, count):
    tries = draw_images(side, level, 0, 0, count).parameters.tries
    # It is not said from how few pictures, so a factor of two is all that can be asked for.
    assert 0.5 < tries.mean() / stated < 2


# Labels


def dimmest(image, point, radius):
    """The darkest pixel of a disk, whose edge is blurred."""
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    inside = np.hypot(rows - point[0], columns - point[1]) <= radius - 0.5
    return image[inside].min()


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize("side", SIZES)
def test_disks_mark_two_ends_of_one_snake_or_of_two(side, level):
    count = {32: 80, 64: 20, 128: 12, 256: 6}[side]
    drawn = draw_images(side, level, 3, 0, count)
    radius = SIZES[side][2]
    clear = 0
    for image, label, snakes in zip(
        drawn.images, drawn.labels, drawn.parameters.contours, strict=True
    ):
        tips = np.stack([snakes[:, 0, 0], snakes[:, -1, 1]])  # tails, heads; of two snakes
        apart = np.linalg.norm(tips.reshape(4, 1, 2) - tips.reshape(4, 2), axis=-1)
        if apart[~np.eye(4, dtype=bool)].min() < 2 * radius + 2:
            continue
        clear += 1
        tails, heads = ([dimmest(image, tip, radius) for tip in ends] for ends in tips)
        assert min(max(tails), max(heads)) > 127
        assert label == (np.argmax(tails) == np.argmax(heads))
    assert clear > 0.4 * count


def dashes(image):
    """Centers of the two disks, and the ends of all dashes that they do not hide, by sight."""
    bright = image > 0.45 * 255
    cores, count = ndimage.label(ndimage.binary_erosion(bright, disk(2)), np.ones((3, 3)))
    sizes = ndimage.sum(cores > 0, cores, range(1, count + 1))
    largest = np.argsort(sizes)[-2:] + 1
    centers = np.array(ndimage.center_of_mass(cores > 0, cores, largest))
    rows, columns = np.indices(image.shape)
    for row, column in centers:
        bright &= np.hypot(rows - row, columns - column) > 4.3
    parts, count = ndimage.label(bright, np.ones((3, 3)))
    ends = []
    for part in range(1, count + 1):
        pixels = np.argwhere(parts == part).astype(float)
        if len(pixels) > 1:
            along = pixels @ np.linalg.svd(pixels - pixels.mean(axis=0))[2][0]
            ends.append((pixels[along.argmin()], pixels[along.argmax()]))
    return centers, ends


def unit(vector):
    return vector / np.hypot(*vector)


def leads_to_the_other(image, length):
    """Whether a smooth row of `length` dashes leads from one disk to the other, by sight.

    At each end one dash is hidden by the disk, or nearly so. Of the ways on, the two straightest
    are tried.
    """
    (start, goal), ends = dashes(image)

    def walk(place, direction, used):
        gap = np.hypot(*(goal - place))
        near = (len(used) >= length - 2 and 5 < gap < 14) or (len(used) >= length - 1 and gap < 7)
        if near and unit(goal - place) @ direction > 0.75:
            return True
        ways = []
        for number, pair in enumerate(ends):
            for near, far in (pair, pair[::-1]):
                gap = np.hypot(*(near - place))
                if number in used or not 1 < gap < (14 if not used else 9):
                    continue
                way = unit(far - near)
                straight = unit(near - place) @ (direction if used else way)
                bend = way @ direction if used else straight
                if straight > 0.55 and bend > 0.45:
                    ways.append((2 - straight - bend + 0.05 * gap, number, far, way))
        ways.sort(key=lambda way: way[0])
        limit = 2 if used else len(ways)
        return len(used) < length and any(
            walk(far, direction, used | {number}) for _, number, far, direction in ways[:limit]
        )

    return walk(start, np.zeros(2), frozenset())


@pytest.mark.parametrize("level", ["easy", pytest.param("hard", marks=pytest.mark.slow)])
def test_labels_can_be_seen(level):
    drawn = draw_images(128, level, 5, 0, 100)
    seen = np.array([leads_to_the_other(image, LENGTHS[level][0]) for image in drawn.images])
    assert seen[drawn.labels == 1].mean() > 0.7
    assert seen[drawn.labels == 0].mean() < 0.15


# What holds of all pictures


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize("side", SIZES)
def test_sets_are_as_described(side, level):
    images, labels, shown = draw_images(side, level, 2, 0, 12)
    length, short = LENGTHS[level]
    assert images.shape == (12, side, side)
    assert images.min(axis=(1, 2)).tolist() == [0] * 12
    assert images.max(axis=(1, 2)).tolist() == [255] * 12
    assert shown.contours.shape == (12, 2, length, 2, 2)
    assert shown.distractors.shape == (12, SIZES[side][-1] // short, short, 2, 2)
    assert set(shown.margins) <= ({2, 3} if side == 128 else {3} if side == 256 else {1})
    assert np.array_equal(labels == 1, shown.marked[:, 0] == shown.marked[:, 1])
    paddle_length = SIZES[side][3]
    for snakes in (shown.contours, shown.distractors):
        long = np.linalg.norm(snakes[..., 1, :] - snakes[..., 0, :], axis=-1)
        np.testing.assert_allclose(long[~np.isnan(long)], paddle_length)


def test_labels_margins_and_marked_snakes_are_balanced():
    _, labels, shown = draw_images(128, "easy", 0, 0, 200)
    tails, wide = shown.marked[:, 0], shown.margins - 2
    for half in (labels, wide, tails, labels == tails, labels == wide, wide == tails):
        assert abs(half.sum() - 100) < 4 * 50**0.5


def same(drawn, other):
    return all(
        np.array_equal(one, two, equal_nan=True)
        for one, two in zip(
            (*drawn[:2], *drawn.parameters), (*other[:2], *other.parameters), strict=True
        )
    )


def part(drawn, rows):
    images, labels, shown = drawn
    return type(drawn)(images[rows], labels[rows], type(shown)(*(field[rows] for field in shown)))


@pytest.fixture(scope="module")
def some_pictures():
    return draw_images(32, "easy", 9, 0, 40)


@settings(max_examples=8, deadline=None)
@given(first=st.integers(0, 39), data=st.data(), tries=st.sampled_from([40, 1000]))
def test_pictures_do_not_depend_on_the_rest_of_the_batch(some_pictures, first, data, tries):
    count = data.draw(st.integers(1, 40 - first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pathfinder_scenes, "_TRIES_AT_ONCE", tries)
        drawn = draw_images(32, "easy", 9, first, count)
    assert same(drawn, part(some_pictures, slice(first, first + count)))


def test_pictures_of_two_margins_do_not_depend_on_the_rest_of_the_batch():
    drawn = draw_images(128, "easy", 1, 5, 8)
    assert set(drawn.parameters.margins) == {2, 3}
    assert same(draw_images(128, "easy", 1, 8, 2), part(drawn, slice(3, 5)))


def test_sets_differ():
    sets = [draw_images(32, "easy", seed, 0, 4).images for seed in (0, 1)]
    sets += [draw_images(32, level, 0, 0, 4).images for level in ("intermediate", "hard")]
    sets.append(draw_images(32, "easy", 0, 4, 4).images)
    assert len({image.tobytes() for images in sets for image in images}) == 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolution": 33}, "resolution must be one of .*; got 33"),
        ({"level": "odd"}, "level must be one of .*; got 'odd'"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"first": -1}, "first must be at least 0; got -1"),
        ({"count": 0}, "count must be at least 1; got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sets_that_are_none(wrong, message):
    asked = {"resolution": 32, "level": "easy", "seed": 0, "first": 0, "count": 1} | wrong
    with pytest.raises(ValueError, match=message):
        draw_images(**asked)


# Files


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(pathfinder_generator, "BATCH", 4)


def content(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("small_batches")
def test_files_have_the_published_layout(tmp_path):
    seen = []
    generate(
        tmp_path,
        resolution=32,
        level="intermediate",
        count=10,
        seed=3,
        on_progress=lambda *progress: seen.append(progress),
    )
    drawn = draw_images(32, "intermediate", 3, 0, 10)
    folder = tmp_path / "pathfinder32" / "curv_contour_length_9"
    assert seen == [(4, 10), (8, 10), (10, 10)]
    for batch, size in enumerate((4, 4, 2)):
        table = (folder / "metadata" / f"{batch}.npy").read_text()
        assert table.endswith("\n")
        rows = [line.split(" ") for line in table.splitlines()]
        assert len(rows) == size
        for number, row in enumerate(rows):
            index = 4 * batch + number
            label = str(drawn.labels[index])
            assert row[:4] == [f"imgs/{batch}", f"sample_{number}.png", str(number), label]
            assert row[4:] == ["1.0", "9", "3", "2", "0.5", "1", "1"]
            with Image.open(folder / row[0] / row[1]) as picture:
                assert (picture.format, picture.mode) == ("PNG", "L")
                np.testing.assert_array_equal(np.asarray(picture), drawn.images[index])
    assert len(list(folder.rglob("*.png"))) == 10


@pytest.mark.usefixtures("small_batches")
def test_files_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    generate(tmp_path, resolution=32, level="easy", count=20)
    data = open_pathfinder(tmp_path, level="easy")
    assert [len(data.sources[split]) for split in ("train", "validation", "test")] == [16, 2, 2]
    drawn = draw_images(32, "easy", 0, 0, 20)
    there = {image.tobytes(): label for image, label in zip(*drawn[:2], strict=True)}
    for source in data.sources.values():
        for record in (source[index] for index in range(len(source))):
            pixels = np.rint((record["x"][:, 0] + 1) * 127.5).astype(np.uint8)
            assert there.pop(pixels.tobytes()) == record["label"]
    assert not there


@pytest.mark.usefixtures("small_batches")
def test_only_missing_batches_are_generated_again(tmp_path):
    make = lambda count: generate(tmp_path, resolution=32, level="easy", count=count)  # noqa: E731
    make(10)
    whole = content(tmp_path)
    folder = tmp_path / "pathfinder32" / "curv_baseline"
    (folder / "metadata" / "1.npy").unlink()
    (folder / "imgs" / "1" / "sample_2.png").write_bytes(b"half")
    (folder / "metadata" / ".1.npy.part").write_text("imgs/1 sam")
    untouched = (folder / "imgs" / "0" / "sample_0.png").stat().st_mtime_ns
    make(10)
    assert content(tmp_path) == whole
    assert (folder / "imgs" / "0" / "sample_0.png").stat().st_mtime_ns == untouched
    make(12)  # the last batch becomes whole
    assert (
        content(tmp_path).items()
        >= {name: packed for name, packed in whole.items() if name.endswith(".png")}.items()
    )
    assert len(content(tmp_path)) == len(whole) + 2


@pytest.mark.usefixtures("small_batches")
def test_other_pictures_are_not_changed(tmp_path):
    generate(tmp_path, resolution=32, level="easy", count=1)
    with pytest.raises(DataError, match="has images of seed 0"):
        generate(tmp_path, resolution=32, level="easy", count=1, seed=1)
    published = tmp_path / "pathfinder32" / "curv_contour_length_9" / "metadata"
    published.mkdir(parents=True)
    (published / "0.npy").write_text("imgs/0 sample_0.png 0 1\n")
    with pytest.raises(DataError, match="has images from another source"):
        generate(tmp_path, resolution=32, level="intermediate", count=1)
    assert (published / "0.npy").read_text() == "imgs/0 sample_0.png 0 1\n"


@pytest.mark.usefixtures("small_batches")
def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "pathfinder32").write_text("in the way")
    with pytest.raises(DataError, match="cannot write") as caught:
        generate(tmp_path, resolution=32, level="easy", count=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"count": 0}, {"workers": 0}])
def test_settings_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        generate(tmp_path, resolution=32, **({"level": "easy", "count": 1} | wrong))


def test_an_interrupted_data_set_cannot_be_opened_until_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pathfinder_generator, "BATCH", 10)
    root, settings = tmp_path / "data", {"resolution": 32, "level": "easy"}

    def interrupt(done, total):
        raise KeyboardInterrupt

    made: dict[int, int] = {}
    for count in (20, 30):  # a new data set, and one that gets more images
        with pytest.raises(KeyboardInterrupt):
            generate(root, count=count, seed=3, on_progress=interrupt, **settings)
        assert not PATHFINDER.present(root)
        for skip_bad in (False, True):
            with pytest.raises(
                DataError, match=f"make pathfinder --level easy --seed 3 --count {count}`$"
            ):
                PATHFINDER.open(root, level="easy", skip_bad=skip_bad)
        generate(root, count=count, seed=3, on_progress=made.setdefault, **settings)
        data = PATHFINDER.open(root, level="easy")
        assert sum(map(len, data.sources.values())) == count
        assert PATHFINDER.present(root)
    assert made == {20: 20}  # the first batch of each call was kept


@pytest.mark.slow
def test_processes_make_the_same_files(tmp_path):
    for workers in (1, 2):
        generate(tmp_path / str(workers), resolution=32, level="easy", count=2100, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


@pytest.mark.slow
def test_a_killed_generation_resumes(tmp_path):
    program = (
        "from pathlib import Path\n"
        "from lastax.data.pathfinder_generator import generate\n"
        "import sys\n"
        "generate(Path(sys.argv[1]), resolution=32, level='easy', count=2500)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "killed")])
    first = tmp_path / "killed" / "pathfinder32" / "curv_baseline" / "metadata" / "0.npy"
    while not first.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (first.with_name("2.npy")).exists()
    kept = first.stat().st_mtime_ns
    for name in ("killed", "whole"):
        generate(tmp_path / name, resolution=32, level="easy", count=2500)
    assert first.stat().st_mtime_ns == kept
    left = content(tmp_path / "killed")
    assert {name: left[name] for name in left if not name.endswith(".lock")} == content(
        tmp_path / "whole"
    )


# The sheet


def test_sheets_show_every_picture_above_its_label():
    drawn = draw_images(32, "easy", 0, 0, 5)
    assert set(drawn.labels) == {0, 1}
    sheet = np.asarray(sample_sheet(drawn.images, drawn.labels, columns=3, width=250))
    assert sheet.shape[1] <= 250
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (64, 64))
    rows = []
    for image in drawn.images:
        large = image.repeat(2, axis=0).repeat(2, axis=1)
        alike = np.argwhere(np.all(windows[:, :, ::4, ::4] == large[::4, ::4], axis=(2, 3)))
        found = [place for place in alike if np.array_equal(windows[tuple(place)], large)]
        assert len(found) == 1
        rows.append(found[0][0])
    rows = np.array(rows)
    assert rows[drawn.labels == 0].max() + 64 < rows[drawn.labels == 1].min()


def test_sheets_of_a_single_label():
    images = np.zeros((2, 32, 32), np.uint8)
    assert sample_sheet(images, np.ones(2, np.int64)).height > 32
