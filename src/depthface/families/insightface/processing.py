"""The array maths between InsightFace's networks: photo to detector, face to crop, network output to answer.

Photos are `(H, W, 3) uint8 RGB` throughout (insightface's own are BGR), coordinates are pixels of the upright photo,
x before y, and a matrix is `(2, 3) float64`, photo to crop. File and line numbers are those of insightface 2.1; what
differs from it is only where it divides by zero, or asks OpenCV for a picture of no pixels or of one that is too long.
"""

from __future__ import annotations

import functools
from importlib import resources

import cv2
import numpy as np
import numpy.typing as npt

from depthface.families.insightface.facts import (
    DETECTOR_SIDE_PX,
    DETECTOR_SMALL_SIDE_PX,
    LANDMARK_CROP_PX,
    LANDMARKS_68_COLUMNS,
    RECOGNITION_CROP_PX,
    TEMPLATE_112_PX,
)
from depthface.tasks.faces import DET_SIZE_AUTO, DET_SIZE_STRIDE_PX

__all__ = [
    "NO_SCALE",
    "align",
    "alignment",
    "crop_box",
    "gender_and_age",
    "letterbox",
    "letterboxes",
    "mean_shape_68",
    "paste_back",
    "place_landmarks",
    "pose",
    "select",
]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

CROP_MARGIN = 1.5
"""A crop for landmarks, gender and age is this many times the longer side of the box (landmark.py:89)."""

OPENCV_SIDE_PX = 2**15 - 1
"""SHRT_MAX: of a photo with a side of so many pixels or more OpenCV makes no crop."""

CROP_BORDER_PX = 2
"""So far beyond its corners a crop sees of the photo at the most: by interpolation, and by what OpenCV rounds."""

NO_SCALE = -1.0
"""The scale of a pass in which the detector is to find nothing."""

# What stands for the small pass where one size is asked for, with that scale: in black alone a detector finds faces.
_NOTHING = np.zeros((DET_SIZE_STRIDE_PX, DET_SIZE_STRIDE_PX, 3), np.uint8)

# Every blend smaller than this would show its edge (inswapper.py:90, 99).
SMALLEST_ERODE_PX = 10
SMALLEST_BLUR_PX = 5


