/** Small scenarios about waits, time, and errors. */
import assert from 'node:assert/strict';
import type { Scenario } from '../scenario.ts';

interface State {
  readonly cells: Int32Array;
  readonly log: string[];
}

const setup = (): State => ({ cells: new Int32Array(new SharedArrayBuffer(16)), log: [] });
const check = (): void => undefined;

function waitFor(timeout: number): (state: State, worker: number) => void {
  return ({ cells, log }, worker) => {
    const begin = performance.now();
    const result = Atomics.wait(cells, 0, 0, timeout);
    log.push(`${String(worker)} ${result} ${String(performance.now() - begin)}`);
  };
}

/** Both waits time out, the shorter one first, and no real time elapses. */
export const timeOuts: Scenario<State> = {
  setup,
  workers: [[waitFor(5000)], [waitFor(3000)]],
  check: ({ log }) => {
    assert.deepEqual(log, ['1 timed-out 3000', '0 timed-out 5000']);
  },
};

function wakeAll({ cells }: State): void {
  Atomics.notify(cells, 0);
}

/** The second notify may come too early. */
export const lostWakeUp: Scenario<State> = {
  setup,
  workers: [[waitFor(Infinity)], [wakeAll]],
  check,
};

/** A wait that is notified or finds the cell changed, in any order. */
export const handshake: Scenario<State> = {
  setup,
  workers: [
    [waitFor(1000)],
    [
      ({ cells }: State): void => {
        Atomics.store(cells, 0, 1);
        Atomics.notify(cells, 0);
      },
    ],
  ],
  check: ({ log }) => {
    assert.ok(['0 ok 0', '0 not-equal 0'].includes(log[0]!), log[0]);
  },
};

/** Waits for a notify that never comes. */
export const endless: Scenario<State> = {
  setup,
  workers: [
    [
      ({ cells }: State): void => {
        while (Atomics.load(cells, 0) === 0);
      },
    ],
  ],
  check,
};

function count({ cells }: State): void {
  cells[0]!++;
}

/** Two workers add to a counter with plain writes: between the read and the write the other one may write. */
export const plainCounter: Scenario<State> = {
  setup,
  workers: [0, 1].map(() => [count]),
  check: ({ cells }) => {
    assert.equal(cells[0], 2);
  },
};

/** Keeps the first cell at least as large as the second. */
function raise({ cells }: State): void {
  cells[0] = 1;
  cells[1] = 1;
}

function compare({ cells }: State): void {
  const first = cells[0]!;
  const second = cells[1]!;
  assert.ok(first >= second, 'torn');
}

/** Two plain reads with writes between them: observable only if reads are yield points. */
export const tornRead: Scenario<State> = { setup, workers: [[raise], [compare]], check };

/** Every outcome of three racing workers; a test compares searches by them. */
export const outcomes: Set<string> = new Set<string>();
function race(a: number, b: number): (state: State) => void {
  return ({ cells }: State): void => {
    cells[a] = cells[b]! * 3 + 1;
    Atomics.add(cells, b, 2);
    cells[b] = cells[a] + 1;
  };
}

export const races: Scenario<State> = {
  setup,
  workers: [[race(0, 1), race(1, 2)], [race(1, 0), race(2, 0)], [race(2, 1)]],
  check: ({ cells }) => {
    outcomes.add(Array.from(cells).join());
  },
};

/** The first worker is the reporter of the second's death. */
export const deaths: Scenario<State> = {
  setup,
  workers: [
    ['a', 'b'].map((name) => ({ cells, log }: State): void => {
      Atomics.store(cells, 0, 1);
      log.push(name);
    }),
    [
      ({ cells }: State): void => {
        Atomics.store(cells, 1, 1);
      },
    ],
  ],
  reporter: 0,
  onKilled: ({ log }, dead) => {
    log.push(`${String(dead)} dead`);
  },
  check: ({ log }) => {
    outcomes.add(log.join(' '));
  },
};
