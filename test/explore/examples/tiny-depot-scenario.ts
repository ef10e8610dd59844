/**
 * Workers that take blocks from one depot and give them back. At the end all blocks must be there, and none may have
 * two holders.
 */
import assert from 'node:assert/strict';
import type { Operation, Scenario } from '../scenario.ts';
import { TinyDepot } from './tiny-depot.ts';

const BLOCKS = 2;

/** The blocks that each worker took, for every outcome: a test compares searches by it. */
export const outcomes: Set<string> = new Set<string>();

interface State {
  readonly depots: readonly TinyDepot[];
  /** The blocks that each worker holds. */
  readonly held: readonly number[][];
  /** The blocks that each worker ever took. */
  readonly taken: readonly number[][];
}

const take: Operation<State> = ({ depots, held, taken }, worker) => {
  const block = depots[worker]!.take();
  taken[worker]!.push(block);
  if (block < 0) return;
  assert.equal(depots[worker]!.ownerOf(block), worker, `two workers hold block ${String(block)}`);
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
      assert.deepEqual(free, [0, 1], 'a block is missing at the end');
      for (const block of free) assert.equal(depots[0]!.ownerOf(block), -1);
    },
  };
}

export const twoWorkers: Scenario<State> = makeScenario(2, 1);
export const threeWorkers: Scenario<State> = makeScenario(3, 2);
