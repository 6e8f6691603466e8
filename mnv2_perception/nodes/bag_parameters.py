"""Parameters of the bag nodes."""

from dataclasses import dataclass

from mnv2_perception.nodes.declare import parameter


@dataclass(frozen=True)
class BagPlayerParameters:
    """Parameters of bag_player_node; `mnv2 bag play` has options of the same names."""

    bag: str = parameter('', 'Bag folder, or a single .mcap or .db3 file.')
    rate: float = parameter(1.0, 'Bag seconds per second.', 0.001, 1000.0)
    loop: bool = parameter(False, 'Start again at the end; /clock then jumps back.')
    topics: tuple[str, ...] = parameter((), 'Topics to play; empty: all.')
    exclude: tuple[str, ...] = parameter((), 'Topics not to play.')
    remap: tuple[str, ...] = parameter((), 'Rules from:=to to publish under another name.')
    start_delay_s: float = parameter(
        0.5, 'How long /clock stands still at the first message, to give discovery time.',
        0.0, 3600.0,
    )
    wait_for_subscribers_s: float = parameter(
        0.0, 'Before that, wait at most this long until each topic has a subscriber.', 0.0, 3600.0
    )
    wait_for_topics: tuple[str, ...] = parameter(
        (), 'Wait for subscribers of these topics only; empty: of all topics played.'
    )
    clock_hz: float = parameter(
        100.0, '/clock messages per second, 0: none; a /clock in the bag is played instead.',
        0.0, 10000.0,
    )
    max_gap_s: float = parameter(
        60.0, 'A longer gap in the recording is reported and shortened to 1 s; 0: keep all gaps.',
        0.0, 1e9,
    )
    log: str = parameter('', 'CSV file to write: topic,stamp_ns,published_ns (monotonic).')
    foxglove: str = parameter(
        '', 'PORT or HOST:PORT where Foxglove can see the whole graph; empty: off.'
    )


@dataclass(frozen=True)
class BagRecorderParameters:
    """Parameters of bag_recorder_node; `mnv2 bag record` has options of the same names."""

    out: str = parameter('', "The new bag's folder.")
    topics: tuple[str, ...] = parameter((), 'Topics to record.')
    storage: str = parameter('mcap', 'File format of the bag.', choices=('mcap', 'sqlite3'))
    log: str = parameter('', 'CSV file to write: topic,stamp_ns,received_ns (monotonic).')
