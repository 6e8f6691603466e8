"""Hooks: what a subclass of PerceptionNode implements, and what it may override."""

from abc import abstractmethod

from mnv2_perception.nodes.worker import Frame, Turns


class Hooks:
    """What a node does besides what PerceptionNode does; see there which thread calls it.

    Attributes:
        rank: in the turns of its process's workers: the lowest goes first.
    """

    rank = 0

    @abstractmethod
    def acquire(self) -> None:
        """Open what the node needs and create its publishers."""

    @abstractmethod
    def release(self) -> None:
        """Give back, in reverse, what `acquire` opened; it may have failed half-way."""

    @abstractmethod
    def announce(self) -> None:
        """Publish what consumers must know before the first result."""

    def greet(self) -> None:
        """Serve subscribers or publishers that have appeared; called often while active."""

    @abstractmethod
    def subscribe(self) -> None:
        """Create the subscriptions."""

    @abstractmethod
    def work(self, frame: Frame) -> None:
        """Turn a frame into results and publish them, `rejecting` it where that fails.

        Each frame is to be counted once.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return facts for the diagnostics."""

    def warning(self) -> str:
        """Return what the diagnostics warn of although the node works, empty if nothing."""
        return ''

    def fault(self) -> str:
        """Return what makes the results wrong although there are some, empty if nothing does."""
        return ''

    def waiting(self) -> str:
        """Return what the node lacks to make results, and the cure, empty if it has all."""
        return ''

    def turns(self) -> Turns | None:
        """Return the turns that the workers of this process take, None if this one takes none."""
        return None

    def explain_silence(self) -> str:
        """Return why no frame may be arriving, and what to do; empty while it is too early."""
        return 'no image arrives'