def letterbox(photo: Pixels, side: int = DETECTOR_SIDE_PX) -> tuple[Pixels, float]:
    """Scale to fit a square, top left, the rest black (scrfd.py:810-822).

    Returns:
        `(side, side, 3) uint8 RGB`, and how many of its pixels one of the photo's is.
    """
    height, width = photo.shape[:2]
    ratio = height / width
    if ratio > 1:
        new_height, new_width = side, max(int(side / ratio), 1)
    else:
        new_height, new_width = max(int(side * ratio), 1), side
    square = np.zeros((side, side, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(photo, (new_width, new_height))
    return square, new_height / height


def letterboxes(
    photo: Pixels, min_score: float, det_size: int, fixed_side_px: int | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """Return a detector's inputs for one photo, by name, without batch dimension; `graphs.scrfd` says what each is.

    Args:
        det_size: side of the one square that the detector is to see the photo in, in pixels; or `DET_SIZE_AUTO`.
        fixed_side_px: of a detector that takes one square alone: its side, whatever `det_size` is.
    """
    large, scale = letterbox(photo, fixed_side_px or det_size or DETECTOR_SIDE_PX)
    fed: dict[str, npt.NDArray[np.generic]] = {
        "pixels": large,
        "scale": np.array([scale], np.float32),
        "min_score": np.array([min_score], np.float32),
    }
    if fixed_side_px is None:
        is_auto = det_size == DET_SIZE_AUTO
        small, small_scale = letterbox(photo, DETECTOR_SMALL_SIDE_PX) if is_auto else (_NOTHING, NO_SCALE)
        fed |= {"pixels_small": small, "scale_small": np.array([small_scale], np.float32)}
    return fed


def alignment(keypoints: Floats, size: int) -> Matrix:
    """Return the rotation, scale and shift that brings five keypoints nearest to the template (face_align.py:12-25).

    Least squares after Umeyama (1991), in the steps and the precision of skimage's SimilarityTransform, which
    insightface calls: OpenCV rounds the matrix to steps of 1/32 of a pixel, so its last digits show in the crop.

    Args:
        keypoints: `(5, 2) float32`.
        size: of the crop; a multiple of 112, or of 128, where the template is shifted to the middle.

    Returns:
        `(2, 3) float64`, never a mirror image; if all keypoints are one point it shrinks the photo to a point.
    """
    if size % 112 and size % 128:
        raise ValueError(f"Faces are aligned to a multiple of 112 or 128 pixels, not {size}.")
    ratio, shift_x = (size / 112, 0.0) if size % 112 == 0 else (size / 128, 8 * size / 128)
    template = np.array(TEMPLATE_112_PX, np.float32) * ratio
    template[:, 0] += shift_x
    mean, template_mean = keypoints.mean(axis=0), template.mean(axis=0)
    centred = keypoints - mean
    covariance = (template - template_mean).T @ centred / len(keypoints)
    left, strengths, right = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    spread = centred.var(axis=0).sum()
    scale = 1 / spread * (strengths @ signs) if spread > 0 else 0.0
    rotation = left @ np.diag(signs) @ right
    return np.column_stack((scale * rotation, template_mean - scale * (rotation @ mean)))


def align(photo: Pixels, keypoints: Floats, size: int = RECOGNITION_CROP_PX) -> tuple[Pixels, Matrix]:
    """Cut a face out upright, for recognition (112) or swapping (128) (face_align.py:27-35).

    Returns:
        `(size, size, 3) uint8 RGB`, black outside the photo, and the matrix from photo to crop.
    """
    matrix = alignment(keypoints, size)
    return _warp(photo, matrix, size), matrix


def crop_box(photo: Pixels, box: Floats, size: int) -> tuple[Pixels, Matrix]:
    """Cut a box out with its surroundings, for landmarks (192) or gender and age (96).

    landmark.py:85-92, attribute.py:77-84, face_align.py:57-77 with no rotation.

    Args:
        box: `(4,) float32`, x1 y1 x2 y2.

    Returns:
        `(size, size, 3) uint8 RGB`, black outside the photo, and the matrix from photo to crop.
    """
    # Sums and differences in float32, the rest in float64, as insightface's: OpenCV rounds the matrix to steps of 1/32
    # of a pixel, so its last digits show.
    sides, sums = box[2:] - box[:2], box[2:] + box[:2]
    longer = float(sides.max())
    scale = size / (longer * CROP_MARGIN) if longer > 0 else 0.0
    center_x, center_y = float(sums[0]) / 2, float(sums[1]) / 2
    matrix = np.array([[scale, 0, size / 2 - center_x * scale], [0, scale, size / 2 - center_y * scale]])
    return _warp(photo, matrix, size), matrix


def place_landmarks(raw: Floats, matrix: Matrix) -> Floats:
    """Return the landmark network's output in the photo (landmark.py:96-109, face_align.py:80-113).

    Args:
        raw: `(212,)` or `(3309,) float32`, −1…1 across the crop.
        matrix: of the crop, from `crop_box`.

    Returns:
        `(106, 2)` x y, or `(68, 3) float32` x y z; z grows away from the camera in the same pixels, from no fixed zero.
    """
    points = raw.reshape(-1, 3)[-68:] if raw.size == LANDMARKS_68_COLUMNS else raw.reshape(-1, 2)
    points = points.astype(np.float32)
    points[:, :2] += 1
    points *= LANDMARK_CROP_PX // 2
    back = cv2.invertAffineTransform(matrix)
    placed = np.empty_like(points)
    placed[:, :2] = points[:, :2] @ back[:, :2].T + back[:, 2]
    placed[:, 2:] = points[:, 2:] * np.hypot(back[0, 0], back[0, 1])
    return placed


@functools.cache
def mean_shape_68() -> Floats:
    """Return the mean face of the 68 landmarks, `(68, 3) float32`, read-only.

    insightface's data/objects/meanshape_68.pkl (of its MIT-licensed library, not of a model pack), as numbers.
    """
    shape: Floats = np.load(str(resources.files(__package__) / "meanshape_68.npy"))
    shape.flags.writeable = False
    return shape


def pose(landmarks_68: Floats) -> Floats:
    """How the head is turned, from its landmarks (landmark.py:110-114, transform.py:59-116).

    Args:
        landmarks_68: `(68, 3) float32`, from `place_landmarks`.

    Returns:
        `(3,) float32`, degrees: pitch, yaw, roll.
    """
    mean = mean_shape_68()
    fixed = np.ones((len(mean), 4))
    fixed[:, :3] = mean
    affine: Matrix = np.linalg.lstsq(fixed, landmarks_68.astype(np.float64), rcond=None)[0].T
    first, second = _unit(affine[0, :3]), _unit(affine[1, :3])
    rotation = np.stack((first, second, np.cross(first, second)))
    cosine = np.hypot(rotation[0, 0], rotation[1, 0])
    if cosine < 1e-6:  # looking straight up or down: pitch and roll are one
        angles = (np.arctan2(-rotation[1, 2], rotation[1, 1]), np.arctan2(-rotation[2, 0], cosine), 0.0)
    else:
        angles = (
            np.arctan2(rotation[2, 1], rotation[2, 2]),
            np.arctan2(-rotation[2, 0], cosine),
            np.arctan2(rotation[1, 0], rotation[0, 0]),
        )
    degrees: Floats = np.degrees(angles).astype(np.float32)
    return degrees


def gender_and_age(raw: Floats) -> tuple[int, int]:
    """Return what the attribute network's `(3,) float32` says: 0 female or 1 male, and years (attribute.py:87-91)."""
    return int(np.argmax(raw[:2])), round(float(raw[2]) * 100)


def select(boxes: Floats, photo_size: tuple[int, int], max_faces: int) -> npt.NDArray[np.intp]:
    """Return which faces to keep if only so many are wanted: the large ones, near the middle (scrfd.py:785-803).

    What counts is area − 2 · (distance from the photo's centre)².

    Args:
        boxes: `(F, 4) float32`, by descending score.
        photo_size: height and width.
        max_faces: 0 for all.

    Returns:
        Indices into `boxes`: all, in their order, if there are no more than wanted; else the best, best first.
    """
    if max_faces <= 0 or len(boxes) <= max_faces:
        return np.arange(len(boxes))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    center_y, center_x = photo_size[0] // 2, photo_size[1] // 2
    offset_x = (boxes[:, 0] + boxes[:, 2]) / 2 - center_x
    offset_y = (boxes[:, 1] + boxes[:, 3]) / 2 - center_y
    values = areas - (offset_x**2 + offset_y**2) * 2
    return np.argsort(values)[::-1][:max_faces]


def paste_back(photo: Pixels, face: Pixels, matrix: Matrix) -> Pixels:
    """Put a swapped face back where it was cut out, its edge blended in (inswapper.py:62-107).

    The mask is the crop's square in the photo, eroded by a tenth of its size and blurred by a twentieth. insightface
    blends the whole photo; outside the square nothing changes, so here only its surroundings are blended.

    Args:
        face: `(S, S, 3) uint8 RGB`, the swapper's.
        matrix: of the crop, from `align`.

    Returns:
        A new photo.
    """
    height, width = photo.shape[:2]
    result = photo.copy()
    back = cv2.invertAffineTransform(matrix)
    mask = cv2.warpAffine(np.full(face.shape[:2], 255, np.float32), back, (width, height))
    rows, columns = np.flatnonzero((mask > 20).any(axis=1)), np.flatnonzero((mask > 20).any(axis=0))
    if not rows.size:
        return result
    size = int(np.sqrt((rows[-1] - rows[0]) * (columns[-1] - columns[0])))
    erode = max(size // 10, SMALLEST_ERODE_PX)
    blur = max(size // 20, SMALLEST_BLUR_PX)
    # Beyond the blur's reach plus one black pixel the mask is zero, and so is every border rule's answer.
    reach = blur + 2
    window = (
        slice(max(rows[0] - reach, 0), rows[-1] + reach + 1),
        slice(max(columns[0] - reach, 0), columns[-1] + reach + 1),
    )
    mask = mask[window]
    mask[mask > 20] = 255
    mask = cv2.erode(mask, np.ones((erode, erode), np.uint8))
    mask = cv2.GaussianBlur(mask, (2 * blur + 1, 2 * blur + 1), 0)[..., None] / np.float32(255)
    swapped = cv2.warpAffine(face, back, (width, height))[window]
    result[window] = (mask * swapped + (1 - mask) * photo[window].astype(np.float32)).astype(np.uint8)
    return result


def _warp(photo: Pixels, matrix: Matrix, size: int) -> Pixels:
    if max(photo.shape) >= OPENCV_SIDE_PX:
        photo, matrix = _seen(photo, matrix, size)
    warped: Pixels = cv2.warpAffine(photo, matrix, (size, size))  # type: ignore[assignment]
    return warped


def _seen(photo: Pixels, matrix: Matrix, size: int) -> tuple[Pixels, Matrix]:
    """Return what a crop sees of a photo that is too long for OpenCV, and the matrix from there to the crop.

    Of what is itself too long it is every second pixel, or third, …: a crop shows fewer still.
    """
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([(x, y, 1) for x in (0, size) for y in (0, size)]) @ back.T
    sides = np.array(photo.shape[1::-1])
    first = np.clip(np.floor(corners.min(axis=0)) - CROP_BORDER_PX, 0, sides - 1).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0)) + CROP_BORDER_PX, first + 1, sides).astype(int)
    step = -(-int((last - first).max()) // (OPENCV_SIDE_PX - 1))
    shift = matrix[:, :2] @ first + matrix[:, 2]
    return photo[first[1] : last[1] : step, first[0] : last[0] : step], np.column_stack((step * matrix[:, :2], shift))


def _unit(row: Matrix) -> Matrix:
    length = float(np.linalg.norm(row))
    return row / length if length > 0 else row
