"""A plan builder that sleeps instead of building, in this process or a separate one."""

from pathlib import Path
import sys
import time
from typing import Any

from mnv2_perception.engines.build import build_plan, Options, Progress
from mnv2_perception.engines.plans import PlanKey

PLAN = b'a plan ' * 1000


class SlowBuilder:
    """Needs a given time for a plan, and logs each build before it starts."""

    def __init__(
        self, log: Path, seconds: float = 0.0, tensorrt: str = '10.3.0', plan: bytes = PLAN
    ) -> None:
        self.tensorrt, self.gpu = tensorrt, 'Test 8.7 (8 SMs)'
        self._log, self._seconds, self._plan = log, seconds, plan

    def build(self, proto: Any, key: PlanKey, progress: Progress) -> bytes:
        with self._log.open('a') as file:
            file.write(f'{key.precision}\n')
        time.sleep(self._seconds)
        return self._plan

    def loads(self, blob: bytes, dla: int | None) -> bool:
        return blob == self._plan


if __name__ == '__main__':  # model, folder, log, seconds
    model, folder, log = (Path(argument) for argument in sys.argv[1:4])
    plan = build_plan(model, Options(), folder, SlowBuilder(log, float(sys.argv[4])))
    print(folder / plan.key.file_name(model))
