"""A pen that draws tables of shapes through a small move / turn / mirror transform."""

import math

import numpy as np
from PIL import Image, ImageDraw

UNITS = 64
SCALE = 4
GRID = np.stack(np.meshgrid(np.arange(UNITS) + 0.5, np.arange(UNITS) + 0.5), -1)
PALETTE = {
    "white": (246, 246, 242),
    "paper": (252, 250, 238),
    "black": (26, 26, 32),
    "grey": (140, 144, 152),
    "silver": (200, 206, 214),
    "dark": (58, 60, 70),
    "gold": (236, 190, 60),
    "yellow": (250, 212, 40),
    "orange": (242, 124, 32),
    "red": (206, 36, 40),
    "wine": (128, 28, 46),
    "pink": (238, 120, 160),
    "purple": (122, 58, 160),
    "navy": (28, 40, 84),
    "blue": (44, 92, 190),
    "sky": (132, 190, 232),
    "teal": (24, 142, 142),
    "green": (50, 132, 62),
    "lime": (150, 206, 60),
    "olive": (92, 100, 58),
    "moss": (58, 70, 40),
    "brown": (120, 76, 42),
    "wood": (176, 122, 70),
    "tan": (206, 172, 120),
    "straw": (228, 194, 108),
    "cream": (244, 232, 204),
    "bread": (214, 150, 76),
    "denim": (62, 92, 146),
}


def jitter(colour, rng, spread=10):
    """The colour moved a little at random."""
    return tuple(int(v) for v in np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255))


def tint(colour, amount):
    """The colour made lighter (amount > 0) or darker (amount < 0)."""
    goal = 255 if amount > 0 else 0
    return tuple(int(v + (goal - v) * abs(amount)) for v in colour)


def mix(one, two, share):
    """The colour `share` of the way from one to two."""
    return tuple(int(a + (b - a) * share) for a, b in zip(one, two, strict=True))


def circle(x, y, rx, ry, start=0.0, end=360.0, count=30):
    """Points on (a part of) an ellipse, angles clockwise in degrees from the right."""
    angle = np.radians(np.linspace(start, end, count))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)


def smooth(points, steps=5):
    """A closed Catmull-Rom curve through the points."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.arange(steps)[:, None, None] / steps
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (curve / 2).transpose(1, 0, 2).reshape(-1, 2)


class Pen:
    """Draws in units of the 64 px picture around (x, y), turned by angle (radians), mirrored if flip is -1."""

    def __init__(self, img, x=0.0, y=0.0, scale=1.0, angle=0.0, flip=1, colours=None):
        self.img, self.draw, self.px = img, ImageDraw.Draw(img), img.width / UNITS
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        self.matrix, self.offset, self.scale = np.array([[c * flip, s * flip], [-s, c]]), np.array([x, y]), scale
        self.colours = PALETTE | (colours or {})

    def on(self, img):
        """The same transform on another image."""
        pen = object.__new__(Pen)
        pen.__dict__ = self.__dict__ | {"img": img, "draw": ImageDraw.Draw(img), "px": img.width / UNITS}
        return pen

    def colour(self, name):
        """A colour from a tuple, a palette name, or a name with + (lighter) or - (darker) behind it."""
        if not isinstance(name, str):
            return name
        if name[-1] in "+-":
            return tint(self.colour(name[:-1]), 0.3 if name[-1] == "+" else -0.25)
        return self.colours[name]

    def at(self, points):
        """Points in pixels of the image, as a flat list."""
        points = np.asarray(points, float).reshape(-1, 2)
        return ((points @ self.matrix + self.offset) * self.px).ravel().tolist()

    def local(self):
        """The (x, y) of every cell of the 64 x 64 grid in the pen's own coordinates."""
        return (GRID - self.offset) @ np.linalg.inv(self.matrix)

    def poly(self, fill, points):
        """A filled polygon."""
        self.draw.polygon(self.at(points), fill=self.colour(fill))

    def blob(self, fill, points):
        """A filled smooth closed curve."""
        self.poly(fill, smooth(np.asarray(points, float).reshape(-1, 2)))

    def oval(self, fill, x, y, rx, ry):
        """A filled ellipse."""
        self.poly(fill, circle(x, y, rx, ry))

    def box(self, fill, x0, y0, x1, y1):
        """A filled rectangle."""
        self.poly(fill, [x0, y0, x1, y0, x1, y1, x0, y1])

    def line(self, fill, width, points):
        """A line with round joints."""
        width = max(1, round(width * self.px * self.scale))
        self.draw.line(self.at(points), fill=self.colour(fill), width=width, joint="curve")

    def arc(self, fill, width, x, y, rx, ry, start=0, end=360):
        """A part of the outline of an ellipse."""
        self.line(fill, width, circle(x, y, rx, ry, start, end, 24))

    def shapes(self, table):
        """Draws a table of (method, *arguments); a method that begins with 'm' and '_' is drawn on both sides."""
        for kind, *args in table:
            getattr(self, kind.removeprefix("m_"))(*args)
            if kind.startswith("m_"):
                matrix, self.matrix = self.matrix, np.diag([-1, 1]) @ self.matrix
                getattr(self, kind.removeprefix("m_"))(*args)
                self.matrix = matrix


def grey_mask(values, size):
    """A float map in 0 .. 1 as a smooth mask of the given size."""
    small = Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BILINEAR)


def glow(img, values, colour):
    """Lays the colour over the image with the opacity of a 64 x 64 float map."""
    img.paste(tuple(colour), (0, 0), grey_mask(values, img.width))


def spot(grid, x, y, sx, sy):
    """A soft elliptical spot of height 1 on a grid of coordinates."""
    return np.exp(-(((grid[..., 0] - x) / sx) ** 2) - ((grid[..., 1] - y) / sy) ** 2)
