"""On a phone, panels side by side stand below each other.

A figure is one picture. Where it can be cut along its white gutters, the page has it twice: whole, and as windows upon
its parts. The style shows one of the two (`kd.css`); the browser loads the picture once. A panel that shares its
vertical axis with the one before has no numbers of its own: its window has a second one, upon the first panel's.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PICTURE = re.compile(r'<img (?P<rest>[^>]*?src="[^"]*/(?P<name>[^"/]+\.png)"[^>]*)/?>')
ALT = re.compile(r'alt="[^"]*"')
SOURCE = re.compile(r'src="[^"]*"')
NO_TEXT = 'alt="" data-part=""'
INK = 250  # grey levels below are no background
GUTTER = 12  # pixels of white, at least; pictures have two for each of the page's
LEAST = 0.2  # of the picture's width: a panel's; what is narrower is the labels of one
MOST = 3  # panels in a row: more are small pictures, to be seen beside each other
LEGEND = 0.35  # of the picture's height, at most: what stands below all panels
LINE = 0.25  # of the height: what is longer is an axis
TICK = 13  # pixels: from an axis to the end of its ticks, at most


class Box(NamedTuple):
    """A part of a picture, in pixels; above `first` and below `last` its window is blank."""

    left: int
    top: int
    right: int
    bottom: int
    first: int
    last: int


def gaps(ink):
    """`(start, end)` of each run without ink that is wide enough, of a `(n,)` array of booleans."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], ink.astype(int), [1]])))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, end) for start, end in runs if end - start >= GUTTER]


def columns(ink):
    """The left and right ends of the panels of an `(height, width)` array.

    Between two panels there may be two gaps, left and right of an axis' name: the wider one is the gutter.
    """
    width, least, cuts = ink.shape[1], LEAST * ink.shape[1], []
    for start, end in gaps(ink.any(axis=0)):
        if start < least or width - end < least:
            continue
        if cuts and start - cuts[-1][1] < least:
            cuts[-1] = max(cuts[-1], (start, end), key=lambda gap: gap[1] - gap[0])
        else:
            cuts.append((start, end))
    edges = [0, *((start + end) // 2 for start, end in cuts), width]
    return list(zip(edges[:-1], edges[1:], strict=True))


def vertical_axis(ink):
    """`(column, first row, last row)` of the first column with long lines; None without one. Letters are no lines."""
    for column in np.flatnonzero(ink.mean(axis=0) > LINE):
        ends = np.flatnonzero(
            np.diff(np.concatenate([[0], ink[:, column].astype(int), [0]]))
        )
        lines = [
            (start, end)
            for start, end in zip(ends[::2], ends[1::2], strict=True)
            if end - start > LINE * len(ink)
        ]
        if lines:
            return int(column), int(lines[0][0]), int(lines[-1][1])
    return None


def borrowed(ink):
    """The rows `(first, last)` of a vertical axis with ticks but no labels, which the panel before has; else None."""
    if (found := vertical_axis(ink)) is None:
        return None
    axis, first, last = found
    ticks, labels = (
        ink[first:last, max(0, axis - TICK) : axis],
        ink[first:last, : max(0, axis - TICK)],
    )
    return (first, last) if ticks.any() and not labels.any() else None


def parts(ink):
    """The panels, each a list of boxes to be shown side by side; last a legend below them. None of a single panel."""
    height, width = ink.shape
    below = [
        (start + end) // 2
        for start, end in gaps(ink.any(axis=1))
        if start >= (1 - LEGEND) * height
    ]
    for bottom in [height, *reversed(below)]:
        if 1 < len(ends := columns(ink[:bottom])) <= MOST:
            break
    else:
        return []
    found, first_axis = [], vertical_axis(ink[:bottom])
    for left, right in ends:
        own = ink[:bottom, left:right]
        rows = np.flatnonzero(own.any(axis=1))
        top, end = max(0, int(rows[0]) - GUTTER), min(bottom, int(rows[-1]) + GUTTER)
        found.append([Box(left, top, right, end, top, end)])
        shared = borrowed(own) if left and first_axis else None
        if shared:  # what is above and below the axis are halves of other things
            labels = Box(
                0,
                top,
                first_axis[0] - TICK,
                end,
                max(top, shared[0] - TICK),
                min(end, shared[1] + TICK),
            )
            found[-1].insert(0, labels)
    if bottom < height:
        inked = np.flatnonzero(ink[bottom:].any(axis=0))
        left, right = (
            max(0, int(inked[0]) - GUTTER),
            min(width, int(inked[-1]) + GUTTER),
        )
        found.append([Box(left, bottom, right, height, bottom, height)])
    return found


def window(box, size, image):
    """The HTML of one box: its own shape, the whole picture behind it."""
    (width, _), across, down = size, box.right - box.left, box.bottom - box.top
    place = f"width:{100 * width / across:.2f}%;left:{-100 * box.left / across:.2f}%;top:{-100 * box.top / down:.2f}%"
    shape = f"flex:{across} 0 0;aspect-ratio:{across}/{down}"
    above, below = (
        100 * pixels / down for pixels in (box.first - box.top, box.bottom - box.last)
    )
    shape += (
        f";clip-path:inset({above:.2f}% 0 {below:.2f}% 0)" if above or below else ""
    )
    return f'<span style="{shape}"><img {image} style="{place}"></span>'


def stacked(match, places):
    """A picture, and its parts where it has any."""
    if match["name"] not in places:
        return match[0]
    with Image.open(places[match["name"]]) as picture:
        size, ink = picture.size, np.asarray(picture.convert("L")) < INK
    source, alt = SOURCE.search(match["rest"])[0], ALT.search(match["rest"])
    texts = iter([alt[0]] if alt else [])  # said once
    panels = []
    for boxes in parts(ink):
        across = sum(box.right - box.left for box in boxes)
        inside = "".join(
            window(box, size, f"{source} {next(texts, NO_TEXT)}") for box in boxes
        )
        panels.append(
            f'<span class="panel" style="max-width:{across / 2:.0f}px">{inside}</span>'
        )
    if not panels:
        return match[0]
    whole = match[0].replace("<img ", '<img data-whole="" ', 1)
    return f'{whole}<span class="panels">{"".join(panels)}</span>'


def stack(app, _page, _template, context, _doctree):
    """Add the parts of a page's figures."""
    images = getattr(app.builder, "images", {})
    places = {name: Path(app.srcdir) / path for path, name in images.items()}
    if "body" in context:
        context["body"] = PICTURE.sub(
            lambda match: stacked(match, places), context["body"]
        )


def setup(app):
    """Connect it."""
    app.connect("html-page-context", stack)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
