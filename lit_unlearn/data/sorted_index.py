"""litdata's list of the files in a store, in one order everywhere. Only read where litdata is installed."""

from importlib.metadata import version
from typing import Any

from litdata.raw.indexer import FileIndexer, FileMetadata

from lit_unlearn.errors import UsageError


class SortedIndexer(FileIndexer):  # type: ignore[misc]  # litdata tells no types
    """Lists files by name. The order of litdata's own list is that of the machine, and a split would move with it."""

    def build_or_load_index(self, *args: Any, **kwargs: Any) -> list[FileMetadata]:
        """The files, sorted by the parts of their paths.

        Raises:
            UsageError: if this version of litdata uploads by another method than the one that does nothing here.
        """
        if not callable(getattr(FileIndexer, "_upload_to_cloud", None)):
            raise UsageError(
                f"litdata {version('litdata')} may write its list into your store: pip install 'litdata==0.2.76'"
            )
        return sorted(super().build_or_load_index(*args, **kwargs), key=lambda file: file.path.split("/"))

    def _upload_to_cloud(self, *args: Any) -> None:
        """Leaves the store as it is: litdata would put its list beside the user's files."""
