"""Forgotten images that are in the training set a second time, pixel by pixel, and stay in it."""

from collections.abc import Iterator

from torch import Tensor

from lit_unlearn.data.reading import Images


def said_of_copies(images: Images, forget: Tensor, retain: Tensor) -> Iterator[str]:
    """A warning with the number of forgotten images of which an exact copy is retained.

    Args:
        images: of training. Those that are streamed are not compared: all of them would have to be decoded.
        forget: which of them are forgotten, int64 (Nf,).
        retain: which of them are retained, int64 (Nr,).
    """
    if not isinstance(images, Tensor):
        return
    pixels = images.numpy()
    forgotten = [hash(pixels[index].tobytes()) for index in forget.tolist()]
    both = set(forgotten).intersection(hash(pixels[index].tobytes()) for index in retain.tolist() if forgotten)
    if count := sum(each in both for each in forgotten):
        yield (
            f"{count:,} of {len(forgotten):,} forgotten images have an exact copy among the retained ones, so that the "
            "model still learns them: forget the copies, too"
        )
