"""The forms of data that can be read. A new form is one file with a `SOURCE`, and a line here."""

from __future__ import annotations

from zgedge.data.dataset import Source
from zgedge.data.sources import cifar10, csv_file, digits, mnist, npy, npz, pictures

# The first source that accepts a spec reads it, so folders of pictures, which take any folder,
# come last.
SOURCES: tuple[Source, ...] = (
    digits.SOURCE,
    mnist.SOURCE,
    cifar10.SOURCE,
    npz.SOURCE,
    csv_file.SOURCE,
    npy.SOURCE,
    pictures.SOURCE,
)
