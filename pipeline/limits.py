"""The most that what a file says of itself may ask for. The one place for it; knows no format.

A header of a few bytes can promise more than any machine has. So what it declares is held against these before memory
is taken, and a file that asks for more fails by name, alone.
"""

# Of a picture, or a frame of a video: 11,585 x 11,585, which is 400 MB of RGB. Whole 8K x 8K pictures are half of it.
MOST_PIXELS = 1 << 27
# Bytes of the frames of one sample that are decoded at once: 80 frames of 8K video.
MOST_DECODED = 8 << 30
# Bytes of an array that lies packed. One that lies open is mapped, and as large as its file.
MOST_UNPACKED = 2 << 30
# Rows of a sample: a week at 25 a second. Time stamps that promise more are broken.
MOST_ROWS = 1 << 24
# Bytes of a text of one sample, such as its labels: of a week at 25 a second 16 a line.
MOST_TEXT = 1 << 28
