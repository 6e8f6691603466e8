"""Hooks: the methods that a subclass of PerceptionNode implements or may override."""

from abc import abstractmethod

from mnv2_perception.nodes.worker import Frame, Turns


class Hooks:
    """What a node does besides the work of PerceptionNode; see there which thread calls each hook.

    Attributes:
        rank: rank in the turns of the process's workers: the lowest goes first.
    """

    rank = 0

    @abstractmethod
    def acquire(self) -> None:
        """Open what the node needs and create its publishers."""

    @abstractmethod
    def release(self) -> None:
        """Release what `acquire` opened, in reverse order; `acquire` may have failed half-way."""

    @abstractmethod
    def announce(self) -> None:
        """Publish what subscribers must know before the first result."""

    def greet(self) -> None:
        """Serve subscribers or publishers that have newly appeared; called often while active."""

    @abstractmethod
    def subscribe(self) -> None:
        """Create the subscriptions."""

    @abstractmethod
    def work(self, frame: Frame) -> None:
        """Process a frame and publish the results; count each frame exactly once.

        Errors are to be caught with `rejecting`, which counts the frame.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return the node's own facts for the diagnostics."""

    def warning(self) -> str:
        """Return what the diagnostics warn of although the node works, empty if nothing."""
        return ''

    def fault(self) -> str:
        """Return why the results are wrong although there are some, empty if they are not."""
        return ''

    def waiting(self) -> str:
        """Return what the node lacks to make results, and the cure; empty if it lacks nothing."""
        return ''

    def turns(self) -> Turns | None:
        """Return the turns that the process's workers share, None if this worker needs none."""
        return None

    def explain_silence(self) -> str:
        """Return why no frames arrive, and what to do; empty if it is too early to say."""
        return 'no image arrives'
