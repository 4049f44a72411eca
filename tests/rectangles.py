"What the tests of pasting and copy-paste share: rectangles that stand still."

import numpy as np

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def still(T=8, size=(96, 160), box=(35, 65, 100, 130), colour=GREEN, ground=BLUE, id=1):
    "Frames and ids of one rectangle (top, bottom, left, right)."
    frames = np.zeros((T, *size, 3), np.uint8) + np.uint8(ground)
    ids = np.zeros((T, *size), np.uint8)
    y0, y1, x0, x1 = box
    frames[:, y0:y1, x0:x1] = colour
    ids[:, y0:y1, x0:x1] = id
    return frames, ids


def guest(T=8, size=(60, 80), box=(15, 40, 20, 60)):
    "A red rectangle on green, of which nothing may be seen outside its mask."
    frames, ids = still(T, size, box, colour=RED, ground=GREEN)
    return frames, ids == 1
