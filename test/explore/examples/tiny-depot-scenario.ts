/** Workers that take and give back blocks of one depot; all must be there at the end, and none in two hands. */
import assert from 'node:assert/strict';
import type { Operation, Scenario } from '../scenario.ts';
import { TinyDepot } from './tiny-depot.ts';

const BLOCKS = 2;

/** Who took what, in every way it came out: for the test to compare searches. */
export const outcomes: Set<string> = new Set<string>();

interface State {
  readonly depots: readonly TinyDepot[];
  /** What each worker holds. */
  readonly held: readonly number[][];
  /** What each worker ever took. */
  readonly taken: readonly number[][];
}

const take: Operation<State> = ({ depots, held, taken }, worker) => {
  const block = depots[worker]!.take();
  taken[worker]!.push(block);
  if (block < 0) return;
  assert.equal(depots[worker]!.ownerOf(block), worker, `block ${String(block)} is in two hands`);
  held[worker]!.push(block);
};

const give: Operation<State> = ({ depots, held }, worker) => {
  const block = held[worker]!.pop();
  if (block !== undefined) depots[worker]!.give(block);
};

function makeScenario(workers: number, pairs: number): Scenario<State> {
  return {
    setup: () => {
      const buffer = TinyDepot.create(BLOCKS);
      const all = Array.from({ length: workers + 1 }, (_, worker) => worker);
      return {
        depots: all.map((worker) => TinyDepot.attach(buffer, BLOCKS, worker)),
        held: all.map(() => []),
        taken: all.map(() => []),
      };
    },
    workers: Array.from({ length: workers }, () => Array.from({ length: pairs }, () => [take, give]).flat()),
    onKilled: ({ depots }, dead) => {
      depots[workers]!.recover(dead);
    },
    check: ({ depots, taken }) => {
      outcomes.add(taken.join(' | '));
      const free = depots[0]!.free();
      assert.deepEqual(free, [0, 1], 'not every block is there at the end');
      for (const block of free) assert.equal(depots[0]!.ownerOf(block), -1);
    },
  };
}

export const twoWorkers: Scenario<State> = makeScenario(2, 1);
export const threeWorkers: Scenario<State> = makeScenario(3, 2);
