"""Make a trained image classifier forget, attack the result, and say honestly whether it forgot.

``import lit_unlearn as lu`` offers every public class of the package, and the functions of :mod:`lit_unlearn.api`. Each
is imported when it is first used: the import alone loads neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_unlearn.api import *  # noqa: F403
    from lit_unlearn.attacks import *  # noqa: F403
    from lit_unlearn.backbones import *  # noqa: F403
    from lit_unlearn.benchmark import *  # noqa: F403
    from lit_unlearn.data import *  # noqa: F403
    from lit_unlearn.methods import *  # noqa: F403
    from lit_unlearn.metrics import *  # noqa: F403
    from lit_unlearn.reports import *  # noqa: F403
    from lit_unlearn.reports.report import *  # noqa: F403

__version__ = "0.1.0"

_ROOMS = ("data", "backbones", "metrics", "methods", "attacks", "reports", "reports.report", "benchmark", "api")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for room in _ROOMS:
        module = import_module(f"{__name__}.{room}")
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *(name for room in _ROOMS for name in import_module(f"{__name__}.{room}").__all__)})
