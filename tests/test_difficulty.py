"""A reader's own teacher and student: the verdicts on teachers that are known, and what is refused."""

import numpy as np
import pytest

from kdlib.complexity import supervision_complexity
from kdlib.difficulty import difficulty, read_logits

draw = np.random.default_rng(0)
X = draw.normal(size=(120, 5))
GRAM = np.exp(-0.5 * np.sum((X[:, None] - X[None]) ** 2, axis=2) / 9)
SMOOTH = np.stack([X @ w for w in draw.normal(size=(3, 5))], axis=1)
LABELS = SMOOTH.argmax(1)


def test_a_smooth_teacher_is_easy_and_noise_is_not():
    smooth = difficulty(GRAM, SMOOTH, LABELS)
    noise = difficulty(GRAM, np.random.default_rng(1).normal(size=(120, 3)), LABELS)
    assert smooth.verdict == "easy" and smooth.relative < 0.1
    assert "noise" in noise.verdict and 0.7 < noise.relative < 1.4
    assert smooth.teacher_error == smooth.spoiled == 0 and smooth.certificate.value > 0
    assert np.all(np.diff(smooth.teacher) >= 0) and np.all(np.diff(noise.noise, axis=1) >= 0)


def test_a_kernel_across_outputs_gives_the_same_as_a_shared_one():
    shared = difficulty(GRAM, SMOOTH, LABELS)
    across = np.einsum("ij,cd->icjd", GRAM, np.eye(3))
    for gram in (across, across.reshape(360, 360)):
        found = difficulty(gram, SMOOTH, LABELS)
        np.testing.assert_allclose(found.teacher, shared.teacher, rtol=1e-8)
        np.testing.assert_allclose(found.certificate.value, shared.certificate.value, rtol=1e-8)


def test_nested_complexities_are_those_of_each_sample():
    found = difficulty(GRAM, SMOOTH, LABELS)
    centred = SMOOTH - SMOOTH.mean(axis=1, keepdims=True)
    each = [supervision_complexity(GRAM[:k, :k], centred[:k]).value for k in found.sizes]
    np.testing.assert_allclose(found.teacher, each, rtol=1e-6)
    half = supervision_complexity(GRAM[:60, :60], centred[:60]).value
    np.testing.assert_allclose(found.growth, np.log2(each[-1] / half), rtol=1e-6)


def test_hard_labels_correct_a_doubtful_teacher():
    wrong = SMOOTH.copy()
    wrong[:20] = wrong[:20, [1, 2, 0]]
    found = difficulty(GRAM, 0.1 * wrong, LABELS, soft_ratio=0.3)
    assert 0 < found.teacher_error < 0.2 and found.corrected == 1 and found.spoiled == 0
    assert difficulty(GRAM, wrong, LABELS).corrected == 0


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="gram must be"):
        difficulty(GRAM[:50, :50], SMOOTH, LABELS)
    for options, message in (
        (dict(repeats=0), "repeats"), (dict(ridge=-1.0), "ridge"), (dict(ridge=np.nan), "ridge"),
        (dict(delta=2.0), "delta"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            difficulty(GRAM, SMOOTH, LABELS, **options)
    with pytest.raises(ValueError, match="nothing to learn"):
        difficulty(GRAM, np.zeros_like(SMOOTH), LABELS)
    silent = SMOOTH.copy()
    silent[: len(silent) // 2] = 0
    with pytest.raises(ValueError, match="random order"):
        difficulty(GRAM, silent, LABELS)
    silent = np.random.default_rng(0).permutation(silent)  # where it says nothing it is wrong, as for `choose`
    assert difficulty(GRAM, silent, LABELS).teacher_error >= 0.5
    outputs = SMOOTH.shape[1]
    with pytest.raises(ValueError, match="gram must be"):  # of the right size, in another order
        difficulty(np.zeros((outputs, len(LABELS), outputs, len(LABELS))), SMOOTH, LABELS)
    with pytest.raises(ValueError, match="at least 8"):
        difficulty(GRAM[:4, :4], SMOOTH[:4], LABELS[:4])


def test_logits_come_from_files_that_are_only_numbers(tmp_path):
    np.save(tmp_path / "a.npy", SMOOTH.astype(np.float32))
    np.savetxt(tmp_path / "a.csv", SMOOTH, delimiter=",")
    np.testing.assert_allclose(read_logits(tmp_path / "a.npy", 120), SMOOTH, rtol=1e-6)
    np.testing.assert_allclose(read_logits(tmp_path / "a.csv", 120), SMOOTH)
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    broken = SMOOTH.copy()
    broken[7, 1] = np.inf
    np.save(tmp_path / "broken.npy", broken)
    for name, message in (("no.npy", "no file"), ("objects.npy", "not an array"), ("broken.npy", "row 7")):
        with pytest.raises(ValueError, match=message):
            read_logits(tmp_path / name, 1 if name == "objects.npy" else 120)
    with pytest.raises(ValueError, match=r"not \(119, C\)"):
        read_logits(tmp_path / "a.npy", 119)
