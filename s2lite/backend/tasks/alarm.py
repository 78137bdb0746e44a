"""A timer that wakes an actor."""

from typing import Any

import attrs
import trio

from actors import ActorContext


@attrs.define(eq=False)
class Alarm:
    """Wakes the actor at one moment. It never fails, so it cannot interrupt what the actor does."""

    context: ActorContext[Any]
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def set(self, at: float) -> None:
        """Wake it at that time by trio's clock, and not when it was set to before."""
        self.clear()
        self._scope = trio.CancelScope()
        self.context.start_soon(self._ring, self._scope, at)

    def clear(self) -> None:
        """Do not wake it."""
        self._scope.cancel()

    async def _ring(self, scope: trio.CancelScope, at: float) -> None:
        with scope:
            await trio.sleep_until(at)
            self.context.ref.wake()
