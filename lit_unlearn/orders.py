"""The orders in which a method is trained on forget and retain batches, by name; docs/orders.md describes them."""

from typing import Literal

Order = Literal["retain", "forget", "full", "paired", "forget_then_retain", "mixed"]

KEYS: dict[Order, str] = {
    "retain": "retain",
    "forget": "forget",
    "full": "full",
    "paired": "retain and forget",
    "forget_then_retain": "forget or retain",
    "mixed": "mixed",
}
"""Order → the keys that its batches have."""
